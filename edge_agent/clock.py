"""The workstation's clocks, and how far they can be trusted. Passive code gets a `Moment`, never a `Clock`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from edge_agent.moment import Moment
from fleet.contract.base import ClockQuality

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)
"""A clock that says less has never been set: this program did not exist then."""
STEP_S = 5.0
"""Wall clock and monotonic clock apart by more since the last look: somebody moved the wall clock."""


class Clock:
    """The workstation's two clocks, compared at each look. Once stepped, stays so until the program starts anew."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._monotonic = monotonic
        self._utc = utc
        self._last: tuple[float, datetime] | None = None
        self._stepped = False

    def now(self) -> Moment:
        """One look at both."""
        monotonic_s, utc = self._monotonic(), self._utc()
        if self._last is not None:
            drift_s = (utc - self._last[1]).total_seconds() - (monotonic_s - self._last[0])
            self._stepped = self._stepped or abs(drift_s) > STEP_S
        self._last = (monotonic_s, utc)
        quality = ClockQuality.STEPPED if self._stepped else ClockQuality.OK
        return Moment(monotonic_s, utc, ClockQuality.UNSYNCED if utc < EARLIEST else quality)
