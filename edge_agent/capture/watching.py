"""Which files of a watched folder are complete. Pure.

A vendor's program may write slowly, reserve the whole size first, write under another name and rename, or hold a lock.
So a file is tried when it has not changed for a while; one that cannot be read then waits and is tried again, and only
one that stays unreadable without changing is given up. When it changes after that, it is a new chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Trouble(StrEnum):
    """Why a file that looked complete could not be taken."""

    INCOMPLETE = "incomplete"
    """It is no whole picture (yet)."""
    LOCKED = "locked"
    """It cannot be opened (yet)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, seconds.

    Attributes:
        settle_s: unchanged for so long, a file is tried.
        incomplete_s: unchanged for so long, a file that is no picture is given up.
        locked_s: the same for a file that cannot be opened.
    """

    settle_s: float
    incomplete_s: float
    locked_s: float

    def limit_s(self, trouble: Trouble) -> float:
        """How long a file in this trouble is waited for."""
        return self.locked_s if trouble is Trouble.LOCKED else self.incomplete_s


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file is written to."""

    size_bytes: int
    modified_ns: int


@dataclass(slots=True)
class _Sighting:
    stamp: Stamp
    since_s: float
    again_s: float


class Watcher:
    """Remembers what was seen of each file. Times are those of the monotonic clock.

    Args:
        patience: how long to wait.
        done: names that are never to be taken.
    """

    def __init__(self, patience: Patience, done: Iterable[str] = ()) -> None:
        self._patience = patience
        self._done = set(done)
        self._seen: dict[str, _Sighting] = {}
        self._given_up: dict[str, Stamp] = {}

    def is_done(self, name: str) -> bool:
        """Whether a file was taken, so that nobody needs to look at it."""
        return name in self._done

    @property
    def waiting(self) -> int:
        """Files that were seen and are not complete."""
        return len(self._seen)

    def look(self, found: Mapping[str, Stamp], now_s: float) -> list[str]:
        """Files to be tried now, the one that was changed first in front."""
        seen: dict[str, _Sighting] = {}
        for name, stamp in found.items():
            if name in self._done or self._given_up.get(name) == stamp:
                continue
            self._given_up.pop(name, None)
            known = self._seen.get(name)
            if known is None or known.stamp != stamp:
                known = _Sighting(stamp, now_s, now_s + self._patience.settle_s)
            seen[name] = known
        self._seen = seen
        # An empty file is one whose writer has not begun.
        ready = [name for name, known in seen.items() if known.stamp.size_bytes > 0 and now_s >= known.again_s]
        return sorted(ready, key=lambda name: (seen[name].stamp.modified_ns, name))

    def taken(self, name: str) -> None:
        """It was read, or is not wanted: never again."""
        self._seen.pop(name, None)
        self._done.add(name)

    def gone(self, name: str) -> None:
        """It is not there any more: renamed or moved away, which is no loss."""
        self._seen.pop(name, None)

    def failed(self, name: str, trouble: Trouble, now_s: float) -> bool:
        """It could not be taken. True when it is given up as it stands, False when it is tried again later."""
        known = self._seen.get(name)
        if known is None:
            return False
        if now_s - known.since_s < self._patience.limit_s(trouble):
            known.again_s = now_s + max(self._patience.settle_s, 0.1 * (now_s - known.since_s))
            return False
        self._given_up[name] = known.stamp
        del self._seen[name]
        return True
