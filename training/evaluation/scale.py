"""Counts that must not depend on the size of the picture: a field at half, full and double size; dense fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import models.synthetic as synthetic
from models.bundle.manifest import CellClass
from models.runtime.imaging import read_image
from models.runtime.matching import match_detections
from models.runtime.pipeline import Pipeline
from training.data.coco import FieldRecord
from training.data.generated import MIN_VISIBLE_RATIO
from training.evaluation.fields import Step, red_cells
from training.shifts import scale

FACTORS = (0.5, 1.0, 2.0)
FULL = FACTORS.index(1.0)
RED = tuple(CellClass).index(CellClass.RBC)
ALLOWED_CHANGE = 0.03
DENSE_SEED = 950_001
DENSE_SIZES = ((2560, 1920, 0.125), (1280, 960, 0.25), (4000, 3000, 0.125))
"""Width and height in pixels, micrometres a pixel: more than 600 red cells of 60 pixels, of 30, and more than 1,700."""


def scale_consistency(pipeline: Pipeline, records: Sequence[FieldRecord], step: Step) -> dict[str, Any]:
    """How far the count of red cells, and its error against the annotations, move when a field is given at other sizes.

    Returns:
        What `consistency` makes of the counts.
    """
    counts = []
    for record in records:
        image = read_image(record.path)
        sizes = [image if f == 1.0 else scale(f)(image, record.boxes, 0)[0] for f in FACTORS]
        counts.append([red_cells(pipeline.analyse(size)) for size in sizes])
        step()
    true = [int((record.labels == RED).sum()) for record in records]
    return consistency(counts, true, [record.path.name for record in records])


def consistency(counts: Sequence[Sequence[int]], true: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Figures of counts at several sizes.

    Args:
        counts: red cells counted, a row for each field, a column for each of `FACTORS`.
        true: red cells annotated in each field.
        names: of the fields.

    Returns:
        `fields` with red cells at full size; `change_field` median, mean and worst over fields and sizes, `change_sum`
        by size, as shares of the count at full size; `count_error` by size: error of the sum and mean absolute error of
        a field as shares of the annotated cells, and how far either is from its value at full size; `worst_file`;
        `within_sum` whether no sum moves further than allowed, `within_mean` whether no mean over fields does, and
        `within` both.
    """
    by_size = np.array(counts, np.float64).reshape(-1, len(FACTORS))
    full = by_size[:, FULL]
    known = full > 0
    moved = np.abs(by_size[known] - full[known, None]) / full[known, None]
    change = moved.max(axis=1)
    sums = by_size.sum(axis=0)
    by_sum = {str(f): float(s / max(1.0, full.sum()) - 1) for f, s in zip(FACTORS, sums, strict=True)}
    errors = _count_errors(by_size, np.array(true, np.float64))
    changes = [*by_sum.values(), *(e["change_sum"] for e in errors.values())]
    means = [e["change_field"] for e in errors.values()] + (moved.mean(axis=0).tolist() if len(moved) else [])
    within_sum = all(abs(v) <= ALLOWED_CHANGE for v in changes)
    within_mean = all(abs(v) <= ALLOWED_CHANGE for v in means)
    kept = [name for name, k in zip(names, known, strict=True) if k]
    return {
        "factors": list(FACTORS),
        "fields": int(known.sum()),
        "change_field": {
            "median": float(np.median(change)) if len(change) else None,
            "mean": float(change.mean()) if len(change) else None,
            "worst": float(change.max()) if len(change) else None,
            "fields_within": float((change <= ALLOWED_CHANGE).mean()) if len(change) else None,
        },
        "worst_file": kept[int(change.argmax())] if len(change) else None,
        "change_sum": by_sum,
        "count_error": errors,
        "within_sum": within_sum,
        "within_mean": within_mean,
        "within": within_sum and within_mean,
    }


def _count_errors(by_size: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """By size, against the annotated cells; empty where no field has any."""
    annotated = true > 0
    if not annotated.any():
        return {}
    counted, true = by_size[annotated], true[annotated]
    sums = counted.sum(axis=0) / true.sum() - 1
    fields = (np.abs(counted - true[:, None]) / true[:, None]).mean(axis=0)
    return {
        str(factor): {
            "sum": float(sums[i]),
            "field": float(fields[i]),
            "change_sum": float(sums[i] - sums[FULL]),
            "change_field": float(fields[i] - fields[FULL]),
        }
        for i, factor in enumerate(FACTORS)
    }


def dense_fields(
    pipeline: Pipeline, step: Step, *, sizes: Sequence[tuple[int, int, float]] = DENSE_SIZES
) -> list[dict[str, Any]]:
    """Red cells found in fields that hold more than six hundred of them: no cap may cut them.

    Args:
        pipeline, step: what reads.
        sizes: width and height in pixels, micrometres a pixel.
    """
    rows = []
    for width_px, height_px, um_per_px in sizes:
        field = synthetic.generate_field(
            DENSE_SEED,
            width_px=width_px,
            height_px=height_px,
            um_per_px=um_per_px,
            spec=synthetic.SlideSpec(seed=DENSE_SEED, rbc_per_field_mean=21.0),
        )
        true = [c for c in field.cells if c.visible_ratio >= MIN_VISIBLE_RATIO and c.cls == CellClass.RBC]
        analysis = pipeline.analyse(field.image)
        found = analysis.counted(CellClass.RBC)
        matches = match_detections(
            boxes=[d.box for d in found],
            scores=[d.score for d in found],
            classes=[d.cls for d in found],
            true_boxes=[c.box for c in true],
            true_classes=[CellClass.RBC] * len(true),
        )
        rows.append(
            {
                "width_px": width_px,
                "height_px": height_px,
                "true": len(true),
                "counted": len(found),
                "recall": matches.recall,
                "precision": matches.precision,
                "passes": analysis.passes,
                "latency_ms": analysis.latency_ms,
            }
        )
        step()
    return rows
