"""What another bundle makes of fields that were read before: counts, decisions, and cells named otherwise. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.slides.differential import differential
from fleet.contract.cells import CellClassName, Decision, DetectionWire, FieldCounts
from models.runtime.matching import match_detections

NAMED_OTHERWISE, LOST, NEW = "named_otherwise", "lost", "new"
SAME_CELL_IOU = 0.5
CLASSES = (CellClassName.RBC, CellClassName.WBC, CellClassName.PLATELETS)


@dataclass(frozen=True, slots=True)
class Read:
    """One reading of one field."""

    decision: Decision
    reasons: tuple[str, ...]
    counts: FieldCounts
    detections: tuple[DetectionWire, ...]


@dataclass(frozen=True, slots=True)
class CellChange:
    """A white cell on which the two readings differ.

    Attributes:
        change: `named_otherwise`, `lost` (counted before only) or `new` (counted after only).
        bbox: x, y, width, height in pixels of the field; of the later reading where it has the cell.
        before, after: label, None where the cell is not counted.
        before_probability, after_probability: of the most probable type.
    """

    change: str
    bbox: tuple[float, float, float, float]
    before: str | None
    after: str | None
    before_probability: float | None
    after_probability: float | None


def white_changes(before: Sequence[DetectionWire], after: Sequence[DetectionWire]) -> list[CellChange]:
    """White cells that count in only one of two readings, or have another label in each."""
    old, new = _counted(before, CellClassName.WBC), _counted(after, CellClassName.WBC)
    pairs = _pairs(old, new)
    found = [_change(NAMED_OTHERWISE, old[i], new[j]) for i, j in pairs if _label(old[i]) != _label(new[j])]
    kept_old, kept_new = {i for i, _ in pairs}, {j for _, j in pairs}
    found += [_change(LOST, cell, None) for i, cell in enumerate(old) if i not in kept_old]
    found += [_change(NEW, None, cell) for j, cell in enumerate(new) if j not in kept_new]
    return found


def box_changes(before: Sequence[DetectionWire], after: Sequence[DetectionWire]) -> dict[str, dict[str, int]]:
    """By class, how many cells count only before (`lost`) or only after (`new`)."""
    found = {}
    for cls in CLASSES:
        old, new = _counted(before, cls), _counted(after, cls)
        same = len(_pairs(old, new))
        found[cls.value] = {LOST: len(old) - same, NEW: len(new) - same}
    return found


def _counted(cells: Sequence[DetectionWire], cls: CellClassName) -> list[DetectionWire]:
    return [cell for cell in cells if cell.counted and cell.cls is cls]


def _pairs(old: Sequence[DetectionWire], new: Sequence[DetectionWire]) -> list[tuple[int, int]]:
    matches = match_detections(
        boxes=[_corners(cell) for cell in old],
        scores=[cell.score for cell in old],
        classes=[0] * len(old),
        true_boxes=[_corners(cell) for cell in new],
        true_classes=[0] * len(new),
        iou=SAME_CELL_IOU,
    )
    return list(matches.pairs)


def _corners(cell: DetectionWire) -> tuple[float, float, float, float]:
    x, y, width, height = cell.bbox
    return (x, y, x + width, y + height)


def _change(kind: str, old: DetectionWire | None, new: DetectionWire | None) -> CellChange:
    shown = new if new is not None else old
    assert shown is not None
    return CellChange(kind, shown.bbox, _label(old), _label(new), _probability(old), _probability(new))


def _label(cell: DetectionWire | None) -> str | None:
    return None if cell is None or cell.cell_type is None else cell.cell_type.label


def _probability(cell: DetectionWire | None) -> float | None:
    if cell is None or cell.cell_type is None:
        return None
    return max(cell.cell_type.probabilities.values(), default=None)


def totals(reads: Iterable[Read]) -> dict[str, Any]:
    """Counts and differential over fields, as a slide has them: withheld fields are in none."""
    counted = [read.counts for read in reads if read.decision is not Decision.WITHHELD]
    white: Counter[str] = Counter()
    for counts in counted:
        white.update(counts.white_cells)
    return {
        "rbc": sum(counts.rbc for counts in counted),
        "wbc": sum(counts.wbc for counts in counted),
        "platelets": sum(counts.platelets for counts in counted),
        "white_cells": dict(sorted(white.items())),
        "differential": differential(white).rounded(),
    }
