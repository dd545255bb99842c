"""Figures on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from models.bundle.manifest import CellClass
from models.runtime.detector import Candidates
from models.runtime.results import CellType, Detection
from training.evaluate import CellTally, match_white
from training.metrics import TrueCells, balanced_accuracy, coco_map, count_error, rank

pytestmark = pytest.mark.torch

BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10]], np.float32)
LABELS = np.array([0, 1, 0])


def found(boxes: np.ndarray, classes: list[int], scores: list[float]) -> Candidates:
    return Candidates(boxes.astype(np.float32), np.array(scores, np.float32), np.array(classes, np.int32))


def test_a_perfect_answer_has_a_precision_of_one() -> None:
    figures = coco_map([TrueCells(BOXES, LABELS)], [found(BOXES, [0, 1, 0], [0.9, 0.8, 0.7])])
    assert figures["map50"] == pytest.approx(1.0)
    assert figures["map"] == pytest.approx(1.0)
    assert figures["map_RBC"] == pytest.approx(1.0)
    assert "map_Platelets" not in figures


def test_swapped_classes_and_no_answer_have_a_precision_of_nought() -> None:
    truth = [TrueCells(BOXES, LABELS)]
    assert coco_map(truth, [found(BOXES, [1, 0, 1], [0.9, 0.8, 0.7])])["map50"] == 0.0
    assert coco_map(truth, [found(np.empty((0, 4)), [], [])]) == {
        "map50": 0.0,
        "map": 0.0,
        "map50_RBC": 0.0,
        "map_RBC": 0.0,
        "map50_WBC": 0.0,
        "map_WBC": 0.0,
    }


def test_boxes_half_a_cell_off_count_at_fifty_but_not_at_ninety_five() -> None:
    moved = BOXES + np.array([1.5, 0, 1.5, 0], np.float32)  # IoU of the small cells .74
    figures = coco_map([TrueCells(BOXES, LABELS)], [found(moved, [0, 1, 0], [0.9, 0.8, 0.7])])
    assert figures["map50"] == pytest.approx(1.0)
    assert 0.4 < figures["map"] < 0.8
    assert figures["map_RBC"] == pytest.approx(0.5)


def test_half_the_cells_of_a_class_found_gives_half_its_precision() -> None:
    figures = coco_map([TrueCells(BOXES, LABELS)], [found(BOXES[:2], [0, 1], [0.9, 0.8])])
    assert figures["map50_RBC"] == pytest.approx(0.5, abs=0.01)
    assert figures["map50_WBC"] == pytest.approx(1.0)


def test_more_than_a_hundred_cells_in_a_field_all_count() -> None:
    corners = np.array([[12 * (i % 15), 12 * (i // 15)] for i in range(180)], np.float32)
    boxes = np.hstack([corners, corners + 10])
    truth = [TrueCells(boxes, np.zeros(180, np.int64))]
    assert coco_map(truth, [found(boxes, [0] * 180, [0.5] * 180)])["map50"] == pytest.approx(1.0)


def test_a_second_box_on_a_cell_is_a_false_positive() -> None:
    twice = found(BOXES[[0, 0, 2]], [0, 0, 0], [0.9, 0.8, 0.3])
    ranked = rank([TrueCells(BOXES, LABELS)], [twice], cls=0)
    assert ranked.hits.tolist() == [True, False, True]
    assert ranked.counts_at(0.5) == (1, 1, 1)
    assert ranked.f1_at(0.5) == pytest.approx(0.5)
    assert ranked.f1_at(0.2) == pytest.approx(0.8)


def test_the_best_threshold_parts_true_from_false() -> None:
    truth = [TrueCells(BOXES[:1], LABELS[:1])] * 20
    good = [found(BOXES[[0, 2]], [0, 0], [0.8 + i / 1000, 0.2 + i / 1000]) for i in range(20)]
    threshold = rank(truth, good, cls=0).best_threshold()
    assert 0.25 < threshold < 0.8


def test_counts_say_both_how_far_off_and_in_which_direction() -> None:
    assert count_error([10, 20], [12, 18]) == {"mean_absolute": 2.0, "sum_ratio": 0.0}
    assert count_error([10, 10], [11, 11])["sum_ratio"] == pytest.approx(0.1)


def test_balanced_accuracy_weighs_rare_classes_the_same() -> None:
    true, said = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 0, 0])
    assert balanced_accuracy(true, said) == pytest.approx(0.5)


def named(label: str, top: str) -> CellType:
    chances = dict.fromkeys(("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"), 0.1) | {top: 0.6}
    return CellType(label, chances, (top,), True, 0.5)


def test_the_tally_keeps_not_found_not_named_and_wrong_apart() -> None:
    tally = CellTally()
    tally.add(0, named("neutrophil", "neutrophil"))
    tally.add(0, named("unidentified", "monocyte"))
    tally.add(1, named("neutrophil", "neutrophil"))
    tally.add(1, None)
    figures = tally.figures()
    assert figures["found"] == 0.75
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["accepted"] == pytest.approx(2 / 3)
    assert figures["accepted_accuracy"] == 0.5


def test_a_true_white_cell_takes_the_type_of_the_counted_box_on_it() -> None:
    kind = named("monocyte", "monocyte")
    detections = [
        Detection((0, 0, 10, 10), CellClass.WBC, 0.9, True, kind),
        Detection((20, 20, 40, 40), CellClass.RBC, 0.9, True),
        Detection((50, 0, 60, 10), CellClass.WBC, 0.2, False),
    ]
    assert match_white(detections, BOXES) == [kind, None, None]
