"""Whether a release that is wanted may be fetched. Pure.

1. its counter is not below the floor;
2. it is not barred by what has happened with it before;
3. a signed list is known that names it and has not expired;
4. this program knows bundles of its schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from edge_agent.moment import Moment
from edge_agent.update.record import Key, UpdateRecord, barred_by
from fleet.contract.base import ClockQuality
from fleet.contract.release import ReleaseTarget, UpdateCode
from models.bundle.manifest import SCHEMA


@dataclass(frozen=True, slots=True)
class SignedList:
    """The releases of the last trust message; see `traffic.TrustTaken`."""

    releases: Mapping[Key, ReleaseTarget]
    metadata: str
    expires: datetime | None
    chunks: frozenset[str]

    def expired(self, now: Moment) -> bool:
        """Whether nothing of it may be installed any more. A clock that was never set cannot tell."""
        return self.expires is not None and now.quality is not ClockQuality.UNSYNCED and now.utc >= self.expires


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not.

    Attributes:
        passing: a fresh list may change it: worth a short wait.
        barred: it has failed here before.
    """

    code: UpdateCode
    text: str
    passing: bool = False
    barred: bool = False


def judge_offer(record: UpdateRecord, key: Key, signed: SignedList | None, now: Moment) -> ReleaseTarget | Refusal:
    """The release, or why it may not be fetched; the checks above in their order."""
    if key[1] < record.floor:
        return Refusal(UpdateCode.ROLLBACK, f"counter {key[1]} is below {record.floor}")
    code = barred_by(record, key, metadata="" if signed is None else signed.metadata)
    if code is not None:
        return Refusal(code, "this release has failed here before", barred=True)
    release = None if signed is None else signed.releases.get(key)
    if signed is None or release is None:
        return Refusal(UpdateCode.STALE, "no signed list names this release", passing=True)
    if signed.expired(now):
        return Refusal(UpdateCode.STALE, "the signed list has expired", passing=True)
    if release.bundle_schema != SCHEMA:
        return Refusal(UpdateCode.INCOMPATIBLE, f"this program does not know bundles of {release.bundle_schema}")
    return release
