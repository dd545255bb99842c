"""A live source over any connection: one reader thread, the newest frame wins, and a watchdog.

The reader thread is the only one that touches the connection, because a driver may block inside it for as long as it
likes. A frame that nobody has fetched is replaced by the next and counted. If the connection breaks, the thread
reconnects with growing pauses. If the thread itself is stuck in the driver, which cannot be interrupted, it is left
behind and another takes its place; its late result is thrown away. A thread that has died is replaced as well.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar

import structlog

from edge_agent.capture.backoff import Backoff
from edge_agent.capture.errors import SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.freshness import FrameLook, FreshnessMonitor, FreshnessState, Verdict
from edge_agent.capture.measure import look
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DroppedFrame, DropReason, OnDrop, SourceKind, SourceState, SourceStatus
from edge_agent.capture.wording import status_text
from models.runtime.results import ImageRGB

T = TypeVar("T")

log = structlog.get_logger(__name__)

MAX_ABANDONED_READERS = 3
"""Each one stuck in a driver holds a thread and a device handle for good; more would hide a broken driver."""

STATE_OF = {
    FreshnessState.LIVE: SourceState.UP,
    FreshnessState.TRICKLING: SourceState.TRICKLING,
    FreshnessState.STALLED: SourceState.STALLED,
    FreshnessState.FROZEN: SourceState.FROZEN,
    FreshnessState.BLACK: SourceState.BLACK,
    FreshnessState.SATURATED: SourceState.SATURATED,
    FreshnessState.WRONG_SIZE: SourceState.WRONG_SIZE,
}
DROP_OF = {
    Verdict.REPEATED: DropReason.REPEATED,
    Verdict.FROZEN: DropReason.REPEATED,
    Verdict.BLACK: DropReason.BLACK,
    Verdict.SATURATED: DropReason.SATURATED,
    Verdict.WRONG_SIZE: DropReason.WRONG_SIZE,
}


class Connection(Protocol):
    """An opened camera or stream; used by one thread."""

    def read(self) -> ImageRGB | None:
        """Wait for the next frame, (H, W, 3) uint8 RGB; None when the connection is lost or nothing came in time."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


Connect = Callable[[], Connection]
"""Opens a connection; raises SourceNotFound with the reason and what to do."""


class LiveSource:
    """A `FrameSource` over a connection that can break, freeze or hang."""

    live = True
    comes_by_itself = True
    replayable = False

    def __init__(
        self,
        settings: SourceSettings,
        *,
        kind: SourceKind,
        label: str,
        connect: Connect,
        on_drop: OnDrop | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Args:
        settings: limits and times.
        kind: camera or stream.
        label: what to call it in messages; holds no password.
        connect: opens the connection, in the reader thread.
        on_drop: see `source.OnDrop`.
        rng: randomness of the back-off.
        """
        self._settings = settings
        self._kind: SourceKind = kind
        self._label = label
        self._connect = connect
        self._on_drop = on_drop
        self._rng = rng or random.Random()
        self._changed = threading.Condition()
        self._monitor = self._new_monitor()
        self._link = SourceState.CLOSED
        self._detail = ""
        self._state = SourceState.CLOSED
        self._since_s = 0.0
        self._dropped: Counter[DropReason] = Counter()
        self._reconnects = 0
        self._connected_at_s = 0.0
        self._pending: Frame | None = None
        self._frames = 0
        self._last_verdict = Verdict.FRESH
        self._generation = 0
        self._stop = threading.Event()
        self._busy_since_s: float | None = None
        self._abandoned = 0
        self._first_error: SourceNotFound | None = None
        self._thread: threading.Thread | None = None

    @property
    def kind(self) -> SourceKind:
        return self._kind

    def _new_monitor(self) -> FreshnessMonitor:
        s = self._settings
        size = (s.width_px, s.height_px) if s.width_px is not None and s.height_px is not None else None
        return FreshnessMonitor(s.freshness, stall_after_s=s.link.stall_after_s, expected_size_px=size)

    # ---- opening and closing

    def __enter__(self) -> Self:
        link = self._settings.link
        with self._changed:
            self._stop = threading.Event()
            self._monitor = self._new_monitor()
            self._dropped.clear()
            self._reconnects, self._frames, self._pending, self._first_error = 0, 0, None, None
            self._set_link(SourceState.CONNECTING)
            self._start_reader()
            self._changed.wait_for(
                lambda: self._link is not SourceState.CONNECTING or self._first_error is not None,
                timeout=link.abandon_after_s,
            )
            error = self._first_error
            if error is None and self._link is SourceState.CONNECTING:
                error = SourceNotFound(
                    f"{self._label} does not answer within {link.abandon_after_s:g} s; check that it is switched on, "
                    "connected, and not used by another program"
                )
        if error is not None:
            self.__exit__(None, None, None)
            raise error
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._stop.set()
            self._generation += 1
            self._pending = None
            self._set_link(SourceState.CLOSED)
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            # Bounded: a reader stuck in the driver is a daemon thread and ends with the process.
            link = self._settings.link
            thread.join(timeout=max(link.open_timeout_ms, link.read_timeout_ms) / 1000 + 1.0)

    def resume_after(self, source_ref: str | None) -> None:
        """Without effect: what a live source showed while nobody looked is gone."""

    def skip(self, source_refs: Collection[str]) -> None:
        """Without effect, as `resume_after`."""

    # ---- reading

    def read(self, timeout_s: float) -> Frame:
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while self._pending is None:
                if self._link is SourceState.CLOSED:
                    raise SourceLost(status_text(SourceState.CLOSED, self._label))
                self._watch(time.monotonic())
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    status = self._status(time.monotonic())
                    lost = status.state is SourceState.RECONNECTING
                    raise (SourceLost if lost else SourceTimeout)(status.text)
                self._changed.wait(timeout=left_s)
            frame, self._pending = self._pending, None
            return frame

    def status(self) -> SourceStatus:
        with self._changed:
            now_s = time.monotonic()
            self._watch(now_s)
            return self._status(now_s)

    def _status(self, now_s: float) -> SourceStatus:
        state = self._refresh(now_s)
        return SourceStatus(
            state=state,
            text=status_text(state, self._label, self._detail),
            fps=self._monitor.fps(now_s) if self._link is SourceState.UP else 0.0,
            dropped=dict(self._dropped),
            reconnects=self._reconnects,
            since_monotonic_s=self._since_s,
        )

    def _refresh(self, now_s: float) -> SourceState:
        """The state right now; logs it when it has changed. Called with the lock held."""
        state = STATE_OF[self._monitor.state(now_s)] if self._link is SourceState.UP else self._link
        if state is not self._state:
            log.info("source_state_changed", source=self._label, before=self._state.value, now=state.value)
            self._state, self._since_s = state, now_s
        return state

    def _set_link(self, link: SourceState, detail: str = "") -> None:
        self._link, self._detail = link, detail
        self._refresh(time.monotonic())

    # ---- the reader thread and its watchdog

    def _start_reader(self) -> None:
        self._generation += 1
        self._busy_since_s = None
        self._thread = threading.Thread(
            target=self._run, args=(self._generation, self._stop), name=f"capture-{self._generation}", daemon=True
        )
        self._thread.start()

    def _watch(self, now_s: float) -> None:
        """Replace a reader that is stuck in the driver, or dead. Called with the lock held."""
        if self._thread is not None and not self._thread.is_alive() and not self._stop.is_set():
            log.warning("capture_reader_died", source=self._label)
            if self._link is SourceState.UP:
                self._set_link(SourceState.RECONNECTING, "its reader failed")
            self._start_reader()
            return
        stuck = self._busy_since_s is not None and now_s - self._busy_since_s >= self._settings.link.abandon_after_s
        if not stuck or self._stop.is_set() or self._abandoned >= MAX_ABANDONED_READERS:
            return
        self._abandoned += 1
        log.warning("capture_reader_abandoned", source=self._label, abandoned=self._abandoned)
        self._set_link(SourceState.RECONNECTING, "its driver did not answer")
        self._start_reader()

    def _run(self, generation: int, stop: threading.Event) -> None:
        try:
            self._read_on(generation, stop)
        except Exception:
            # `_watch` puts another in its place; the pause keeps a lasting fault from becoming a busy loop.
            log.exception("capture_reader_failed", source=self._label)
            stop.wait(Backoff(self._settings.link, self._rng).next_s())
        finally:
            with self._changed:
                if generation != self._generation and not stop.is_set():
                    self._abandoned -= 1

    def _read_on(self, generation: int, stop: threading.Event) -> None:
        connection: Connection | None = None
        backoff = Backoff(self._settings.link, self._rng)
        try:
            while self._current(generation, stop):
                if connection is None:
                    connection = self._open(generation)
                else:
                    image = self._busy(generation, connection.read)
                    if image is not None:
                        # Only a picture proves that the camera works again; an open connection does not.
                        backoff.reset()
                        if self._arrived(generation, image):
                            continue
                    self._lose(generation, connection)
                    connection = None
                if connection is None:
                    stop.wait(backoff.next_s())
        finally:
            if connection is not None:
                # Marked as busy: a driver that hangs in closing is abandoned like one that hangs in reading.
                self._busy(generation, connection.close)

    def _current(self, generation: int, stop: threading.Event) -> bool:
        return generation == self._generation and not stop.is_set()

    def _busy(self, generation: int, call: Callable[[], T]) -> T:
        """Call into the driver, leaving a mark for the watchdog."""
        with self._changed:
            if generation == self._generation:
                self._busy_since_s = time.monotonic()
        try:
            return call()
        finally:
            with self._changed:
                if generation == self._generation:
                    self._busy_since_s = None

    def _open(self, generation: int) -> Connection | None:
        try:
            connection = self._busy(generation, self._connect)
        except SourceNotFound as exc:
            with self._changed:
                if generation == self._generation:
                    self._detail = str(exc)
                    if self._link is SourceState.CONNECTING:
                        # The very first attempt: whoever opened the source hears of it and decides.
                        self._first_error = exc
                    self._changed.notify_all()
            return None
        with self._changed:
            if generation == self._generation and not self._stop.is_set():
                if self._link is SourceState.RECONNECTING:
                    self._reconnects += 1
                self._connected_at_s = time.monotonic()
                self._monitor.connected(self._connected_at_s)
                self._set_link(SourceState.UP)
                self._changed.notify_all()
                return connection
        connection.close()
        return None

    def _lose(self, generation: int, connection: Connection) -> None:
        """Give a connection up; the loop opens another after a pause."""
        with self._changed:
            if generation == self._generation and not self._stop.is_set():
                self._set_link(SourceState.RECONNECTING)
                self._changed.notify_all()
        self._busy(generation, connection.close)

    def _arrived(self, generation: int, image: ImageRGB) -> bool:
        """Take a frame in. False: the picture has been frozen for so long that a new connection is worth a try."""
        now_s, now = time.monotonic(), datetime.now(UTC)
        seen = look(image)
        dropped: DroppedFrame | None = None
        with self._changed:
            if generation != self._generation or self._stop.is_set():
                return True
            verdict = self._monitor.observe(seen, now_s)
            source_ref = f"{self._label}@{now.isoformat()}"
            if verdict is Verdict.FRESH:
                if self._pending is not None:
                    self._dropped[DropReason.SUPERSEDED] += 1
                self._frames += 1
                self._pending = Frame(image, source_ref, self._frames, now, now_s, self._settings.um_per_px)
                self._changed.notify_all()
            else:
                reason = DROP_OF[verdict]
                self._dropped[reason] += 1
                if verdict is not self._last_verdict and reason is not DropReason.REPEATED:
                    dropped = DroppedFrame(source_ref, reason, self._drop_text(verdict, seen))
            self._last_verdict = verdict
            self._detail = self._drop_text(verdict, seen) if verdict is Verdict.WRONG_SIZE else ""
            self._refresh(now_s)
            limit_s = self._settings.freshness.reconnect_frozen_after_s
            stale_s = min(self._monitor.frozen_for_s(now_s), now_s - self._connected_at_s)
        if dropped is not None and self._on_drop is not None:
            self._on_drop(dropped)
        return stale_s < limit_s

    def _drop_text(self, verdict: Verdict, seen: FrameLook) -> str:
        if verdict is Verdict.WRONG_SIZE:
            width, height = self._monitor.expected_size_px or (0, 0)
            return f"{seen.width_px}x{seen.height_px} pixels instead of {width}x{height}"
        return status_text(SourceState(verdict.value), self._label)
