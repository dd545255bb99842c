"""Which detection is which true cell: used by the self-test, the demo and training. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Matches:
    """Outcome of a matching.

    Attributes:
        pairs: (index of the detection, index of the true cell), strongest detection first.
        predicted: number of detections that count.
        true: number of true cells that must be found.
    """

    pairs: tuple[tuple[int, int], ...]
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the detections that are true; 1 without detections."""
        return len(self.pairs) / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of the true cells that were found; 1 without true cells."""
        return len(self.pairs) / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 1 where there is nothing to find and nothing was found."""
        total = self.predicted + self.true
        return 2 * len(self.pairs) / total if total else 1.0


def match_detections(
    *,
    boxes: Sequence[Sequence[float]] | NDArray[np.floating],
    scores: Sequence[float] | NDArray[np.floating],
    classes: Sequence[Hashable],
    true_boxes: Sequence[Sequence[float]] | NDArray[np.floating],
    true_classes: Sequence[Hashable],
    true_optional: Sequence[bool] | None = None,
    iou: float = 0.5,
) -> Matches:
    """Match detections to true cells of the same class, strongest first, each to the best still free.

    Args:
        boxes, true_boxes: (N, 4) and (M, 4), x1 y1 x2 y2, the same frame.
        scores: (N,).
        classes, true_classes: (N,) and (M,), compared by equality.
        true_optional: (M,) true cells that need not be found, such as slivers at the frame's edge. A detection that
            fits only one of these counts neither for nor against.
        iou: overlap needed.
    """
    overlap = iou_matrix(boxes, true_boxes)
    names: dict[Hashable, int] = {}
    codes = np.array([names.setdefault(cls, len(names)) for cls in classes], int)
    true_codes = np.array([names.setdefault(cls, len(names)) for cls in true_classes], int)
    overlap[codes[:, None] != true_codes[None, :]] = -1.0
    optional = np.zeros(len(true_codes), bool) if true_optional is None else np.asarray(true_optional, bool)
    pairs: list[tuple[int, int]] = []
    ignored = 0
    for row in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        for wanted in (~optional, optional):
            column = _best(overlap[row], wanted, iou)
            if column is not None:
                overlap[:, column] = -1.0
                if optional[column]:
                    ignored += 1
                else:
                    pairs.append((int(row), column))
                break
    return Matches(tuple(pairs), len(codes) - ignored, int((~optional).sum()))


def _best(overlap: NDArray[np.float64], wanted: NDArray[np.bool_], iou: float) -> int | None:
    allowed = np.where(wanted, overlap, -1.0)
    if not allowed.size or allowed.max() < iou:
        return None
    return int(allowed.argmax())


def iou_matrix(
    first: Sequence[Sequence[float]] | NDArray[np.floating], second: Sequence[Sequence[float]] | NDArray[np.floating]
) -> NDArray[np.float64]:
    """(N, M) intersection over union of two sets of boxes, x1 y1 x2 y2."""
    a = np.asarray(first, np.float64).reshape(-1, 1, 4)
    b = np.asarray(second, np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(axis=2)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=2) + (b[..., 2:] - b[..., :2]).prod(axis=2)
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float64)
