"""The capture thread: opens the source, takes frames, passes new fields on through a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

from edge_agent.capture.errors import SourceEnded, SourceError, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.selection import Selection
from edge_agent.capture.source import FrameSource
from edge_agent.live_fields import LiveFields
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from fleet.contract.messages import Severity

READ_S = 0.5
HAND_OVER_S = 0.25
REOPEN_S = 3.0
ABSENT = "camera_absent"

log = structlog.get_logger()

Frames = queue.Queue[Frame | None]
"""Frames on their way to the recorder; None says that there will be no more."""


class Tickets:
    """How many frames may still be taken in a bounded run, so that none is taken that will not be stored.

    Args:
        count: None for an unbounded run.
    """

    def __init__(self, count: int | None) -> None:
        self._free = None if count is None else threading.Semaphore(max(0, count))

    def take(self, timeout_s: float) -> bool:
        """Before a frame is read; False when none became free."""
        return self._free is None or self._free.acquire(timeout=timeout_s)

    def give_back(self) -> None:
        """The frame was not stored: another one may take its place."""
        if self._free is not None:
            self._free.release()


class CaptureLoop:
    """See the module.

    Args:
        make_source: a fresh source that goes on where the store stands; asked again after each failure.
        frames: where they go; a full queue makes a replayed source wait and a live one lose the frame, counted.
        fields: which live frames show a field that was not counted yet.
        tickets: one is taken before each frame of a replayed source.
        enough: set by the recorder when the run is long enough.
        strict: a source that is not there ends the program instead of being waited for.
    """

    def __init__(
        self,
        make_source: Callable[[], FrameSource],
        frames: Frames,
        *,
        fields: LiveFields,
        tickets: Tickets,
        enough: threading.Event,
        strict: bool,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self._make_source = make_source
        self._frames = frames
        self._fields = fields
        self._tickets = tickets
        self._ticket = False
        self._enough = enough
        self._strict = strict
        self._metrics = metrics
        self._problems = problems
        self.source: FrameSource | None = None

    def run(self, stop: threading.Event) -> None:
        """Until the source ends, the run is long enough, or stop.

        Raises:
            SourceNotFound: in a strict run, or for files that do not come by themselves.
        """
        while not stop.is_set():
            self.source = self._make_source()
            try:
                with self.source:
                    self._problems.clear(ABSENT)
                    self._read(self.source, stop)
            except SourceNotFound as exc:
                if self._strict or not self.source.comes_by_itself:
                    raise
                log.error("source_not_found", error=str(exc))
                what = "camera" if self.source.live else "share or disk"
                self._problems.set(
                    Problem(ABSENT, str(exc), f"Connect the {what}; the agent looks for it again.", Severity.CRITICAL)
                )
                stop.wait(REOPEN_S)
                continue
            self._hand_over(None, stop)
            return

    def _read(self, source: FrameSource, stop: threading.Event) -> None:
        while not stop.is_set() and not self._enough.is_set():
            if not source.live and not self._ticket:
                self._ticket = self._tickets.take(READ_S)
                continue
            try:
                frame = source.read(READ_S)
            except (SourceTimeout, SourceLost):
                continue
            except SourceEnded as exc:
                log.info("source_ended", text=str(exc))
                return
            except SourceNotFound:
                raise
            except SourceError as exc:
                log.error("frame_not_read", error=str(exc))
                continue
            if not source.live:
                self._ticket = False
                self._hand_over(frame, stop)
            else:
                self._offer(frame)

    def _offer(self, frame: Frame) -> None:
        selection = self._fields.offer(frame)
        if selection is not Selection.NEW_FIELD:
            self._metrics.frames_skipped.labels(selection.value).inc()
            return
        try:
            self._frames.put_nowait(frame)
        except queue.Full:
            # It is offered again with the next frame of this place: nothing is lost while the stage stays.
            self._fields.not_taken(frame)
            self._metrics.frames_skipped.labels("busy").inc()

    def _hand_over(self, frame: Frame | None, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._frames.put(frame, timeout=HAND_OVER_S)
                return
            except queue.Full:
                if self._enough.is_set():
                    return
