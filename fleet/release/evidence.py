"""What an evaluation says of a bundle: the document beside a release, named in it by its hash."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from fleet.contract.base import Digest, JsonObject, Sha256, WireModel
from fleet.contract.codec import WireError, decode
from fleet.contract.release import EvidenceRef
from fleet.release.errors import EvidenceRefused

MAX_EVIDENCE_BYTES = 256 * 1024


class Evidence(WireModel):
    """`evidence.json`, written when a bundle was compared with the model in use on the frozen set."""

    schema_: Literal["ahs.evidence/1"] = Field("ahs.evidence/1", alias="schema")
    candidate: Digest = Field(description="the bundle that was evaluated")
    champion: Digest = Field(description="the model it was compared with")
    frozen_set: Sha256 = Field(description="hash of the frozen evaluation set")
    accepted: bool = Field(strict=True)
    reasons: tuple[str, ...] = Field((), description="why not, when it was not accepted")
    figures: JsonObject = Field(default_factory=dict)


def read_evidence(data: bytes) -> Evidence:
    """Reads an evidence document.

    Raises:
        EvidenceRefused: it cannot be read.
    """
    try:
        return decode(Evidence, data, limit_bytes=MAX_EVIDENCE_BYTES)
    except WireError as exc:
        raise EvidenceRefused(f"the evidence cannot be read ({exc}); give the evidence.json of the evaluation") from exc


def reference(data: bytes, digest: str) -> EvidenceRef:
    """What a release's description says of its evidence.

    Args:
        data: the document's bytes, which the cloud keeps as they are.
        digest: of the bundle that is released.

    Raises:
        EvidenceRefused: unreadable, about another bundle, or the bundle was not accepted.
    """
    evidence = read_evidence(data)
    if evidence.candidate != digest:
        raise EvidenceRefused(
            f"the evidence is about {evidence.candidate}, not about this bundle {digest}; evaluate it"
        )
    if not evidence.figures:
        raise EvidenceRefused("the evidence holds no figures; give the evidence.json that the evaluation wrote")
    if not evidence.accepted:
        reasons = "; ".join(evidence.reasons) or "no reason given"
        raise EvidenceRefused(f"the evaluation did not accept this bundle: {reasons}")
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
