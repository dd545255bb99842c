"""COCO's average precision with intervals: boxes are matched once, fields are resampled by their weights.

The point value is faster_coco_eval's, without its cap on the number of boxes a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass
from models.runtime.detector import Candidates
from models.runtime.matching import iou_matrix
from training.metrics import TrueCells

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMatches:
    """All boxes of one class over many fields, strongest first.

    Attributes:
        fields: (N,) number of the field that each box lies in.
        hits: (10, N) bool, whether it is a true cell not yet taken by a stronger one, at each overlap of `IOUS`.
        true: (F,) true cells of each field.
    """

    fields: NDArray[np.int64]
    hits: NDArray[np.bool_]
    true: NDArray[np.int64]


def match_class(truth: Sequence[TrueCells], found: Sequence[Candidates], cls: int) -> ClassMatches:
    """Match the boxes of a class to its true cells, field by field, at each overlap.

    Args:
        truth, found: by field; boxes in pixels of the field.
        cls: index into `CellClass`.
    """
    scores: list[NDArray[np.float32]] = []
    hits: list[NDArray[np.bool_]] = []
    fields: list[NDArray[np.int64]] = []
    true = np.zeros(len(truth), np.int64)
    for number, (cells, candidates) in enumerate(zip(truth, found, strict=True)):
        wanted = cells.boxes[cells.labels == cls]
        mine = candidates.take(candidates.classes == cls)
        mine = mine.take(np.argsort(-mine.scores, kind="stable"))
        true[number] = len(wanted)
        scores.append(mine.scores)
        hits.append(_field_hits(iou_matrix(mine.boxes, wanted)))
        fields.append(np.full(len(mine), number, np.int64))
    order = np.argsort(-np.concatenate([np.empty(0, np.float32), *scores]), kind="stable")
    where = np.concatenate([np.empty(0, np.int64), *fields])[order]
    return ClassMatches(where, np.concatenate([np.empty((len(IOUS), 0), bool), *hits], axis=1)[:, order], true)


def _field_hits(overlap: Array) -> NDArray[np.bool_]:
    """(10, N) whether each box, strongest first, gets a true cell; (N, M) overlaps."""
    boxes, cells = overlap.shape
    hits = np.zeros((len(IOUS), boxes), bool)
    if not cells:
        return hits
    free = np.ones((len(IOUS), cells), bool)
    rows = np.arange(len(IOUS))
    # Reversed, because of two equal overlaps COCO takes the later cell.
    for box in np.nonzero(overlap.max(axis=1) >= IOUS[0])[0]:
        open_to = np.where(free, overlap[box], -1.0)[:, ::-1]
        best = open_to.argmax(axis=1)
        hit = open_to[rows, best] >= IOUS
        hits[:, box] = hit
        free[rows[hit], cells - 1 - best[hit]] = False
    return hits


def precision(matches: ClassMatches, weights: NDArray[np.int32] | None = None, *, ious: int = len(IOUS)) -> Array:
    """(ious, 101) precision at each recall of `RECALLS`, for the first overlaps of `IOUS`.

    Args:
        matches: of one class.
        weights: (F,) how often each field occurs; once by default.
        ious: number of overlaps, from .50 upwards.

    Returns:
        NaN throughout where no true cell occurs.
    """
    counts = np.ones(len(matches.true), np.int32) if weights is None else weights
    wanted = int(counts @ matches.true)
    if not wanted:
        return np.full((ious, len(RECALLS)), np.nan)
    of_box = counts[matches.fields].astype(np.float64)
    right = np.cumsum(matches.hits[:ious] * of_box, axis=1)
    # Divided by one at least: boxes that occur in no field yet are neither right nor wrong.
    exact = right / np.maximum(np.cumsum(of_box), 1.0)
    envelope = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([envelope, np.zeros((ious, 1))], axis=1)
    recall = right / wanted
    return np.stack([padded[i, np.searchsorted(recall[i], RECALLS, side="left")] for i in range(ious)])


@dataclass(frozen=True, slots=True, eq=False)
class Precisions:
    """Average precision of one set, as a point and over resamples.

    Attributes:
        point: figure -> value: `map50`, `map`, and for each class that occurs `map50_RBC`, `map_RBC` and so on.
        resampled: figure -> (R,) values.
        curves: class -> (10, 101) precision.
    """

    point: dict[str, float]
    resampled: dict[str, Array]
    curves: dict[str, Array]


def average_precisions(
    truth: Sequence[TrueCells],
    found: Sequence[Candidates],
    weights: NDArray[np.int32],
    *,
    only_at_50: bool = False,
) -> Precisions:
    """Average precision overall and by class.

    Args:
        truth, found: by field.
        weights: (R, F) how often each field occurs in each resample; see `training.intervals.group_weights`.
        only_at_50: leave out what needs the larger overlaps: faster.
    """
    ious = 1 if only_at_50 else len(IOUS)
    classes = [c for c in range(len(CellClass)) if any((t.labels == c).any() for t in truth)]
    names = [str(list(CellClass)[c]) for c in classes]
    matches = [match_class(truth, found, c) for c in classes]
    curves = {name: precision(m, ious=ious) for name, m in zip(names, matches, strict=True)}
    # (resamples, classes, overlaps)
    again = np.array([[precision(m, w, ious=ious).mean(axis=1) for m in matches] for w in weights])
    again = again.reshape(len(weights), len(classes), ious)
    point = np.array([curves[name].mean(axis=1) for name in names]).reshape(len(classes), ious)
    return Precisions(_named(point, names), _resampled(again, names), curves)


def _named(by_class: Array, names: Sequence[str]) -> dict[str, float]:
    return {key: float(values[0]) for key, values in _resampled(by_class[None], names).items()}


def _resampled(by_class: Array, names: Sequence[str]) -> dict[str, Array]:
    """Of (R, classes, overlaps) the figures by name, each (R,); a class without a true cell is left out of the mean."""
    if not names:
        return {"map50": np.zeros(len(by_class)), "map": np.zeros(len(by_class))}
    found = {"map50": _mean(by_class[:, :, 0])}
    whole = by_class.shape[2] == len(IOUS)
    if whole:
        found["map"] = _mean(by_class.mean(axis=2))
    for k, name in enumerate(names):
        found[f"map50_{name}"] = by_class[:, k, 0]
        if whole:
            found[f"map_{name}"] = by_class[:, k].mean(axis=1)
    return found


def _mean(by_class: Array) -> Array:
    there = np.isfinite(by_class)
    return np.asarray(np.where(there, by_class, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1), np.float64)
