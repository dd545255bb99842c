"""How much work is let in. Shed early: what would wait too long is told so at once."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.config import OpinionSettings
from cloud.errors import Busy
from cloud.metrics import Metrics

_SMOOTHING = 0.2
_FIRST_GUESS_S = 1.0


class Admission:
    """Counts what runs and waits; refuses beyond the limits.

    Not for several event loops. `Retry-After` is the time in which the queue is likely to have been worked off.
    """

    def __init__(self, settings: OpinionSettings, metrics: Metrics) -> None:
        self._parallel = settings.parallel
        self._limit = settings.parallel + settings.queue_limit
        self._per_device = settings.per_device_limit
        self._running = asyncio.Semaphore(settings.parallel)
        self._inside = 0
        self._devices: Counter[str] = Counter()
        self._mean_s = _FIRST_GUESS_S
        self._metrics = metrics

    @asynccontextmanager
    async def place(self, device: str) -> AsyncIterator[None]:
        """A place in the queue of one device; Busy (429, 503) when there is none."""
        if self._devices[device] >= self._per_device:
            self._metrics.opinions_shed.labels("device").inc()
            raise Busy(
                f"{device} has {self._per_device} requests open already", retry_after_s=self.retry_after_s, status=429
            )
        if self._inside >= self._limit:
            self._metrics.opinions_shed.labels("service").inc()
            raise Busy("all places for second opinions are taken", retry_after_s=self.retry_after_s)
        self._inside += 1
        self._devices[device] += 1
        self._metrics.opinions_waiting.set(self._inside)
        try:
            yield
        finally:
            self._inside -= 1
            self._devices[device] -= 1
            if not self._devices[device]:
                del self._devices[device]
            self._metrics.opinions_waiting.set(self._inside)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of the places to compute; waits inside `place`."""
        async with self._running:
            yield

    def took(self, seconds: float) -> None:
        """Learns how long an answer takes."""
        self._mean_s += _SMOOTHING * (seconds - self._mean_s)
        self._metrics.opinion_seconds.observe(seconds)

    @property
    def retry_after_s(self) -> int:
        """Whole seconds in which the work let in is likely to be done, 1 to 60."""
        return max(1, min(60, math.ceil(self._mean_s * self._inside / self._parallel)))
