"""How many pictures may leave in an hour and in a day, across restarts. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

HOUR_S = 3600.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A picture that an earlier run chose.

    Attributes:
        audit: whether it was sent from the audit stream's part.
        captured_at: UTC by the workstation's clock of that time, which may have been wrong.
        last_run: whether the run that chose it is the last one that took a field.
    """

    audit: bool
    captured_at: datetime
    last_run: bool


class Budget:
    """Pictures of one stream within any hour and any day of the monotonic clock.

    Args:
        per_hour, per_day: at most.
        spent_s: monotonic times of those that left already.
    """

    def __init__(self, *, per_hour: int, per_day: int, spent_s: Iterable[float] = ()) -> None:
        self.per_hour = per_hour
        self.per_day = per_day
        self._spent_s: deque[float] = deque(sorted(spent_s))

    def spent(self, now_s: float) -> tuple[int, int]:
        """How many left within the hour and the day before now."""
        while self._spent_s and self._spent_s[0] <= now_s - DAY_S:
            self._spent_s.popleft()
        within_hour = len(self._spent_s) - bisect_right(self._spent_s, now_s - HOUR_S)
        return within_hour, len(self._spent_s)

    def has_room(self, now_s: float) -> bool:
        """Whether one more may leave now."""
        hour, day = self.spent(now_s)
        return hour < self.per_hour and day < self.per_day

    def fullness_ratio(self, now_s: float) -> float:
        """The larger of the two shares that are spent, 0..1."""
        hour, day = self.spent(now_s)
        return max(_ratio(hour, self.per_hour), _ratio(day, self.per_day))

    def spend(self, now_s: float) -> None:
        """One has left."""
        self._spent_s.append(now_s)


def spent_before(
    sent: Iterable[SentPicture], *, now: datetime, now_s: float, clock_set: bool, earliest: datetime
) -> list[float]:
    """Monotonic times of what earlier runs sent, so that a restart is no way round the budget.

    The age of a picture is known by the wall clock alone. Where that cannot be believed (never set, then or now; moved
    back since), a picture of the last run counts as sent this moment, and one of an earlier run not any more: else what
    was taken while the clock stood years ahead would count at every start, and a workstation that is switched off each
    night would never send again.

    Args:
        sent: the newest ones, as many as a day allows.
        now, now_s: this moment, UTC and monotonic.
        clock_set: whether `now` can be believed.
        earliest: a time before which no picture can have been taken.
    """
    found = []
    for picture in sent:
        age_s = (now - picture.captured_at).total_seconds()
        believed = clock_set and age_s >= 0 and picture.captured_at >= earliest
        if believed or picture.last_run:
            found.append(now_s - (age_s if believed else 0.0))
    return [at_s for at_s in found if at_s > now_s - DAY_S]


def _ratio(spent: int, limit: int) -> float:
    return 1.0 if spent >= limit else spent / limit
