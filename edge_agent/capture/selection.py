"""Which frames of a live source are new fields. Pure: thumbnails and times come from the caller.

An operator moves the stage, looks, moves on. A field is counted once, when the stage has come to rest and shows nothing
of the fields that were counted last; a field that overlaps one of them would count the cells of the overlap twice.

That a frame was offered does not make it counted. Whoever reads it says what became of it: counted, withheld by the
quality gate, or not taken at all. Only a counted field is remembered. A place whose field was withheld is offered again
when its picture has become better (the technician turned the focus), not at each frame; a frame that was not taken is
offered again at once.

A place that is visited again after more than `remembered_fields` others cannot be told from a new one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.capture.registration import Place, Thumbnail, overlap_ratio
from edge_agent.capture.settings import SelectionSettings

SAME_PLACE_RATIO = 0.8
"""Fields that share more than this show one place; with less they overlap."""


class Selection(StrEnum):
    """What a frame is for counting; all but NEW_FIELD are reasons in the metrics."""

    NEW_FIELD = "new_field"
    MOVING = "moving"
    SAME_FIELD = "same_field"
    OVERLAPS = "overlaps"
    WITHHELD = "withheld"
    """The place of a field that was withheld, and its picture is no better yet."""


@dataclass(slots=True)
class _Withheld:
    place: Place
    looked_s: float


@dataclass(frozen=True, slots=True)
class _Verdict:
    place: Place
    selection: Selection
    until_s: float = float("inf")


class FieldSelector:
    """Follows the frames of one live source."""

    def __init__(self, settings: SelectionSettings | None = None) -> None:
        """Args:
        settings: limits; the stated defaults if not given.
        """
        self._limits = settings or SelectionSettings()
        self._before: Place | None = None
        self._still_since_s = 0.0
        self._offered: OrderedDict[str, Place] = OrderedDict()
        self._counted: deque[Place] = deque(maxlen=self._limits.remembered_fields)
        self._withheld: _Withheld | None = None
        self._verdict: _Verdict | None = None

    def offer(self, ref: str, thumbnail: Thumbnail, now_s: float, *, is_better: Callable[[], bool]) -> Selection:
        """Judge the next frame. After NEW_FIELD the caller says what became of it: counted, withheld or not taken.

        Args:
            ref: the caller's name of the frame.
            thumbnail: of the frame.
            now_s: monotonic time of its capture.
            is_better: asked at the place of a withheld field, now and then: whether it is worth another try.
        """
        place, before = Place(thumbnail), self._before
        self._before = place
        moved = before is None or place.difference_level(before) >= self._limits.still_difference_level
        if moved:
            self._still_since_s = now_s
            self._verdict = None
        if now_s - self._still_since_s < self._limits.still_for_s or (moved and before is not None):
            return Selection.MOVING
        selection = self._judge(place, now_s, is_better)
        if selection is Selection.NEW_FIELD:
            self._offered[ref] = place
            self._withheld = None
        return selection

    def counted(self, ref: str) -> None:
        """The field stands in the result."""
        place = self._offered.pop(ref, None)
        if place is not None:
            self._counted.append(place)

    def withheld(self, ref: str, now_s: float) -> None:
        """The field was read and is not fit to be counted."""
        place = self._forget_offered(ref)
        if place is not None:
            self._withheld = _Withheld(place, now_s)

    def not_taken(self, ref: str) -> None:
        """Nobody has read the frame (all were busy), or it could not be read."""
        self._forget_offered(ref)

    def forget_last(self) -> None:
        """The field counted last was taken back: its place is new again."""
        self._verdict = None
        if self._counted:
            self._counted.pop()

    def _forget_offered(self, ref: str) -> Place | None:
        self._verdict = None
        return self._offered.pop(ref, None)

    def _judge(self, place: Place, now_s: float, is_better: Callable[[], bool]) -> Selection:
        """What a still frame is. While the picture stays as it was when it was judged, nothing is computed again."""
        verdict = self._verdict
        if verdict is not None and now_s < verdict.until_s and self._looks_like(verdict.place, place):
            return verdict.selection
        shared = max((self._shared(known, place) for known in (*self._offered.values(), *self._counted)), default=0.0)
        if shared > self._limits.overlap_above_ratio:
            selection = Selection.SAME_FIELD if shared >= SAME_PLACE_RATIO else Selection.OVERLAPS
            self._verdict = _Verdict(place, selection)
            return selection
        last = self._withheld
        if last is not None and self._is_there(last, place):
            due = now_s - last.looked_s >= self._limits.look_again_s
            if not due or not is_better():
                last.looked_s = now_s if due else last.looked_s
                self._verdict = _Verdict(place, Selection.WITHHELD, last.looked_s + self._limits.look_again_s)
                return Selection.WITHHELD
        self._verdict = _Verdict(place, Selection.SAME_FIELD)
        return Selection.NEW_FIELD

    def _is_there(self, last: _Withheld, place: Place) -> bool:
        return self._looks_like(last.place, place) or self._shared(last.place, place) >= SAME_PLACE_RATIO

    def _looks_like(self, known: Place, place: Place) -> bool:
        return place.difference_level(known) < self._limits.still_difference_level

    def _shared(self, known: Place, place: Place) -> float:
        return overlap_ratio(known, place, peak_above_ratio=self._limits.peak_above_ratio)
