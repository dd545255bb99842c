"""One delivery: what is missing, when it is asked for again, when it has become too slow. Pure; times are monotonic."""

from __future__ import annotations

from collections.abc import Iterable

from edge_agent.update.settings import UpdateSettings

MAX_ASKED = 3000
"""Chunks named in one question: keeps it below the largest message."""

ASKED_IN_VAIN = 3
"""Questions to which nothing but unsigned chunks came; a burst of them between two questions says nothing."""


class Delivery:
    """Of the candidate. Time while nothing can be delivered (no link, no room) does not count.

    Attributes:
        missing: chunks that are not here; None until it is known.
        assembling: all are here and being put together.
    """

    def __init__(self, settings: UpdateSettings) -> None:
        self._settings = settings
        self._false = 0
        self._unsigned = 0
        self._asked = 0
        self._spent_s = 0.0
        self._since_s: float | None = None
        self._need_s = 0.0
        self._pause_s = settings.need_first_s
        self.progress_s = 0.0
        self.missing: set[str] | None = None
        self.assembling = False

    def go_on(self, now_s: float) -> None:
        """It begins, or begins again after a pause."""
        self.missing, self.assembling = None, False
        self.progress_s = self._since_s = now_s
        self._pause_s = self._settings.need_first_s

    def pause(self, now_s: float) -> None:
        """It stops for now; doing so again changes nothing."""
        if self._since_s is not None:
            self._spent_s += now_s - self._since_s
            self._since_s = None

    def known(self, missing: Iterable[str], now_s: float) -> None:
        """What is missing; also in the middle of putting together, when a chunk has turned out to be damaged."""
        self.missing, self.assembling = set(missing), False
        self.progress_s = now_s

    def arrived(self, sha256: str, now_s: float) -> bool:
        """A chunk is here; whether it was one that was missing. While they come the question is not repeated."""
        if self.missing is None or sha256 not in self.missing:
            return False
        self.missing.discard(sha256)
        self._unsigned = self._asked = 0
        self.progress_s = now_s
        self._pause_s = self._settings.need_first_s
        self._need_s = now_s + self._pause_s
        return True

    def false(self) -> int:
        """A chunk was not what its name says; how many so far."""
        self._false += 1
        return self._false

    def unsigned(self) -> int:
        """A chunk came that belongs to nothing signed; how many so far in the place of those that were asked for."""
        self._unsigned += 1
        return self._unsigned if self._asked >= ASKED_IN_VAIN else 0

    def ask(self, now_s: float) -> tuple[str, ...]:
        """What to ask for now; the next time is later by a growing pause."""
        self._asked += 1
        self._need_s = now_s + self._pause_s
        self._pause_s = min(self._pause_s * 2, self._settings.need_last_s)
        return tuple(sorted(self.missing or ())[:MAX_ASKED])

    def ask_due(self, now_s: float) -> bool:
        """Whether it is time to ask again."""
        return now_s >= self._need_s

    @property
    def waits(self) -> bool:
        """Whether chunks are waited for."""
        return self.missing is not None and not self.assembling

    def too_slow(self, now_s: float) -> str:
        """Why it is too slow, in words; empty while it is not."""
        settings = self._settings
        if now_s - self.progress_s > settings.chunk_timeout_s:
            return f"no chunk for {settings.chunk_timeout_s:.0f} s"
        spent_s = self._spent_s + (now_s - self._since_s if self._since_s is not None else 0.0)
        return f"not here after {spent_s:.0f} s" if spent_s > settings.download_deadline_s else ""
