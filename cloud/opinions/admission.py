"""How much work is let in. Shed early: what would wait too long is told so at once."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cloud.config import OpinionSettings
from cloud.errors import Busy
from cloud.metrics import Metrics

UPLOADS_A_PLACE = 2
"""Requests of one device that may be open for each of its places, since what it sends twice at once takes none."""

UPLOADS_IN_ALL = 4
"""Requests that may be open for each place in the queue: they hold memory and disk, a place holds the model."""

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
        self._uploads: Counter[str] = Counter()
        self._mean_s = _FIRST_GUESS_S
        self._metrics = metrics

    @contextmanager
    def upload(self, asker: str) -> Iterator[None]:
        """Leave for one principal to send a body, before it is read; Busy (429, 503) when too many are open."""
        if self._uploads[asker] >= UPLOADS_A_PLACE * self._per_device:
            self._metrics.opinions_shed.labels("device").inc()
            raise Busy(
                f"this token has {self._uploads[asker]} uploads open already",
                retry_after_s=self.retry_after_s,
                status=429,
            )
        if self._uploads.total() >= UPLOADS_IN_ALL * self._limit:
            self._metrics.opinions_shed.labels("service").inc()
            raise Busy("too many uploads are open", retry_after_s=self.retry_after_s)
        self._uploads[asker] += 1
        try:
            yield
        finally:
            self._uploads[asker] -= 1
            if not self._uploads[asker]:
                del self._uploads[asker]

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
