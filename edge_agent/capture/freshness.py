"""Whether a live picture is believed. Pure: no clock, the caller says what time it is.

A camera that says it works may be dead: drivers and servers repeat their last picture, a lamp goes out, a reset camera
comes back in another format. The signature of life is sensor noise: two exposures of the same still stage are never
byte-identical, so a still stage is not a frozen camera.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.capture.settings import FreshnessSettings


class Verdict(StrEnum):
    """What one frame is worth."""

    FRESH = "fresh"
    REPEATED = "repeated"
    """Identical to the one before; not yet for long enough to call the camera frozen."""
    FROZEN = "frozen"
    BLACK = "black"
    SATURATED = "saturated"
    WRONG_SIZE = "wrong_size"


class FreshnessState(StrEnum):
    """What the frames of the last seconds say of the camera."""

    LIVE = "live"
    TRICKLING = "trickling"
    STALLED = "stalled"
    FROZEN = "frozen"
    BLACK = "black"
    SATURATED = "saturated"
    WRONG_SIZE = "wrong_size"


@dataclass(frozen=True, slots=True)
class FrameLook:
    """What freshness needs to know of one frame; `measure.look` fills it.

    Attributes:
        digest: checksum of the pixels; equal for equal pictures.
        width_px, height_px: size of the picture.
        bright_level: 99th percentile of grey, 0..255.
        saturated_ratio: share of pixels whose darkest channel is at 250 or above.
    """

    digest: int
    width_px: int
    height_px: int
    bright_level: float
    saturated_ratio: float


class FreshnessMonitor:
    """Follows the frames of one live source."""

    def __init__(
        self, settings: FreshnessSettings, *, stall_after_s: float, expected_size_px: tuple[int, int] | None = None
    ) -> None:
        """Args:
        settings: limits.
        stall_after_s: without a frame for so long the source has stalled.
        expected_size_px: width and height; the size of the first frame if not given.
        """
        self._limits = settings
        self._stall_after_s = stall_after_s
        self._expected = expected_size_px
        self._arrivals_s: deque[float] = deque()
        self._connected_s: float | None = None
        self._last_arrival_s: float | None = None
        self._digest: int | None = None
        self._same_since_s = 0.0
        self._same_frames = 0
        self._verdict = Verdict.FRESH

    @property
    def expected_size_px(self) -> tuple[int, int] | None:
        """Width and height that frames must have; None before the first."""
        return self._expected

    def connected(self, now_s: float) -> None:
        """The connection was (re-)established: the frame rate is measured anew.

        The last picture is remembered: a server that comes back with the very same one is still frozen.
        """
        self._arrivals_s.clear()
        self._connected_s = now_s
        self._last_arrival_s = None

    def observe(self, look: FrameLook, now_s: float) -> Verdict:
        """Judge a frame that has just arrived. Only FRESH ones are worth delivering."""
        self._arrivals_s.append(now_s)
        self._last_arrival_s = now_s
        if self._connected_s is None:
            self._connected_s = now_s
        self._forget_arrivals(now_s)
        if look.digest == self._digest:
            self._same_frames += 1
        else:
            self._digest, self._same_since_s, self._same_frames = look.digest, now_s, 1
        self._verdict = self._judge(look, now_s)
        return self._verdict

    def _judge(self, look: FrameLook, now_s: float) -> Verdict:
        limits = self._limits
        size = (look.width_px, look.height_px)
        if self._expected is None:
            self._expected = size
        if size != self._expected:
            return Verdict.WRONG_SIZE
        # Before "frozen": a lamp that is off or a lens cap is the better explanation where both hold.
        if look.bright_level < limits.black_below_level:
            return Verdict.BLACK
        if look.saturated_ratio > limits.saturated_above_ratio:
            return Verdict.SATURATED
        if self._same_frames > 1:
            return Verdict.FROZEN if self.frozen_for_s(now_s) > 0 else Verdict.REPEATED
        return Verdict.FRESH

    def frozen_for_s(self, now_s: float) -> float:
        """How long the picture has been frozen, counted from its first repetition; 0 if it is not."""
        same_s = now_s - self._same_since_s
        frozen = self._same_frames >= self._limits.frozen_after_frames and same_s >= self._limits.frozen_after_s
        return same_s if frozen else 0.0

    def fps(self, now_s: float) -> float:
        """Frames per second that arrived over the last seconds, whatever they were worth."""
        self._forget_arrivals(now_s)
        if self._connected_s is None or not self._arrivals_s:
            return 0.0
        span_s = min(self._limits.window_s, now_s - self._connected_s)
        return len(self._arrivals_s) / span_s if span_s > 0 else 0.0

    def state(self, now_s: float) -> FreshnessState:
        """What to say of the camera right now; silence counts, so time alone may change it."""
        quiet_since_s = self._last_arrival_s if self._last_arrival_s is not None else self._connected_s
        if quiet_since_s is not None and now_s - quiet_since_s >= self._stall_after_s:
            return FreshnessState.STALLED
        if self._verdict not in (Verdict.FRESH, Verdict.REPEATED):
            return FreshnessState(self._verdict.value)
        watched_s = now_s - self._connected_s if self._connected_s is not None else 0.0
        if watched_s >= self._limits.window_s and self.fps(now_s) < self._limits.trickling_below_fps:
            return FreshnessState.TRICKLING
        return FreshnessState.LIVE

    def _forget_arrivals(self, now_s: float) -> None:
        while self._arrivals_s and self._arrivals_s[0] < now_s - self._limits.window_s:
            self._arrivals_s.popleft()
