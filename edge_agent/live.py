"""The newest of everything, for the console: set by the workers, read by anybody, never waiting for the store."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime

from edge_agent.capture.source import SourceStatus
from edge_agent.reading import Judged
from edge_agent.store.records import SlideTotals, Waiting
from models.runtime.results import ImageRGB


@dataclass(frozen=True, slots=True, eq=False)
class LatestField:
    """The field read last.

    Attributes:
        image: (H, W, 3) uint8 RGB, changed by nobody.
        latency_ms: from frame to stored result.
    """

    capture_id: str
    captured_at: datetime
    image: ImageRGB
    judged: Judged
    latency_ms: float
    um_per_px: float | None


@dataclass(frozen=True, slots=True)
class LinkView:
    """How a way to the cloud is: `state` of its machine, its text, when it last worked (UTC)."""

    state: str
    text: str
    last_contact_at: datetime | None = None


NOTHING_WAITS = Waiting(events=0, images=0, image_bytes=0)


@dataclass(frozen=True, slots=True)
class Now:
    """Everything at one moment; None where nothing is known yet or nothing is configured.

    `field_at_s` is the monotonic time at which the field was stored.
    """

    field: LatestField | None = None
    field_at_s: float | None = None
    slide: SlideTotals | None = None
    camera: SourceStatus | None = None
    camera_kind: str = ""
    waiting: Waiting = NOTHING_WAITS
    broker: LinkView | None = None
    cloud: LinkView | None = None
    free_bytes: int | None = None
    clock: str = "ok"
    finished: bool = False


class LiveState:
    """One holder for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Now()

    def get(self) -> Now:
        """The newest of everything, immutable."""
        with self._lock:
            return self._now

    def put(self, **parts: object) -> None:
        """Replaces parts of `Now` by name."""
        with self._lock:
            self._now = replace(self._now, **parts)  # type: ignore[arg-type]
