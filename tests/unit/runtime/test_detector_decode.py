"""From raw maps to boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.bundle import CellClass, DetectorSpec
from models.runtime import InferenceError
from models.runtime.detector import Candidates, decode, without_doubles
from models.runtime.imaging import Letterboxed, letterbox
from models.runtime.results import FloatArray

SPEC = DetectorSpec(
    input_px=64, strides=(8, 16), reg_bins=4, max_candidates=50, thresholds=dict.fromkeys(CellClass, 0.5)
)


def _silent_maps() -> list[FloatArray]:
    maps = [np.zeros((1, 19, 64 // s, 64 // s), np.float32) for s in SPEC.strides]
    for raw in maps:
        raw[:, 16:] = -20
    return maps


def _view(width_px: int = 64, height_px: int = 64) -> Letterboxed:
    return letterbox(np.zeros((height_px, width_px, 3), np.uint8), 64, 114)


def _peak(raw: FloatArray, row: int, column: int, *, cls: int, logit: float, distances: tuple[int, ...]) -> None:
    raw[0, 16 + cls, row, column] = logit
    raw[0, :16, row, column] = -50
    for side, distance in enumerate(distances):
        raw[0, side * 4 + distance, row, column] = 50


def test_a_box_is_its_cells_centre_less_and_plus_the_distances_times_the_stride() -> None:
    maps = _silent_maps()
    _peak(maps[0], 3, 2, cls=1, logit=2.0, distances=(1, 2, 3, 0))
    found = decode(maps, _view(), width_px=64, height_px=64, spec=SPEC)
    assert found.boxes.tolist() == [[20 - 8, 28 - 16, 20 + 24, 28]]
    assert found.classes.tolist() == [1]
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-2)))


def test_the_second_map_has_its_own_stride() -> None:
    maps = _silent_maps()
    _peak(maps[1], 1, 2, cls=0, logit=0.0, distances=(1, 1, 1, 1))
    found = decode(maps, _view(), width_px=64, height_px=64, spec=SPEC)
    assert found.boxes.tolist() == [[40 - 16, 24 - 16, 40 + 16, 24 + 16]]


def test_a_distribution_between_two_bins_gives_the_distance_between() -> None:
    maps = _silent_maps()
    _peak(maps[0], 3, 3, cls=0, logit=1.0, distances=(1, 1, 1, 1))
    maps[0][0, 2, 3, 3] = 50  # left: one half at 1, one half at 2
    found = decode(maps, _view(), width_px=64, height_px=64, spec=SPEC)
    assert found.boxes[0].tolist() == pytest.approx([28 - 12, 20, 36, 36])


def test_boxes_are_brought_to_the_frame_and_clipped_there() -> None:
    maps = _silent_maps()
    _peak(maps[0], 2, 0, cls=0, logit=1.0, distances=(3, 1, 1, 1))
    found = decode(maps, _view(128, 64), width_px=128, height_px=64, spec=SPEC)
    # Scale one half, 16 rows of padding above: x 4-24..12, y 12..28 on the canvas.
    assert found.boxes.tolist() == [[0, 0, 24, 24]]


def test_what_lies_in_the_padding_is_not_reported() -> None:
    maps = _silent_maps()
    _peak(maps[0], 0, 3, cls=0, logit=5.0, distances=(1, 0, 1, 1))
    assert len(decode(maps, _view(128, 64), width_px=128, height_px=64, spec=SPEC)) == 0


def test_a_score_below_the_floor_is_not_decoded() -> None:
    maps = _silent_maps()
    floor = np.log(SPEC.floor_score / (1 - SPEC.floor_score))
    _peak(maps[0], 1, 1, cls=0, logit=floor - 0.01, distances=(1, 1, 1, 1))
    _peak(maps[0], 5, 5, cls=0, logit=floor + 0.01, distances=(1, 1, 1, 1))
    assert len(decode(maps, _view(), width_px=64, height_px=64, spec=SPEC)) == 1


def test_the_cap_keeps_the_strongest() -> None:
    maps = _silent_maps()
    maps[0][0, 16] = np.arange(64, dtype=np.float32).reshape(8, 8) / 16
    found = decode(maps, _view(), width_px=64, height_px=64, spec=SPEC)
    assert len(found) == 50
    assert found.scores.min() == pytest.approx(1 / (1 + np.exp(-14 / 16)), abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_an_error_not_an_empty_field(value: float) -> None:
    maps = _silent_maps()
    maps[1][0, 17, 2, 3] = value
    with pytest.raises(InferenceError, match="not finite"):
        decode(maps, _view(), width_px=64, height_px=64, spec=SPEC)


def test_maps_of_another_shape_are_an_error() -> None:
    maps = _silent_maps()
    with pytest.raises(InferenceError, match="promises"):
        decode(maps[::-1], _view(), width_px=64, height_px=64, spec=SPEC)
    with pytest.raises(InferenceError, match="promises"):
        decode(maps[:1], _view(), width_px=64, height_px=64, spec=SPEC)


@given(
    maps=st.tuples(
        *(
            hnp.arrays(np.float32, (1, 19, 64 // s, 64 // s), elements=st.floats(-30, 30, width=32), fill=st.just(0.0))
            for s in SPEC.strides
        )
    ),
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
)
def test_whatever_the_maps_say_boxes_lie_inside_the_frame(maps: tuple[FloatArray, ...], size: tuple[int, int]) -> None:
    width, height = size
    found = without_doubles(decode(maps, _view(width, height), width_px=width, height_px=height, spec=SPEC), 0.6)
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= width).all()
    assert (found.boxes[:, [1, 3]] <= height).all()
    assert ((found.boxes[:, 2:] - found.boxes[:, :2]) >= 1).all()
    assert ((found.scores >= SPEC.floor_score - 1e-6) & (found.scores <= 1)).all()
    assert (np.diff(found.scores) <= 0).all()


def test_doubles_go_and_the_strongest_comes_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [30, 30, 40, 40], [0, 0, 10, 9]], np.float32)
    found = Candidates(boxes, np.array([0.4, 0.8, 0.6], np.float32), np.zeros(3, np.int32))
    kept = without_doubles(found, 0.6)
    assert kept.scores.tolist() == pytest.approx([0.8, 0.6])
