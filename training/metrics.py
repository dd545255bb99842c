"""How well boxes agree with the truth: COCO's mean average precision, F1, thresholds, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from models.bundle.manifest import CellClass
from models.runtime.detector import Candidates
from models.runtime.matching import iou_matrix
from models.runtime.results import FloatArray

FLAT_TOP = 0.008
"""F1 this close to the best counts as equally good."""
MAX_DETECTIONS = 5000
"""COCO's own cap of 100 would cut dense fields."""


@dataclass(frozen=True, slots=True, eq=False)
class TrueCells:
    """Truth of one field.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2, pixels of the frame.
        labels: (N,) int64, index into `CellClass`.
    """

    boxes: FloatArray
    labels: NDArray[np.int64]


def coco_map(truth: Sequence[TrueCells], found: Sequence[Candidates]) -> dict[str, float]:
    """COCO's mean average precision over fields, overall and per class.

    Returns:
        `map50`, `map` (IoU .50 to .95) and for each class that occurs `map50_RBC`, `map_RBC` and so on, 0..1.

    Raises:
        ValueError: fields and findings differ in number.
    """
    results = [_result_rows(index, cells) for index, cells in enumerate(found)]
    rows = np.concatenate([r for r in results if len(r)] or [np.empty((0, 7))])
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} fields and {len(found)} findings")
    figures = {}
    ground = COCO(_as_coco(truth))
    present = [c for c in range(len(CellClass)) if any((t.labels == c).any() for t in truth)]
    if not len(rows) or not present:
        names = ["map50", "map", *(f"{m}_{list(CellClass)[c]}" for c in present for m in ("map50", "map"))]
        return dict.fromkeys(names, 0.0)
    run = COCOeval_faster(ground, ground.loadRes(rows), "bbox", print_function=lambda *_: None)
    run.params.maxDets = [1, 10, MAX_DETECTIONS]
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"])[..., 0, -1]  # (IoU, recall, class) at all areas, largest cap
    by_class = {c: precision[:, :, k] for k, c in enumerate(run.params.catIds)}
    figures["map50"] = float(np.mean([by_class[c + 1][0].mean() for c in present]))
    figures["map"] = float(np.mean([by_class[c + 1].mean() for c in present]))
    for c in present:
        figures[f"map50_{list(CellClass)[c]}"] = float(by_class[c + 1][0].mean())
        figures[f"map_{list(CellClass)[c]}"] = float(by_class[c + 1].mean())
    return figures


def _as_coco(truth: Sequence[TrueCells]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, cells in enumerate(truth):
        for box, label in zip(cells.boxes.astype(float).tolist(), cells.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {},
        "licenses": [],
        "images": [{"id": i, "width": 1, "height": 1, "file_name": str(i)} for i in range(len(truth))],
        "categories": [{"id": i + 1, "name": str(c)} for i, c in enumerate(CellClass)],
        "annotations": annotations,
    }


def _result_rows(image_id: int, cells: Candidates) -> NDArray[np.float64]:
    """Rows image, x, y, w, h, score, category, as COCO's loader takes them."""
    rows = np.empty((len(cells), 7))
    rows[:, 0] = image_id
    rows[:, 1:3] = cells.boxes[:, :2]
    rows[:, 3:5] = cells.boxes[:, 2:] - cells.boxes[:, :2]
    rows[:, 5], rows[:, 6] = cells.scores, cells.classes + 1
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """All findings of one class over many fields, strongest first.

    Attributes:
        scores: (N,) float64, falling.
        hits: (N,) bool, whether each is a true cell not yet taken by a stronger one.
        true: number of true cells.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    true: int

    def f1_at(self, threshold: float) -> float:
        """F1 of the findings at or above a score."""
        chosen = self.scores >= threshold
        total = int(chosen.sum()) + self.true
        return 2 * int(self.hits[chosen].sum()) / total if total else 1.0

    def counts_at(self, threshold: float) -> tuple[int, int, int]:
        """True positives, false positives and missed cells at or above a score."""
        chosen = self.scores >= threshold
        hit = int(self.hits[chosen].sum())
        return hit, int(chosen.sum()) - hit, self.true - hit

    def best_threshold(self) -> float:
        """Score in the middle of F1's flat top: on its very peak it would sit on a few cells of the measured set, and
        scores fall on another laboratory's fields."""
        grid = np.linspace(0.05, 0.9, 86)
        f1 = np.array([self.f1_at(float(t)) for t in grid])
        top = grid[f1 >= f1.max() - FLAT_TOP]
        return float(round((top.min() + top.max()) / 2, 3))


def rank(truth: Sequence[TrueCells], found: Sequence[Candidates], *, cls: int, iou: float = 0.5) -> Ranked:
    """Match the findings of a class to its true cells, field by field, strongest first."""
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for cells, candidates in zip(truth, found, strict=True):
        wanted = cells.boxes[cells.labels == cls]
        mine = candidates.take(candidates.classes == cls)
        total += len(wanted)
        overlap = iou_matrix(mine.boxes, wanted)
        for row in np.argsort(-mine.scores, kind="stable"):
            column = int(overlap[row].argmax()) if len(wanted) else -1
            hit = column >= 0 and bool(overlap[row, column] >= iou)
            if hit:
                overlap[:, column] = -1.0
            scores.append(float(mine.scores[row]))
            hits.append(hit)
    order = np.argsort(-np.array(scores), kind="stable")
    return Ranked(np.array(scores, np.float64)[order], np.array(hits, bool)[order], total)


def count_error(true_counts: Sequence[int], found_counts: Sequence[int]) -> dict[str, float]:
    """How far counts are off: mean absolute error a field, and the error of the sum as a ratio."""
    true, found = np.array(true_counts, float), np.array(found_counts, float)
    total = max(1.0, float(true.sum()))
    return {
        "mean_absolute": float(np.abs(found - true).mean()) if len(true) else 0.0,
        "sum_ratio": float((found.sum() - true.sum()) / total),
    }


def balanced_accuracy(true: NDArray[np.int64], said: NDArray[np.int64]) -> float:
    """Mean of the classes' recalls, over the classes that occur."""
    return float(np.mean([(said[true == c] == c).mean() for c in np.unique(true)]))
