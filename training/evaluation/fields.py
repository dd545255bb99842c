"""Fields with known boxes: read once, measured as a whole, by laboratory, under shifts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle.manifest import CellClass, DetectorSpec
from models.runtime.imaging import read_image
from models.runtime.matching import match_detections
from models.runtime.pipeline import Pipeline
from models.runtime.results import FieldAnalysis
from training.data.coco import FieldRecord
from training.data.generated import FieldExample
from training.evaluate import CLASSES, as_candidates, field_figures
from training.evaluation.average_precision import IOUS, Precisions, average_precisions
from training.intervals import group_weights, percentile
from training.metrics import TrueCells
from training.shifts import AS_IT_IS, SHIFTS, Shift

Step = Callable[[], None]
ALLOWED_FALL = 0.05
"""mAP50 under a shift may lie this far below the clean fields'."""
WORST_FIELDS = 24


@dataclass(frozen=True, slots=True, eq=False)
class ReadField:
    """A field with its truth and what the bundle found.

    Attributes:
        file: the picture, relative to the data folder; "" for a generated one.
        group: near-duplicate group.
        source: laboratory or set that it comes from.
        truth: boxes and classes, pixels of the field.
        analysis: every detection down to the bundle's floor.
    """

    file: str
    group: str
    source: str
    truth: TrueCells
    analysis: FieldAnalysis


def read_records(
    pipeline: Pipeline, records: Iterable[FieldRecord], root: Path, step: Step, *, shift: Shift | None = None
) -> list[ReadField]:
    """Read annotated fields, as they are or under a shift; a field's place in the list seeds its shift."""
    floor, found = pipeline.bundle.manifest.detector.floor_score, []
    for number, record in enumerate(records):
        image, boxes = read_image(record.path), record.boxes
        if shift is not None:
            image, boxes = shift.apply(image, boxes, number)
        analysis = pipeline.analyse(image, min_score=floor)
        file = record.path.relative_to(root).as_posix() if record.path.is_relative_to(root) else record.path.name
        found.append(ReadField(file, record.group, record.source, TrueCells(boxes, record.labels), analysis))
        step()
    return found


def read_examples(pipeline: Pipeline, examples: Iterable[FieldExample], step: Step) -> list[ReadField]:
    """Read generated fields."""
    floor, found = pipeline.bundle.manifest.detector.floor_score, []
    for example in examples:
        analysis = pipeline.analyse(example.image, min_score=floor)
        found.append(
            ReadField("", example.group, "generated", TrueCells(example.boxes, example.labels), analysis),
        )
        step()
    return found


def field_set(fields: Sequence[ReadField], spec: DetectorSpec, *, resamples: int, seed: int) -> dict[str, Any]:
    """Every figure of a set: average precision with intervals, F1, counts, curves, by laboratory, the worst fields."""
    truth = [f.truth for f in fields]
    figures = field_figures(truth, [f.analysis for f in fields], spec)
    said = _precisions(fields, resamples=resamples, seed=seed)
    sources = sorted({f.source for f in fields})
    slices = {s: [f for f in fields if f.source == s] for s in sources} if len(sources) > 1 else {}
    return {
        "fields": len(fields),
        "groups": len({f.group for f in fields}),
        "cells": _cells(fields),
        "average_precision": _intervals(said),
        "f1": figures.f1,
        "count_error": figures.count_error,
        "latency_ms": figures.latency_ms,
        "curves": {name: _curve(curve) for name, curve in said.curves.items()},
        "slices": {
            name: {
                "fields": len(own),
                "cells": _cells(own),
                "average_precision": _intervals(_precisions(own, resamples=resamples, seed=seed)),
            }
            for name, own in slices.items()
        },
        "worst": _worst(fields),
    }


def _cells(fields: Sequence[ReadField]) -> dict[str, int]:
    """True cells by class."""
    return {str(cls): sum(int((f.truth.labels == i).sum()) for f in fields) for i, cls in enumerate(CLASSES)}


def _precisions(fields: Sequence[ReadField], *, resamples: int, seed: int, only_at_50: bool = False) -> Precisions:
    weights = group_weights([f.group for f in fields], resamples=resamples, seed=seed)
    found = [as_candidates(f.analysis) for f in fields]
    return average_precisions([f.truth for f in fields], found, weights, only_at_50=only_at_50)


def _intervals(said: Precisions) -> dict[str, Any]:
    return {name: percentile(value, said.resampled[name]).as_json() for name, value in said.point.items()}


def _curve(curve: Any) -> dict[str, list[float]]:
    at_75 = int(np.argmin(np.abs(IOUS - 0.75)))
    return {"iou_50": curve[0].round(5).tolist(), "iou_75": curve[at_75].round(5).tolist()}


def _worst(fields: Sequence[ReadField]) -> list[dict[str, Any]]:
    """Fields with the most wrong: cells missed and cells found that are none, at the bundle's thresholds."""
    rows: list[dict[str, Any]] = []
    for field in fields:
        counted = [d for d in field.analysis.detections if d.counted]
        true = [CLASSES[c] for c in field.truth.labels.tolist()]
        matches = match_detections(
            boxes=[d.box for d in counted],
            scores=[d.score for d in counted],
            classes=[d.cls for d in counted],
            true_boxes=field.truth.boxes,
            true_classes=true,
        )
        hit, met = {a for a, _ in matches.pairs}, {b for _, b in matches.pairs}
        missed = [[*_box(b), str(true[i])] for i, b in enumerate(field.truth.boxes.tolist()) if i not in met]
        false = [[*_box(d.box), str(d.cls)] for i, d in enumerate(counted) if i not in hit]
        if field.file and (missed or false):
            rows.append({"file": field.file, "cells": len(true), "missed": missed, "false": false})
    rows.sort(key=lambda r: (-(len(r["missed"]) + len(r["false"])), r["file"]))
    return rows[:WORST_FIELDS]


def _box(box: Sequence[float]) -> list[Any]:
    return [round(float(v), 1) for v in box]


def shifted_sets(
    pipeline: Pipeline,
    records: Sequence[FieldRecord],
    root: Path,
    step: Step,
    *,
    resamples: int,
    seed: int,
    shifts: Sequence[Shift] = SHIFTS,
) -> list[dict[str, Any]]:
    """mAP50 under each shift and its difference from the clean fields', by a paired bootstrap."""
    clean = _precisions(read_records(pipeline, records, root, step), resamples=resamples, seed=seed, only_at_50=True)
    rows = [_shift_row(AS_IT_IS, clean, clean)]
    for shift in shifts:
        read = read_records(pipeline, records, root, step, shift=shift)
        rows.append(_shift_row(shift, _precisions(read, resamples=resamples, seed=seed, only_at_50=True), clean))
    return rows


def _shift_row(shift: Shift, said: Precisions, clean: Precisions) -> dict[str, Any]:
    difference = percentile(
        said.point["map50"] - clean.point["map50"], said.resampled["map50"] - clean.resampled["map50"]
    )
    return {
        "name": shift.name,
        "kind": shift.kind,
        "strength": shift.strength,
        "words": shift.words,
        "average_precision": _intervals(said),
        "difference": difference.as_json(),
        "within": difference.value >= -ALLOWED_FALL,
    }


def red_cells(analysis: FieldAnalysis) -> int:
    """Red cells that count."""
    return len(analysis.counted(CellClass.RBC))
