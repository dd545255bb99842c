"""White cells the way they are used: found by the detector, cut, named. A cell that was not found is an error.

Site sets are resampled by slide, within the type that a slide mostly holds, so that no resample lacks a type; single
cells by near-duplicate group.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import HEAD_NAME, UNIDENTIFIED, CellClass, WhiteCellType
from models.runtime.head import Head, load_head
from models.runtime.imaging import read_image
from models.runtime.pipeline import Pipeline
from models.runtime.results import CellType, Detection, FieldAnalysis
from training.data.typed_fields import typed_fields
from training.errors import DataError
from training.evaluate import match_white
from training.evaluation import probabilities as scores
from training.evaluation.fields import Step
from training.intervals import group_weights, mean_interval, percentile
from training.selective import Choices, selective_figures, sureness

TYPES = tuple(kind.value for kind in WhiteCellType)
WORST_CELLS = 48
Array = NDArray[np.float64]
BoxTuple = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ReadCell:
    """One white cell of known type and what the bundle made of it.

    Attributes:
        file: the picture, relative to the data folder.
        group: what it is resampled with: near-duplicate group or slide.
        label: index into `WhiteCellType`.
        box: where it lies in the picture, None where neither annotated nor found.
        said: the bundle's word, None for a cell that was not found.
    """

    file: str
    group: str
    label: int
    box: BoxTuple | None
    said: CellType | None


def head_of(pipeline: Pipeline) -> Head:
    """The bundle's head."""
    spec = pipeline.bundle.manifest
    return load_head(pipeline.bundle.files[HEAD_NAME], spec.head, spec.embedder.dimensions)


@dataclass(frozen=True, slots=True)
class CellPicture:
    """A picture with one white cell in its middle.

    Attributes:
        path: of the picture.
        file: the same, relative to the data folder.
        group: near-duplicate group.
        label: index into `WhiteCellType`; -1 for a cell that is none of them.
        seen_by_detector: split of the detector's own data that holds the picture, "" for none.
    """

    path: Path
    file: str
    group: str
    label: int
    seen_by_detector: str = ""


def cell_pictures(root: Path, dataset: str, split: str) -> list[CellPicture]:
    """Pictures of a split of a single-cell set.

    Raises:
        DataError: absent, damaged, or a class that is none of the five.
    """
    table = root / dataset / "labels.csv"
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == split]
        return [
            CellPicture(
                root / dataset / r["file"],
                f"{dataset}/{r['file']}",
                r["group"],
                TYPES.index(r["class"]),
                r["txl_det_split"],
            )
            for r in rows
        ]
    except FileNotFoundError as exc:
        raise DataError(f"{table}: there is no such file; is the data set complete?") from exc
    except (OSError, KeyError, ValueError) as exc:
        raise DataError(f"{table}: cannot be read as a table of white cells: {exc}") from exc


def nearest_white(analysis: FieldAnalysis) -> Detection | None:
    """The counted white cell nearest to the middle of the picture."""
    middle = (analysis.width_px / 2, analysis.height_px / 2)

    def off(found: Detection) -> float:
        x1, y1, x2, y2 = found.box
        return abs((x1 + x2) / 2 - middle[0]) + abs((y1 + y2) / 2 - middle[1])

    return min(analysis.counted(CellClass.WBC), key=off, default=None)


def read_pictures(pipeline: Pipeline, pictures: Iterable[CellPicture], step: Step) -> list[ReadCell]:
    """Read single-cell pictures; the counted white cell nearest to the middle is taken."""
    cells = []
    for picture in pictures:
        found = nearest_white(pipeline.analyse(read_image(picture.path)))
        box, said = (found.box, found.cell_type) if found is not None else (None, None)
        cells.append(ReadCell(picture.file, picture.group, picture.label, box, said))
        step()
    return cells


def slides_of(annotations: Path) -> dict[str, str]:
    """Picture -> slide of a COCO file; the picture itself where no slide is named.

    Raises:
        DataError: absent or damaged.
    """
    try:
        raw = json.loads(annotations.read_text(encoding="utf-8"))
        return {image["file_name"]: str(image.get("slide", image["file_name"])) for image in raw["images"]}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{annotations}: cannot be read as COCO: {exc}") from exc


def read_site(
    pipeline: Pipeline, root: Path, dataset: str, step: Step, *, limit: int | None = None
) -> tuple[list[ReadCell], list[ReadCell]]:
    """Read the fields of another laboratory with typed white cells.

    Args:
        pipeline, root, dataset, step: what reads which set.
        limit: about so many fields, evenly spread, for a quick look.

    Returns:
        The cells as the detector finds them, and the same cells at their annotated boxes.
    """
    annotations = root / dataset / "annotations.json"
    slides, head = slides_of(annotations), head_of(pipeline)
    spec = pipeline.bundle.manifest.head
    found: list[ReadCell] = []
    boxed: list[ReadCell] = []
    every = 1 if limit is None else max(1, len(slides) // max(1, limit))
    for number, example in enumerate(typed_fields(annotations)):
        if number % every:
            continue
        analysis = pipeline.analyse(example.image)
        embeddings = pipeline.embed(example.image, example.boxes, analysis.rbc_diameter_px)
        at_boxes = head.read_types(embeddings, spec)
        in_use = match_white(analysis.detections, example.boxes)
        for i, kind in enumerate(example.cell_types):
            x1, y1, x2, y2 = (float(v) for v in example.boxes[i])
            known = (f"{dataset}/{example.group}", slides[example.group], TYPES.index(kind), (x1, y1, x2, y2))
            found.append(ReadCell(*known, in_use[i]))
            boxed.append(ReadCell(*known, at_boxes[i]))
        step()
    return found, boxed


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Cells as arrays; rows of `chances` of missed cells are nought."""

    labels: NDArray[np.int64]
    chances: Array
    top: NDArray[np.int64]
    missed: NDArray[np.bool_]
    named: NDArray[np.bool_]
    in_domain: NDArray[np.bool_]


def _columns(cells: Sequence[ReadCell]) -> _Columns:
    labels = np.array([c.label for c in cells], np.int64)
    said = [c.said for c in cells]
    chances = np.array([[s.probabilities.get(t, 0.0) if s else 0.0 for t in TYPES] for s in said], np.float64)
    chances = chances.reshape(-1, len(TYPES))
    missed = np.array([s is None for s in said], bool)
    return _Columns(
        labels=labels,
        chances=chances,
        top=np.where(missed, len(TYPES), chances.argmax(axis=1)),
        missed=missed,
        named=np.array([s is not None and s.label != UNIDENTIFIED for s in said], bool),
        in_domain=np.array([s is not None and s.in_domain for s in said], bool),
    )


def cell_weights(cells: Sequence[ReadCell], *, resamples: int, seed: int) -> NDArray[np.int32]:
    """(R, N) resamples by group, within the type that a group mostly holds."""
    strata = [TYPES[c.label] for c in cells]
    return group_weights([c.group for c in cells], resamples=resamples, seed=seed, strata=strata)


def balanced(labels: NDArray[np.int64], right: NDArray[np.bool_], weights: NDArray[np.int32]) -> tuple[float, Array]:
    """Mean of the types' recalls over the types that occur: the value, and (R,) resampled ones."""
    everyone = np.ones((1, len(labels)), np.int32)
    return float(_balanced(labels, right, everyone)[0]), _balanced(labels, right, weights)


def _balanced(labels: NDArray[np.int64], right: NDArray[np.bool_], weights: NDArray[np.int32]) -> Array:
    recalls = []
    for label in np.unique(labels):
        own = labels == label
        total = weights[:, own].sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls.append((weights[:, own] @ right[own]) / total)
    return np.asarray(np.nanmean(np.stack(recalls), axis=0), np.float64)


def cell_set(cells: Sequence[ReadCell], pipeline: Pipeline, *, resamples: int, seed: int, by: str) -> dict[str, Any]:
    """Every figure of a set of white cells.

    Args:
        cells: at least one.
        pipeline: whose bundle read them.
        resamples, seed: of the bootstrap.
        by: what a group is, in words.
    """
    c = _columns(cells)
    weights = cell_weights(cells, resamples=resamples, seed=seed)
    right = c.top == c.labels
    recall = {
        TYPES[k]: mean_interval(right[c.labels == k].astype(float), weights[:, c.labels == k]).as_json()
        for k in np.unique(c.labels).tolist()
    }
    found = ~c.missed
    figures: dict[str, Any] = {
        "cells": len(cells),
        "groups": len({cell.group for cell in cells}),
        "resampled_by": by,
        "found": mean_interval(found.astype(float), weights).as_json(),
        "balanced_accuracy": percentile(*balanced(c.labels, right, weights)).as_json(),
        "balanced_accuracy_found": _or_none(c.labels[found], right[found], weights[:, found]),
        "recall": recall,
        "confusion": _confusion(c.labels, c.top, len(TYPES) + 1),
        "confusion_named": _confusion(
            c.labels, np.where(c.missed, len(TYPES) + 1, np.where(c.named, c.top, len(TYPES))), len(TYPES) + 2
        ),
        "in_domain": mean_interval(c.in_domain[found].astype(float), weights[:, found]).as_json()
        if found.any()
        else None,
        "selective": selective_figures(
            Choices(sureness(c.chances.max(axis=1), c.in_domain, c.missed), right, c.named), weights
        ),
        "worst": _worst(cells, c),
    }
    if found.any():
        temperature = float(head_of(pipeline).temperature)
        figures["probabilities"] = _probabilities(c.chances[found], c.labels[found], weights[:, found], temperature)
        figures["conformal"] = _conformal(
            [cell for cell in cells if cell.said is not None], weights[:, found], pipeline.bundle.manifest.head.coverage
        )
    return figures


def _or_none(labels: NDArray[np.int64], right: NDArray[np.bool_], weights: NDArray[np.int32]) -> Any:
    return percentile(*balanced(labels, right, weights)).as_json() if len(labels) else None


def _confusion(labels: NDArray[np.int64], said: NDArray[np.int64], columns: int) -> list[list[int]]:
    table = np.zeros((len(TYPES), columns), int)
    np.add.at(table, (labels, said), 1)
    rows: list[list[int]] = table.tolist()
    return rows


def _probabilities(
    chances: Array, labels: NDArray[np.int64], weights: NDArray[np.int32], temperature: float
) -> dict[str, Any]:
    """Over the cells that were found, beside the same head without its temperature."""
    plain = scores.at_temperature(chances, temperature)
    said: dict[str, Any] = {"temperature": temperature, "cells": len(labels)}
    for name, of in (("calibrated", chances), ("uncalibrated", plain)):
        said[name] = {
            "nll": mean_interval(scores.log_losses(of, labels), weights).as_json(),
            "brier": mean_interval(scores.brier_scores(of, labels), weights).as_json(),
            "ece": scores.calibration_error(of, labels, weights).as_json(),
            "reliability": scores.reliability(of, labels),
        }
    nll = scores.log_losses(chances, labels) - scores.log_losses(plain, labels)
    brier = scores.brier_scores(chances, labels) - scores.brier_scores(plain, labels)
    said["difference"] = {
        "nll": mean_interval(nll, weights).as_json(),
        "brier": mean_interval(brier, weights).as_json(),
    }
    return said


def _conformal(found: Sequence[ReadCell], weights: NDArray[np.int32], nominal: float) -> dict[str, Any]:
    sets = [cell.said.prediction_set if cell.said else () for cell in found]
    held = np.array([TYPES[cell.label] in s for cell, s in zip(found, sets, strict=True)], np.float64)
    sizes = np.array([len(s) for s in sets], np.float64)
    labels = np.array([cell.label for cell in found])
    return {
        "nominal": nominal,
        "coverage": mean_interval(held, weights).as_json(),
        "coverage_by_type": {
            TYPES[k]: mean_interval(held[labels == k], weights[:, labels == k]).as_json()
            for k in np.unique(labels).tolist()
        },
        "mean_size": mean_interval(sizes, weights).as_json(),
        "sizes": {str(n): int((sizes == n).sum()) for n in np.unique(sizes).astype(int).tolist()},
    }


def _worst(cells: Sequence[ReadCell], c: _Columns) -> list[dict[str, Any]]:
    """Wrong names first, the surest on top; then cells that were not found, types in turns; then wrong ones unnamed."""
    rows = []
    turn: Counter[int] = Counter()
    for i, cell in enumerate(cells):
        if c.top[i] == c.labels[i]:
            continue
        missed = cell.said is None
        row = {
            "file": cell.file,
            "box": None if cell.box is None else [round(v, 1) for v in cell.box],
            "true": TYPES[cell.label],
            "said": "not found" if missed else TYPES[int(c.top[i])],
            "probability": None if missed else round(float(c.chances[i].max()), 4),
            "named": bool(c.named[i]),
        }
        turn[cell.label] += missed
        rank = turn[cell.label] if missed else -float(c.chances[i].max())
        rows.append(((not c.named[i], not missed, rank, cell.file), row))
    rows.sort(key=lambda pair: pair[0])
    return [row for _, row in rows[:WORST_CELLS]]
