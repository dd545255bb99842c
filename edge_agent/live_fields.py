"""The fields of a live source between two threads: capture offers frames, the recorder says what became of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.capture.frame import Frame
from edge_agent.capture.gate import PICTURE_REASONS, QualityGate
from edge_agent.capture.measure import measure, thumbnail
from edge_agent.capture.selection import FieldSelector, Selection

REFOCUSED_RATIO = 1.15
"""A field withheld for its cells is read again when its picture is so much sharper: the model may see more."""


class FieldOutcomes(Protocol):
    """Who wants to know what became of a frame; frames that were never offered are passed over."""

    def counted(self, frame: Frame) -> None:
        """It is stored and stands in the result."""
        ...

    def withheld(self, frame: Frame, reasons: Sequence[str], focus: float) -> None:
        """It is stored, and not fit to be counted."""
        ...

    def unusable(self, frame: Frame) -> None:
        """It could not be analysed."""
        ...


@dataclass(frozen=True, slots=True)
class _Unfit:
    """Why the place in front of the camera is not counted."""

    by_picture: bool
    focus: float


class LiveFields:
    """Field selection that is safe to use from both threads.

    Args:
        selector: the rules.
        gate: says whether a picture has become fit to be tried again.
    """

    def __init__(self, selector: FieldSelector, gate: QualityGate) -> None:
        self._lock = threading.Lock()
        self._selector = selector
        self._gate = gate
        self._unfit = _Unfit(by_picture=False, focus=float("inf"))

    def offer(self, frame: Frame) -> Selection:
        """What a frame is for counting; after NEW_FIELD it must reach the recorder or `not_taken`."""
        with self._lock:
            return self._selector.offer(
                frame.source_ref,
                thumbnail(frame.image),
                frame.captured_monotonic_s,
                is_better=lambda: self._is_better(frame),
            )

    def not_taken(self, frame: Frame) -> None:
        """The recorder was busy: the place is offered again as long as the stage stays."""
        with self._lock:
            self._selector.not_taken(frame.source_ref)

    def counted(self, frame: Frame) -> None:
        """See `FieldOutcomes`."""
        with self._lock:
            self._selector.counted(frame.source_ref)

    def withheld(self, frame: Frame, reasons: Sequence[str], focus: float) -> None:
        """See `FieldOutcomes`: offered again when the picture is better."""
        with self._lock:
            self._unfit = _Unfit(any(reason in PICTURE_REASONS for reason in reasons), focus)
            self._selector.withheld(frame.source_ref, frame.captured_monotonic_s)

    def unusable(self, frame: Frame) -> None:
        """See `FieldOutcomes`: not offered again until the stage moves, or each frame would raise the same alarm."""
        with self._lock:
            self._unfit = _Unfit(by_picture=False, focus=float("inf"))
            self._selector.withheld(frame.source_ref, frame.captured_monotonic_s)

    def forget_last(self) -> None:
        """The field counted last was taken back by a person."""
        with self._lock:
            self._selector.forget_last()

    def _is_better(self, frame: Frame) -> bool:
        measured = measure(frame.image)
        if self._gate.judge(measured):
            return False
        return self._unfit.by_picture or measured.focus > self._unfit.focus * REFOCUSED_RATIO
