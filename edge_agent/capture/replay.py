"""What folder, video and simulated microscope share: a place to go on from, pace, and drops that are counted."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import structlog

from edge_agent.capture.errors import SourceEnded, SourceLost, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DroppedFrame, DropReason, OnDrop, SourceState, SourceStatus
from edge_agent.capture.wording import status_text
from models.runtime.results import ImageRGB

log = structlog.get_logger(__name__)

FPS_WINDOW_FRAMES = 20


def short_hash(text: str) -> str:
    """Eight hexadecimal digits that tell sources of the same name apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class ReplayedSource(ABC):
    """Base of the sources in which each frame is a field and has the same reference in each run.

    Subclasses implement `_open`, `_close` and `_next`, which delivers through `_frame`.
    """

    live = False
    replayable = True

    @property
    def comes_by_itself(self) -> bool:
        """See `FrameSource.comes_by_itself`."""
        return False

    def __init__(self, settings: SourceSettings, *, label: str, prefix: str, on_drop: OnDrop | None = None) -> None:
        """Args:
        settings: pace and scale.
        label: what to call it in messages.
        prefix: beginning of each of its references, with the separator.
        on_drop: see `source.OnDrop`.
        """
        self._settings = settings
        self._label = label
        self._prefix = prefix
        self._on_drop = on_drop
        self._resume_ref: str | None = None
        self._skipped: set[str] = set()
        self._dropped: Counter[DropReason] = Counter()
        self._reconnects = 0
        self._frames = 0
        self._due_s = 0.0
        self._produced_s: list[float] = []
        # One tuple, replaced as a whole: status() is called from other threads.
        self._state: tuple[SourceState, str, float] = (SourceState.CLOSED, "", 0.0)

    def resume_after(self, source_ref: str | None) -> None:
        """See `FrameSource.resume_after`."""
        if source_ref is not None and not source_ref.startswith(self._prefix):
            raise ValueError(f"'{source_ref}' is no frame of {self._label}")
        self._resume_ref = source_ref

    def skip(self, source_refs: Collection[str]) -> None:
        """See `FrameSource.skip`; references of other sources are ignored."""
        self._skipped.update(ref for ref in source_refs if ref.startswith(self._prefix))

    def __enter__(self) -> Self:
        self._dropped.clear()
        self._frames, self._reconnects, self._due_s = 0, 0, 0.0
        self._produced_s = []
        self._open()
        self._set_state(SourceState.UP)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()
        self._set_state(SourceState.CLOSED)

    def read(self, timeout_s: float) -> Frame:
        """See `FrameSource.read`."""
        if self._state[0] is SourceState.CLOSED:
            raise SourceLost(status_text(SourceState.CLOSED, self._label))
        if self._state[0] is SourceState.ENDED:
            raise SourceEnded(self.status().text)
        deadline_s = time.monotonic() + timeout_s
        self._keep_pace(deadline_s)
        try:
            frame = self._next(deadline_s)
        except SourceEnded:
            self._set_state(SourceState.ENDED, self._end_detail())
            raise
        pace = self._settings.fields_per_s
        if pace is not None:
            now_s = time.monotonic()
            # Late frames are not made up for: a slow reader is followed, not chased.
            self._due_s = max(self._due_s, now_s - 1.0 / pace) + 1.0 / pace
        self._produced_s = [*self._produced_s[1 - FPS_WINDOW_FRAMES :], frame.captured_monotonic_s]
        return frame

    def status(self) -> SourceStatus:
        """See `FrameSource.status`."""
        state, detail, since_s = self._state
        return SourceStatus(
            state=state,
            text=status_text(state, self._label, detail),
            fps=self._fps(),
            dropped=dict(self._dropped),
            reconnects=self._reconnects,
            since_monotonic_s=since_s,
        )

    # ---- for subclasses

    @abstractmethod
    def _open(self) -> None:
        """Make ready to deliver."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of what `_open` took."""

    @abstractmethod
    def _next(self, deadline_s: float) -> Frame:
        """The next frame before the monotonic clock shows `deadline_s`; raises as `read` does."""

    def _end_detail(self) -> str:
        return f"{self._frames} frames"

    def _is_skipped(self, source_ref: str) -> bool:
        return source_ref in self._skipped

    def _frame(self, image: ImageRGB, source_ref: str) -> Frame:
        self._frames += 1
        return Frame(
            image=image,
            source_ref=source_ref,
            frame=self._frames,
            captured_at=datetime.now(UTC),
            captured_monotonic_s=time.monotonic(),
            um_per_px=self._settings.um_per_px,
        )

    def _drop(self, source_ref: str, reason: DropReason, text: str) -> None:
        self._dropped = self._dropped + Counter({reason: 1})
        log.warning("frame_dropped", source_ref=source_ref, reason=reason.value, text=text)
        if self._on_drop is not None:
            self._on_drop(DroppedFrame(source_ref, reason, text))

    def _set_state(self, state: SourceState, detail: str = "") -> None:
        before, _, since_s = self._state
        if state is not before:
            since_s = time.monotonic()
            log.info("source_state_changed", source=self._label, before=before.value, now=state.value)
        self._state = (state, detail, since_s)

    def _keep_pace(self, deadline_s: float) -> None:
        wait_s = self._due_s - time.monotonic()
        if wait_s <= 0:
            return
        left_s = deadline_s - time.monotonic()
        time.sleep(max(0.0, min(wait_s, left_s)))
        if wait_s > left_s:
            raise SourceTimeout(f"{self._label}: the next field is not due yet")

    def _fps(self) -> float:
        times = self._produced_s
        if self._state[0] is not SourceState.UP or len(times) < 2 or times[-1] <= times[0]:
            return 0.0
        return (len(times) - 1) / (max(times[-1], time.monotonic()) - times[0])
