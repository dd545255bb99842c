from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations

import numpy as np
import pytest

from edge_agent.capture import registration
from edge_agent.capture.measure import thumbnail
from edge_agent.capture.registration import Place
from edge_agent.capture.selection import FieldSelector, Selection
from edge_agent.capture.settings import SelectionSettings
from models.synthetic import SlideSpec, VirtualSlide

WIDTH_UM, HEIGHT_UM = 640 * 0.083, 480 * 0.083
SLIDE = VirtualSlide(SlideSpec(seed=11))


@lru_cache(maxsize=64)
def clean(x_ratio: float, y_ratio: float) -> np.ndarray:
    return thumbnail(SLIDE.render(x_um=x_ratio * WIDTH_UM, y_um=y_ratio * HEIGHT_UM).image)


def seen(x_ratio: float, y_ratio: float = 0.0, *, noise_seed: int = 0) -> np.ndarray:
    """With the noise of a sensor: 3 levels a pixel are 0.3 in the mean of ten by ten."""
    rng = np.random.default_rng(noise_seed)
    return clean(x_ratio, y_ratio) + rng.normal(0.0, 0.3, (48, 64)).astype(np.float32)


def overlap_ratio(first: np.ndarray, second: np.ndarray) -> float:
    return registration.overlap_ratio(
        Place(first), Place(second), peak_above_ratio=SelectionSettings().peak_above_ratio
    )


class Microscope:
    """A selector in front of which a stage moves; ten frames a second."""

    def __init__(self, *, becomes: Callable[[FieldSelector, str, float], None] | None = None) -> None:
        self.selector = FieldSelector()
        self.better = False
        self.looks = 0
        self._becomes = becomes or (lambda selector, ref, now_s: selector.counted(ref))
        self._frame = 0

    def rest_at(self, x: float, y: float = 0.0, *, frames: int = 8) -> list[Selection]:
        """What is said of frames at a place, the stage having come from elsewhere."""
        return [self._one(seen(x, y, noise_seed=self._frame)) for _ in range(frames)]

    def rest_with(self, view: np.ndarray, *, frames: int = 8) -> list[Selection]:
        """What is said of frames that show one and the same picture."""
        return [self._one(view) for _ in range(frames)]

    def _one(self, view: np.ndarray) -> Selection:
        self._frame += 1
        ref, now_s = f"camera@{self._frame}", self._frame * 0.1
        said = self.selector.offer(ref, view, now_s, is_better=self._look)
        if said is Selection.NEW_FIELD:
            self._becomes(self.selector, ref, now_s)
        return said

    def _look(self) -> bool:
        self.looks += 1
        return self.better


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.3, 0.3), (0.6, 0.0)])
def test_the_common_area_of_two_fields_is_measured(dx: float, dy: float) -> None:
    measured = overlap_ratio(seen(0), seen(dx, dy, noise_seed=1))
    assert measured == pytest.approx((1 - dx) * (1 - dy), abs=0.05)


def test_fields_side_by_side_have_nothing_in_common() -> None:
    apart = [seen(n * 1.1) for n in range(12)]
    assert max(overlap_ratio(first, second) for first, second in combinations(apart, 2)) == 0.0


def test_a_field_is_counted_once_when_the_stage_rests_and_again_only_after_a_move() -> None:
    bench = Microscope()
    said = [
        said
        for x, frames in ((0.0, 8), (0.2, 1), (0.5, 1), (0.8, 1), (1.1, 8), (1.3, 8))
        for said in bench.rest_at(x, frames=frames)
    ]
    assert said.count(Selection.NEW_FIELD) == 2
    assert said[8:11] == [Selection.MOVING] * 3
    assert Selection.NEW_FIELD in said[11:19]
    assert said[-1] is Selection.OVERLAPS


def test_a_stage_that_goes_to_and_fro_counts_each_of_its_last_fields_once() -> None:
    bench = Microscope()
    path = [(x * 1.1, y * 1.1) for y in (0, 1) for x in ((0, 1, 2, 3) if y == 0 else (3, 2, 1, 0))]
    assert [bench.rest_at(*place).count(Selection.NEW_FIELD) for place in path] == [1] * 8
    assert [bench.rest_at(*place).count(Selection.NEW_FIELD) for place in reversed(path)] == [0] * 8
    assert bench.rest_at(1.1 + 0.5, 0.0)[-1] is Selection.OVERLAPS, "an overlap with a field of long ago counts too"


def test_a_place_visited_after_more_than_the_remembered_fields_is_taken_for_new() -> None:
    bench = Microscope()
    for x in range(9):
        assert bench.rest_at(x * 1.1).count(Selection.NEW_FIELD) == 1
    assert bench.rest_at(0.0).count(Selection.NEW_FIELD) == 1


def test_a_frame_that_nobody_took_is_offered_again_while_the_stage_stays() -> None:
    bench = Microscope(becomes=lambda selector, ref, now_s: selector.not_taken(ref))
    said = bench.rest_at(0.0, frames=10)
    assert said.count(Selection.NEW_FIELD) >= 5


def test_a_withheld_place_is_offered_again_only_when_its_picture_is_better() -> None:
    bench = Microscope(becomes=lambda selector, ref, now_s: selector.withheld(ref, now_s))
    said = bench.rest_at(0.0, frames=40)
    assert said.count(Selection.NEW_FIELD) == 1
    assert said[-1] is Selection.WITHHELD
    assert 3 <= bench.looks <= 8, "the picture is measured now and then, not at each frame"
    bench.better = True
    assert bench.rest_at(0.0, frames=8).count(Selection.NEW_FIELD) == 1
    assert bench.rest_at(1.1).count(Selection.NEW_FIELD) == 1, "another place is new whatever became of this one"


def test_a_field_taken_back_is_new_again() -> None:
    bench = Microscope()
    bench.rest_at(0.0)
    assert Selection.NEW_FIELD not in bench.rest_at(0.0)
    bench.selector.forget_last()
    assert bench.rest_at(0.0).count(Selection.NEW_FIELD) == 1


def test_a_picture_that_does_not_change_is_not_registered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Microscope()
    bench.rest_at(0.0)
    view = seen(0.0)
    bench.rest_with(view, frames=2)

    def never(*_: object, **__: object) -> float:
        raise AssertionError("registered a still picture")

    monkeypatch.setattr("edge_agent.capture.selection.overlap_ratio", never)
    assert bench.rest_with(view, frames=50)[-1] is Selection.SAME_FIELD
