"""Which files of a watched folder are complete. Pure.

A vendor's program may write slowly, reserve the whole size first, write under another name and rename, or hold a lock.
So a file is tried when it has not changed for a while; one that cannot be read then waits and is tried again, and only
one that stays unreadable without changing is given up. When it changes after that, it is a new chance.

A program that begins a folder anew begins its numbers anew, so a name that was taken is not done for good: its stamp is
looked at again when the name comes back after it was gone, and now and then while it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

LOOKED_AT_AGAIN = 200
"""Files that were taken and are looked at again with each listing, in turn: each look costs a question to the share."""


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


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that was read, or that is not wanted as it stands.

    Attributes:
        stamp: as it was then.
        content: what tells its picture from others; None where that is not known.
    """

    stamp: Stamp
    content: str | None = None


@dataclass(slots=True)
class _Sighting:
    stamp: Stamp
    since_s: float
    again_s: float


class Watcher:
    """Remembers what was seen of each file. Times are those of the monotonic clock.

    Args:
        patience: how long to wait.
        done: names that are never to be taken, whatever becomes of them.
    """

    def __init__(self, patience: Patience, done: Iterable[str] = ()) -> None:
        self._patience = patience
        self._never = frozenset(done)
        self._done: dict[str, Taken] = {}
        self._before: dict[str, Taken] = {}
        self._absent: set[str] = set()
        self._turn = 0
        self._seen: dict[str, _Sighting] = {}
        self._given_up: dict[str, Stamp] = {}

    def knows(self, name: str) -> bool:
        """Whether a file of this name was taken, as it stands now or as it was before."""
        return name in self._never or name in self._done or name in self._before

    def before(self, name: str) -> Taken | None:
        """What was taken under the name of a file that is another one by now."""
        return self._before.get(name)

    def to_look_at(self, names: Collection[str]) -> set[str]:
        """Of all names in the folder those whose stamps are needed."""
        here = set(names)
        taken = list(self._done)
        in_turn = taken[self._turn : self._turn + LOOKED_AT_AGAIN]
        self._turn = self._turn + LOOKED_AT_AGAIN if in_turn else 0
        back = self._absent & here
        self._absent = self._done.keys() - here
        return (here - self._done.keys() - self._never) | back | (here & set(in_turn))

    @property
    def waiting(self) -> int:
        """Files that were seen and are not complete."""
        return len(self._seen)

    def look(self, found: Mapping[str, Stamp], now_s: float) -> list[str]:
        """Files to be tried now, the one that was changed first in front."""
        seen: dict[str, _Sighting] = {}
        for name, stamp in found.items():
            if name in self._never or self._given_up.get(name) == stamp:
                continue
            taken = self._done.get(name)
            if taken is not None and taken.stamp == stamp:
                continue
            if taken is not None:
                self._before[name] = self._done.pop(name)
            self._given_up.pop(name, None)
            known = self._seen.get(name)
            if known is None or known.stamp != stamp:
                known = _Sighting(stamp, now_s, now_s + self._patience.settle_s)
            seen[name] = known
        self._seen = seen
        # An empty file is one whose writer has not begun.
        ready = [name for name, known in seen.items() if known.stamp.size_bytes > 0 and now_s >= known.again_s]
        return sorted(ready, key=lambda name: (seen[name].stamp.modified_ns, name))

    def stamp_of(self, name: str) -> Stamp:
        """Of a file that is to be tried."""
        return self._seen[name].stamp

    def taken(self, name: str, taken: Taken) -> None:
        """It was read, or is not wanted: not again as it stands."""
        self._seen.pop(name, None)
        self._before.pop(name, None)
        self._done[name] = taken

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
