"""What an evaluation says of a bundle: the document beside a release, named in it by its hash.

It holds the figures of both models and the limits they were judged by, and whoever takes it judges them again. What
it is held against is in numbered order:

1. it can be read, and is about this bundle;
2. it rests on a frozen set that is pinned, and holds the figures of both models on each slice of it;
3. it was judged by no laxer limits than those that ship with the program;
4. `accepted` is what its own figures give;
5. and it was accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, ValidationError

from fleet.contract.base import Digest, JsonObject, Sha256, WireModel
from fleet.contract.codec import WireError, decode
from fleet.contract.release import EvidenceRef
from fleet.release.errors import EvidenceRefused
from fleet.release.gate import Figures, GatePlan, judge, laxer, missing_of, unlike
from fleet.release.pinned import Pinned, pinned

MAX_EVIDENCE_BYTES = 256 * 1024
EVIDENCE_SCHEMA: Literal["ahs.evidence/2"] = "ahs.evidence/2"
OLD_SCHEMA = "ahs.evidence/1"
"""Without the limits, and with a frozen set that was named by one embedder's file: it cannot be judged again."""

SHOWN_REASONS = 5


class EvidenceFigures(WireModel):
    """Slice -> figures, of both models."""

    champion: dict[str, Figures]
    candidate: dict[str, Figures]


class Evidence(WireModel):
    """`evidence.json`, written when a bundle was compared with the model in use on the frozen set."""

    schema_: Literal["ahs.evidence/2"] = Field(EVIDENCE_SCHEMA, alias="schema")
    candidate: Digest = Field(description="the bundle that was evaluated")
    champion: Digest = Field(description="the model it was compared with")
    frozen_set: Sha256 = Field(description="hash of the frozen set's cells")
    accepted: bool = Field(strict=True)
    reasons: tuple[str, ...] = Field((), description="why not, when it was not accepted")
    plan: GatePlan = Field(description="limits it was judged by")
    figures: EvidenceFigures


def read_evidence(data: bytes) -> Evidence:
    """Reads an evidence document.

    Raises:
        EvidenceRefused: it cannot be read.
    """
    try:
        return decode(Evidence, data, limit_bytes=MAX_EVIDENCE_BYTES)
    except WireError as exc:
        if _is_old(data):
            raise EvidenceRefused(
                f"the evidence is of the form {OLD_SCHEMA}, which cannot be judged again; evaluate the bundle anew"
            ) from exc
        raise EvidenceRefused(f"the evidence cannot be read ({exc}); give the evidence.json of the evaluation") from exc


def reference(data: bytes, digest: str, known: Pinned | None = None) -> EvidenceRef:
    """What a release's description says of its evidence.

    Args:
        data: the document's bytes, which the cloud keeps as they are.
        digest: of the bundle that is released.
        known: limits and frozen sets; None for those that ship.

    Raises:
        EvidenceRefused: which check does not hold.
    """
    evidence = read_evidence(data)  # 1
    if evidence.candidate != digest:
        raise EvidenceRefused(
            f"the evidence is about {evidence.candidate}, not about this bundle {digest}; evaluate it"
        )
    limits = known or pinned()
    _check_frozen_set(evidence, limits)  # 2
    if wider := laxer(evidence.plan, limits.plan):  # 3
        raise EvidenceRefused(
            f"the evaluation allowed more than releases may: {_some(wider)}; evaluate it by the limits that ship"
        )
    _check_verdict(evidence)  # 4, 5
    return EvidenceRef(
        sha256=hashlib.sha256(data).hexdigest(),
        champion=evidence.champion,
        frozen_set=evidence.frozen_set,
        accepted=True,
    )


def check_evidence(release_evidence: EvidenceRef | None, digest: str, data: bytes | None) -> JsonObject | None:
    """Whether an evidence document is the one that a signed description names; its content, whole.

    Raises:
        EvidenceRefused: one without the other, another document, or one that `reference` refuses.
    """
    if release_evidence is None and data is None:
        return None
    if release_evidence is None or data is None:
        raise EvidenceRefused("the signed release and the evidence sent with it do not belong together; send both")
    if reference(data, digest) != release_evidence:
        raise EvidenceRefused("the evidence is not the document that was signed; send the one of this release")
    whole: JsonObject = json.loads(data)
    return whole


def check_champion(document: JsonObject, earlier: Iterable[JsonObject]) -> None:
    """Whether evidence says of the current model what that model's own evidence says of it, on the same frozen set.

    Evidence of the champion that cannot be read any more, or rests on another set, says nothing about this one.

    Args:
        document: an evidence document that `check_evidence` has accepted.
        earlier: the stored evidence of the champion's releases.

    Raises:
        EvidenceRefused: where the figures differ by more than measuring again explains (see `unlike`).
    """
    evidence = Evidence.model_validate(document)
    for each in earlier:
        try:
            known = Evidence.model_validate(each)
        except ValidationError:
            continue
        if (known.candidate, known.frozen_set) != (evidence.champion, evidence.frozen_set):
            continue
        if other := unlike(evidence.figures.champion, known.figures.candidate):
            raise EvidenceRefused(
                f"the evidence says other things of the current model than its own evidence did: {_some(other)}; "
                "evaluate the bundle against the model as it was released"
            )


def _check_frozen_set(evidence: Evidence, limits: Pinned) -> None:
    frozen = limits.frozen_set(evidence.frozen_set)
    if frozen is None:
        raise EvidenceRefused(
            f"the evidence rests on the frozen set {evidence.frozen_set}, which is none of those that count; "
            "evaluate the bundle on the set that ships"
        )
    sides: Mapping[str, dict[str, Figures]] = {
        "current model": evidence.figures.champion,
        "candidate": evidence.figures.candidate,
    }
    for side, figures in sides.items():
        if lacking := missing_of(frozen, figures):
            raise EvidenceRefused(
                f"the evidence holds no figures of the {side} on that frozen set: {_some(lacking)}; give the "
                "evidence.json that the evaluation wrote"
            )


def _check_verdict(evidence: Evidence) -> None:
    verdict = judge(evidence.figures.champion, evidence.figures.candidate, evidence.plan)
    if evidence.accepted != verdict.accepted:
        words = (
            f"it should not have been: {_some(verdict.reasons)}" if evidence.accepted else "nothing speaks against it"
        )
        said = "accepted" if evidence.accepted else "not accepted"
        raise EvidenceRefused(
            f"the evidence says {said}, and by its own figures {words}; give the evidence.json that the evaluation "
            "wrote, unchanged"
        )
    if not verdict.accepted:
        raise EvidenceRefused(f"the evaluation did not accept this bundle: {_some(verdict.reasons)}")


def _is_old(data: bytes) -> bool:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == OLD_SCHEMA


def _some(reasons: list[str] | tuple[str, ...]) -> str:
    more = len(reasons) - SHOWN_REASONS
    return "; ".join(reasons[:SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")
