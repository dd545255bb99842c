"""Our average precision against COCO's own, and the bootstrap against evaluating the drawn fields themselves."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from models.runtime.detector import Candidates
from training.evaluation.average_precision import average_precisions
from training.intervals import group_weights
from training.metrics import TrueCells, coco_map

pytestmark = pytest.mark.torch


def fields(count: int, seed: int, *, digits: int = 2) -> tuple[list[TrueCells], list[Candidates]]:
    """Fields with boxes that are found, shifted, doubled, missed and made up; few digits make equal scores."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(count):
        n = int(rng.integers(1, 25))
        corners = rng.uniform(0, 400, (n, 2))
        boxes = np.hstack([corners, corners + rng.uniform(20, 60, (n, 2))]).astype(np.float32)
        labels = rng.choice(3, n, p=[0.7, 0.2, 0.1])
        keep = rng.random(n) < 0.9
        seen = boxes[keep] + rng.normal(0, 3, (keep.sum(), 4)).astype(np.float32)
        false = rng.uniform(0, 400, (3, 2))
        made_up = np.hstack([false, false + 30]).astype(np.float32)
        classes = np.concatenate([labels[keep], labels[keep][:2], rng.integers(0, 3, 3)])
        scores = np.round(rng.uniform(0.05, 1, len(classes)), digits)
        truth.append(TrueCells(boxes, labels.astype(np.int64)))
        found.append(
            Candidates(np.concatenate([seen, seen[:2], made_up]), scores.astype(np.float32), classes.astype(np.int32))
        )
    return truth, found


@pytest.mark.parametrize("seed", range(4))
def test_the_point_is_coco_evals(seed: int) -> None:
    truth, found = fields(25, seed)
    said = average_precisions(truth, found, np.ones((1, 25), np.int32))
    theirs = coco_map(truth, found)
    assert said.point.keys() == theirs.keys()
    assert said.point == pytest.approx(theirs, abs=1e-3)
    assert {k: float(v[0]) for k, v in said.resampled.items()} == pytest.approx(said.point)


def test_a_resample_is_what_coco_says_of_the_drawn_fields() -> None:
    truth, found = fields(12, 9, digits=7)
    weights = group_weights([str(i // 2) for i in range(12)], resamples=5, seed=2)
    said = average_precisions(truth, found, weights)
    for number, row in enumerate(weights):
        drawn = [i for i, times in enumerate(row) for _ in range(times)]
        theirs = coco_map([truth[i] for i in drawn], [found[i] for i in drawn])
        for name in ("map50", "map", "map_RBC"):
            assert float(said.resampled[name][number]) == pytest.approx(theirs[name], abs=1e-3), name


def test_at_fifty_alone_the_figures_are_the_same() -> None:
    truth, found = fields(10, 5)
    weights = group_weights([str(i) for i in range(10)], resamples=10, seed=0)
    whole, short = average_precisions(truth, found, weights), average_precisions(truth, found, weights, only_at_50=True)
    assert short.point["map50"] == whole.point["map50"]
    assert (short.resampled["map50_RBC"] == whole.resampled["map50_RBC"]).all()
    assert "map" not in short.point


def test_six_hundred_cells_in_a_field_are_all_counted() -> None:
    corners = np.array([[12 * (i % 30), 12 * (i // 30)] for i in range(600)], np.float32)
    boxes = np.hstack([corners, corners + 10])
    truth = [TrueCells(boxes, np.zeros(600, np.int64))]
    found = [Candidates(boxes, np.full(600, 0.5, np.float32), np.zeros(600, np.int32))]
    assert average_precisions(truth, found, np.ones((1, 1), np.int32)).point["map"] == pytest.approx(1.0)
    assert coco_map(truth, found)["map"] == pytest.approx(1.0)


def test_without_fields_or_answers_the_precision_is_nought() -> None:
    truth, _ = fields(3, 1)
    none = Candidates(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))
    assert average_precisions(truth, [none] * 3, np.ones((2, 3), np.int32)).point["map50"] == 0.0
    assert average_precisions([], [], np.ones((2, 0), np.int32)).point == {"map50": 0.0, "map": 0.0}
