"""From the pipeline's words to those of the wire, the store and the result file. Pure."""

from __future__ import annotations

from collections import Counter

from fleet.contract.cells import CellClassName, CellTypeWire, DetectionWire, FieldCounts
from models.bundle.manifest import UNIDENTIFIED, CellClass
from models.runtime.results import CellType, Detection, FieldAnalysis

BOX_DIGITS = 2
SCORE_DIGITS = 4


def detection(found: Detection) -> DetectionWire:
    """x1 y1 x2 y2 -> [x, y, width, height], pixels of the original frame; rounded to what means something."""
    x1, y1, x2, y2 = (round(float(v), BOX_DIGITS) for v in found.box)
    return DetectionWire(
        bbox=(x1, y1, round(max(0.0, x2 - x1), BOX_DIGITS), round(max(0.0, y2 - y1), BOX_DIGITS)),
        cls=CellClassName(found.cls.value),
        score=_ratio(found.score),
        counted=found.counted,
        cell_type=None if found.cell_type is None else cell_type(found.cell_type),
    )


def cell_type(found: CellType) -> CellTypeWire:
    """A white cell's type."""
    return CellTypeWire(
        label=found.label,
        probabilities={name: _ratio(value) for name, value in found.probabilities.items()},
        prediction_set=found.prediction_set,
        in_domain=found.in_domain,
        ood_score=round(float(found.ood_score), SCORE_DIGITS),
    )


def counts(analysis: FieldAnalysis) -> FieldCounts:
    """Counted cells of a field."""
    white = analysis.counted(CellClass.WBC)
    labels = Counter(cell.cell_type.label if cell.cell_type is not None else UNIDENTIFIED for cell in white)
    return FieldCounts(
        rbc=len(analysis.counted(CellClass.RBC)),
        wbc=len(white),
        platelets=len(analysis.counted(CellClass.PLATELETS)),
        white_cells=dict(sorted(labels.items())),
    )


def _ratio(value: float) -> float:
    return min(1.0, max(0.0, round(float(value), SCORE_DIGITS)))
