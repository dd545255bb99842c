"""What is due: documents to sign again, and which chunks to publish for whom. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fleet.contract.release import ReleaseTarget, Trust

ROLES = ("root", "targets", "snapshot", "timestamp")
ONLINE_ROLES = ("snapshot", "timestamp")
"""Signed here, with the online key; the others by an operator with keys that never come here."""


@dataclass(frozen=True, slots=True)
class Document:
    """A TUF document as it was signed, with what the tables need to know of it."""

    role: str
    version: int
    expires_at: datetime
    text: str


def documents(trust: Trust) -> list[Document]:
    """All documents of a trust, roots first; ValueError for one that is none (the sender's fault)."""
    texts = [("root", text) for text in trust.roots]
    texts += [("targets", trust.targets), ("snapshot", trust.snapshot), ("timestamp", trust.timestamp)]
    return [_document(role, text) for role, text in texts]


def _document(role: str, text: str) -> Document:
    try:
        signed = json.loads(text)["signed"]
        version, expires = signed["version"], signed["expires"]
        moment = datetime.fromisoformat(expires)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ValueError(f"the document {role} is no TUF metadata") from exc
    if signed.get("_type") != role or not isinstance(version, int) or not 1 <= version < 2**53 or moment.tzinfo is None:
        raise ValueError(f"the document {role} is no TUF metadata of this role")
    return Document(role, version, moment, text)


def archive_hashes(trust: Trust) -> dict[str, str]:
    """Name of each TUF target -> SHA-256 of its archive; for a trust that was checked."""
    targets: dict[str, dict[str, dict[str, str]]] = json.loads(trust.targets)["signed"]["targets"]
    return {path: target["hashes"]["sha256"] for path, target in targets.items()}


def is_due(expires_at: datetime, *, life: timedelta, now: datetime) -> bool:
    """Whether a document is to be signed again: half of its life is over."""
    return expires_at - now < life / 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk's bytes are: part of an archive in the image store."""

    archive_sha256: str
    start_byte: int
    size_bytes: int


Places = Mapping[str, Place]
"""SHA-256 of a chunk -> where it is."""


def places_of(target: ReleaseTarget, archive_sha256: str) -> dict[str, Place]:
    """Where each chunk of a release lies; of the same chunk twice the first."""
    found: dict[str, Place] = {}
    start_byte = 0
    for chunk in target.chunks:
        found.setdefault(chunk.sha256, Place(archive_sha256, start_byte, chunk.size_bytes))
        start_byte += chunk.size_bytes
    return found


@dataclass(frozen=True, slots=True)
class Want:
    """What a device lacks of a release.

    Attributes:
        asked_at: tells this want from a later one of the same device.
        seen_s: when the publisher first saw it, by the publisher's monotonic clock.
    """

    device: str
    digest: str
    missing: tuple[str, ...]
    asked_at: datetime
    seen_s: float


@dataclass(frozen=True, slots=True)
class Sent:
    """When a chunk was published last, and for whom."""

    at_s: float
    device: str


@dataclass(frozen=True, slots=True)
class Due:
    """A chunk to publish now."""

    sha256: str
    place: Place
    device: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about the open wants.

    Attributes:
        chunks: to publish, each once, for those who have waited longest first.
        served: wants that need nothing more.
    """

    chunks: tuple[Due, ...]
    served: tuple[Want, ...]


def plan(wants: Sequence[Want], places: Mapping[str, Places], sent: Mapping[str, Sent], *, repeat_s: float) -> Plan:
    """The union of what is wanted, less what its askers have had or are about to have.

    A device asks after it has subscribed. So what was published after its want was seen has reached it, as far as
    this goes: who has lost a chunk asks again. What was published up to `repeat_s` before is not repeated either: the
    want may have been under way meanwhile. Hashes that no release has are nobody's.

    Args:
        places: digest of a release -> its chunks; a release that is not there has none.
        sent: SHA-256 of a chunk -> its last publication.
    """
    due: dict[str, Due] = {}
    served: list[Want] = []
    for want in sorted(wants, key=lambda w: (w.seen_s, w.device)):
        known = places.get(want.digest, {})
        lacking = [
            sha256 for sha256 in want.missing if sha256 in known and not _has(sent.get(sha256), want.seen_s, repeat_s)
        ]
        for sha256 in lacking:
            due.setdefault(sha256, Due(sha256, known[sha256], want.device))
        if not lacking:
            served.append(want)
    return Plan(tuple(due.values()), tuple(served))


def _has(sent: Sent | None, seen_s: float, repeat_s: float) -> bool:
    return sent is not None and sent.at_s + repeat_s > seen_s


def is_shared(want: Want, places: Places, sent: Mapping[str, Sent]) -> bool:
    """Whether a chunk that this want asked for was published for another device."""
    return any(sent[sha256].device != want.device for sha256 in want.missing if sha256 in sent and sha256 in places)
