"""Measures a bundle through the one pipeline: boxes, counts, white-cell types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import UNIDENTIFIED, CellClass, DetectorSpec, WhiteCellType
from models.runtime.detector import Candidates
from models.runtime.matching import iou_matrix
from models.runtime.pipeline import Pipeline
from models.runtime.results import CellType, Detection, FieldAnalysis, FloatArray
from training.data.generated import FieldExample
from training.metrics import TrueCells, balanced_accuracy, coco_map, count_error, rank

TYPES = tuple(kind.value for kind in WhiteCellType)
CLASSES = tuple(CellClass)


def as_candidates(analysis: FieldAnalysis) -> Candidates:
    """The detections of a field as arrays."""
    found = analysis.detections
    boxes = np.array([d.box for d in found], np.float32).reshape(-1, 4)
    scores = np.array([d.score for d in found], np.float32)
    classes = np.array([CLASSES.index(d.cls) for d in found], np.int32)
    return Candidates(boxes, scores, classes)


@dataclass(frozen=True, slots=True, eq=False)
class FieldFigures:
    """What was measured on a set of fields.

    Attributes:
        fields: number of fields.
        average_precision: `map50`, `map` and per class.
        f1: F1 at IoU .5 of the counted detections, by class.
        count_error: by class, mean absolute error a field and error of the sum as a ratio.
        latency_ms: median of a field.
    """

    fields: int
    average_precision: dict[str, float]
    f1: dict[str, float]
    count_error: dict[str, dict[str, float]]
    latency_ms: float


def evaluate_fields(pipeline: Pipeline, examples: Iterable[FieldExample]) -> FieldFigures:
    """Read fields with known boxes."""
    floor = pipeline.bundle.manifest.detector.floor_score
    truth, analyses = [], []
    for example in examples:
        truth.append(TrueCells(example.boxes, example.labels))
        analyses.append(pipeline.analyse(example.image, min_score=floor))
    return field_figures(truth, analyses, pipeline.bundle.manifest.detector)


def field_figures(truth: Sequence[TrueCells], analyses: Sequence[FieldAnalysis], spec: DetectorSpec) -> FieldFigures:
    """Figures of fields that were read with every detection down to the floor listed."""
    found = [as_candidates(a) for a in analyses]
    f1, errors = {}, {}
    for index, cls in enumerate(CLASSES):
        f1[str(cls)] = rank(truth, found, cls=index).f1_at(spec.thresholds[cls])
        errors[str(cls)] = count_error(
            [int((t.labels == index).sum()) for t in truth], [len(a.counted(cls)) for a in analyses]
        )
    latency_ms = float(np.median([a.latency_ms for a in analyses])) if analyses else 0.0
    return FieldFigures(len(truth), coco_map(truth, found), f1, errors, latency_ms)


@dataclass(slots=True)
class CellTally:
    """White cells with known type, as the pipeline named them."""

    true: list[int] = field(default_factory=list)
    found: list[CellType | None] = field(default_factory=list)

    def add(self, label: int, said: CellType | None) -> None:
        """One cell; None where the detector did not find it."""
        self.true.append(label)
        self.found.append(said)

    def figures(self) -> dict[str, float]:
        """Accuracy, acceptance and sets, each over the cells that the detector found unless the name says otherwise."""
        kept = [(t, c) for t, c in zip(self.true, self.found, strict=True) if c is not None]
        if not kept:
            return {"cells": float(len(self.true)), "found": 0.0}
        true = np.array([t for t, _ in kept], np.int64)
        top = np.array([TYPES.index(max(c.probabilities, key=c.probabilities.__getitem__)) for _, c in kept])
        named = np.array([c.label != UNIDENTIFIED for _, c in kept])
        held = np.array([TYPES[t] in c.prediction_set for t, c in kept])
        right = top == true
        return {
            "cells": float(len(self.true)),
            "found": len(kept) / len(self.true),
            "accuracy": float(right.mean()),
            "balanced_accuracy": balanced_accuracy(true, top),
            "accepted": float(named.mean()),
            "accepted_accuracy": float(right[named].mean()) if named.any() else 0.0,
            "in_domain": float(np.mean([c.in_domain for _, c in kept])),
            "set_coverage": float(held.mean()),
            "set_size": float(np.mean([len(c.prediction_set) for _, c in kept])),
        }


def match_white(detections: Sequence[Detection], boxes: FloatArray) -> list[CellType | None]:
    """For each true white cell the type of the counted detection that overlaps it best, at IoU .5 or more."""
    white = [d for d in detections if d.counted and d.cls is CellClass.WBC]
    overlap = iou_matrix([d.box for d in white], boxes)
    said: list[CellType | None] = []
    for column in range(len(boxes)):
        best = int(overlap[:, column].argmax()) if white else -1
        said.append(white[best].cell_type if best >= 0 and overlap[best, column] >= 0.5 else None)
    return said


def evaluate_generated(pipeline: Pipeline, examples: Sequence[FieldExample]) -> tuple[FieldFigures, dict[str, float]]:
    """Boxes and types of generated fields, against the generator's truth."""
    floor, tally = pipeline.bundle.manifest.detector.floor_score, CellTally()
    truth, analyses = [], []
    for example in examples:
        analysis = pipeline.analyse(example.image, min_score=floor)
        truth.append(TrueCells(example.boxes, example.labels))
        analyses.append(analysis)
        index = [i for i, kind in enumerate(example.cell_types) if kind in TYPES]
        said = match_white(analysis.detections, example.boxes[index].reshape(-1, 4))
        for i, cell in zip(index, said, strict=True):
            tally.add(TYPES.index(example.cell_types[i]), cell)
    return field_figures(truth, analyses, pipeline.bundle.manifest.detector), tally.figures()


def evaluate_typed_fields(pipeline: Pipeline, examples: Iterable[FieldExample]) -> dict[str, float]:
    """Types of white cells in whole fields with known boxes and types; other cells need not be annotated."""
    tally = CellTally()
    for example in examples:
        said = match_white(pipeline.analyse(example.image).detections, example.boxes)
        for kind, cell in zip(example.cell_types, said, strict=True):
            tally.add(TYPES.index(kind), cell)
    return tally.figures()


@dataclass(frozen=True, slots=True, eq=False)
class SingleCell:
    """A picture with one white cell in its middle.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label: index into `WhiteCellType`.
    """

    image: NDArray[np.uint8]
    label: int


def evaluate_cells(pipeline: Pipeline, cells: Iterable[SingleCell]) -> dict[str, float]:
    """Types of single-cell pictures: the counted white cell nearest to the middle is taken."""
    tally = CellTally()
    for cell in cells:
        height, width = cell.image.shape[:2]
        white = pipeline.analyse(cell.image).counted(CellClass.WBC)
        nearest = min(white, key=lambda d: _off_centre(d, width / 2, height / 2), default=None)
        tally.add(cell.label, nearest.cell_type if nearest else None)
    return tally.figures()


def _off_centre(detection: Detection, x_px: float, y_px: float) -> float:
    x1, y1, x2, y2 = detection.box
    return abs((x1 + x2) / 2 - x_px) + abs((y1 + y2) / 2 - y_px)


def as_json(figures: FieldFigures) -> dict[str, Any]:
    """Plain data of field figures."""
    return {
        "fields": figures.fields,
        **figures.average_precision,
        "f1": figures.f1,
        "count_error": figures.count_error,
        "latency_ms": figures.latency_ms,
    }
