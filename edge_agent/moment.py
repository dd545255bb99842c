"""A moment: what passive code is told of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fleet.contract.base import ClockQuality


@dataclass(frozen=True, slots=True)
class Moment:
    """Now.

    Attributes:
        monotonic_s: for durations and deadlines.
        utc: for people and the wire.
        quality: how far `utc` can be trusted.
    """

    monotonic_s: float
    utc: datetime
    quality: ClockQuality = ClockQuality.OK
