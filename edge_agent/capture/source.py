"""The port that every source of frames stands behind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from edge_agent.capture.frame import Frame

SourceKind = Literal["camera", "stream", "video", "folder", "simulated"]


class SourceState(StrEnum):
    """What a source is doing, in one word."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"
    """A watched folder in which nothing new has appeared."""
    TRICKLING = "trickling"
    """Frames arrive, but far fewer than a live picture needs."""
    STALLED = "stalled"
    """The connection stands and no frame comes."""
    RECONNECTING = "reconnecting"
    FROZEN = "frozen"
    BLACK = "black"
    SATURATED = "saturated"
    WRONG_SIZE = "wrong_size"
    ENDED = "ended"


class DropReason(StrEnum):
    """Why a frame that the source had seen was not delivered."""

    SUPERSEDED = "superseded"
    """A newer frame came before the agent had asked for this one (live sources: newest wins)."""
    REPEATED = "repeated"
    """Byte-identical to the frame before it: no new information."""
    BLACK = "black"
    SATURATED = "saturated"
    WRONG_SIZE = "wrong_size"
    UNREADABLE = "unreadable"
    """A picture file that cannot be decoded, or a video frame that cannot be."""


@dataclass(frozen=True, slots=True)
class DroppedFrame:
    """A frame that was not delivered and that somebody should hear of."""

    source_ref: str
    reason: DropReason
    text: str


OnDrop = Callable[[DroppedFrame], None]
"""Called from the thread that notices, for each unreadable file and for the first of a run of black, saturated or
wrongly sized frames. Not for SUPERSEDED and REPEATED: a live camera would flood the log, so those are only counted."""


Known = Callable[[Collection[str]], Collection[str]]
"""Which of these references are stored already; so that nobody has to read all that ever were."""


Stamps = Callable[[Collection[str]], Mapping[str, str]]
"""Of these references of files, those that were stored with their stamps -> the text of the stamp."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source is, for the console, telemetry and alarms.

    Attributes:
        state: one word.
        text: the same in plain words, with what to do where something is wrong.
        fps: frames per second that arrive from the source (not those delivered), over the last seconds; 0 when none.
        dropped: reason -> frames since the source was opened.
        reconnects: how often the connection was re-established since then.
        since_monotonic_s: the monotonic clock when `state` was entered.
    """

    state: SourceState
    text: str
    fps: float
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    reconnects: int = 0
    since_monotonic_s: float = 0.0

    @property
    def healthy(self) -> bool:
        """Whether nobody needs to look after it."""
        return self.state in HEALTHY_STATES

    @property
    def sighted(self) -> bool:
        """Whether pictures can be believed to arrive when there are any: not blind, be it idle or slow."""
        return self.state in SIGHTED_STATES


HEALTHY_STATES = frozenset({SourceState.UP, SourceState.WAITING, SourceState.ENDED, SourceState.CONNECTING})
SIGHTED_STATES = frozenset({SourceState.UP, SourceState.WAITING, SourceState.ENDED, SourceState.TRICKLING})


@runtime_checkable
class FrameSource(Protocol):
    """Something that delivers frames, one at a time.

    Obligations of every implementation (tests/unit/capture/test_source_conformance.py):

    - The constructor touches no hardware, network or file; `__enter__` does and raises `SourceNotFound` with a message
      that says what to do. `__exit__` releases everything within a bounded time and may be called twice.
    - `read` waits at most about `timeout_s`, from one thread at a time, and returns a frame that nobody changes later.
    - Whatever is not delivered is counted in `status().dropped`.
    - `status` may be called from any thread at any time, also before and after use.
    - `resume_after` and `skip` are called before `__enter__`.
    """

    @property
    def kind(self) -> SourceKind:
        """What sort of source it is."""
        ...

    @property
    def live(self) -> bool:
        """True: time passes with or without us, frames may show the same field again (see `selection`).
        False: each frame is a field of its own."""
        ...

    @property
    def replayable(self) -> bool:
        """True: `source_ref` means the same frame in each run, so a restart can go on where it stopped."""
        ...

    @property
    def comes_by_itself(self) -> bool:
        """True: when it is not there, it may be there later (a camera, a share), so it is worth waiting for."""
        ...

    def __enter__(self) -> Self:
        """Open it.

        Raises:
            SourceNotFound: it is not there or cannot be opened.
        """
        ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release it."""
        ...

    def read(self, timeout_s: float) -> Frame:
        """The next frame (live: the newest one that was not delivered yet).

        Raises:
            SourceTimeout: nothing within `timeout_s`; read again.
            SourceLost: it is gone for the moment and reconnects by itself; read again.
            SourceEnded: there will be no further frame.
        """
        ...

    def resume_after(self, source_ref: str | None) -> None:
        """Go on behind this frame (None: from the beginning). Without effect on a source that is not replayable.

        Raises:
            ValueError: not a reference of this source.
        """
        ...

    def skip(self, source_refs: Collection[str]) -> None:
        """Never deliver these. For watched folders, where files do not appear in the order of their names."""
        ...

    def status(self) -> SourceStatus:
        """How it is right now."""
        ...
