"""Matching detections to true cells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.runtime import match_detections
from models.runtime.matching import iou_matrix

A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def test_the_stronger_of_two_detections_takes_the_cell() -> None:
    found = match_detections(
        boxes=[A, (0, 0, 10, 9)], scores=[0.5, 0.9], classes="xx", true_boxes=[A], true_classes="x"
    )
    assert found.pairs == ((1, 0),)
    assert found.precision == 0.5
    assert found.recall == 1.0
    assert found.f1 == pytest.approx(2 / 3)


def test_another_class_is_no_match() -> None:
    found = match_detections(boxes=[A], scores=[0.5], classes=["RBC"], true_boxes=[A], true_classes=["WBC"])
    assert found.pairs == ()
    assert found.f1 == 0.0


def test_a_detection_takes_the_cell_it_fits_best() -> None:
    near = (0.0, 0.0, 10.0, 12.0)
    found = match_detections(boxes=[A], scores=[0.5], classes="x", true_boxes=[near, A], true_classes="xx")
    assert found.pairs == ((0, 1),)


def test_a_cell_that_need_not_be_found_counts_neither_way() -> None:
    cells = {"true_boxes": [A, B], "true_classes": "xx", "true_optional": [False, True]}
    for boxes in ([A, B], [A]):
        found = match_detections(boxes=boxes, scores=[0.5] * len(boxes), classes="x" * len(boxes), **cells)  # type: ignore[arg-type]
        assert (found.predicted, found.true, found.f1) == (1, 1, 1.0)


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    assert match_detections(boxes=[], scores=[], classes=[], true_boxes=[], true_classes=[]).f1 == 1.0
    assert match_detections(boxes=[A], scores=[1.0], classes="x", true_boxes=[], true_classes=[]).f1 == 0.0


def test_overlap_is_shared_over_joint_area() -> None:
    assert iou_matrix([A], [(5, 0, 15, 10)])[0, 0] == pytest.approx(1 / 3)
    assert iou_matrix([A], [B])[0, 0] == 0.0


_BOXES = st.lists(
    st.tuples(st.floats(0, 90), st.floats(0, 90), st.floats(1, 30), st.floats(1, 30)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=12,
)


@given(boxes=_BOXES, truth=_BOXES)
def test_each_side_is_used_at_most_once(boxes: list[tuple[float, ...]], truth: list[tuple[float, ...]]) -> None:
    found = match_detections(
        boxes=boxes,
        scores=[1.0] * len(boxes),
        classes=[0] * len(boxes),
        true_boxes=truth,
        true_classes=[0] * len(truth),
    )
    mine, theirs = [p[0] for p in found.pairs], [p[1] for p in found.pairs]
    assert len(set(mine)) == len(mine)
    assert len(set(theirs)) == len(theirs)
    assert 0.0 <= found.f1 <= 1.0
