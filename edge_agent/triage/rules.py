"""What to make of a field: accept, uncertain or withheld. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from fleet.contract.cells import Decision
from models.bundle.manifest import UNIDENTIFIED, CellClass
from models.runtime.results import Detection, FieldAnalysis

CELL_UNIDENTIFIED = "cell_unidentified"
CELL_FOREIGN = "cell_foreign"
WEAK_WHITE_CELL = "weak_white_cell"
SCALE_UNKNOWN = "scale_unknown"


class TriagePolicy(BaseModel):
    """When a field is sent for a second opinion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weak_white_cell_score: float = Field(
        0.35,
        ge=0.05,
        le=1,
        description="a white cell not counted but at least this sure makes a field uncertain",
    )
    scale_needs_red_cells: bool = Field(
        True, description="white cells named without a red cell to take the scale from make a field uncertain"
    )


@dataclass(frozen=True, slots=True)
class Triage:
    """The decision and every reason for it, machine codes in a fixed order."""

    decision: Decision
    reasons: tuple[str, ...] = ()


def decide(analysis: FieldAnalysis, gate_reasons: Sequence[str], policy: TriagePolicy) -> Triage:
    """Withheld when the gate has a reason; else uncertain when a white cell is in doubt; else accepted.

    Confidence and domain are asked apart: a model can be sure of a cell of a kind it has never seen.

    Args:
        analysis: detections down to `policy.weak_white_cell_score`.
        gate_reasons: of the quality gate.
        policy: limits.
    """
    if gate_reasons:
        return Triage(Decision.WITHHELD, tuple(str(reason) for reason in gate_reasons))
    white = [cell for cell in analysis.detections if cell.cls is CellClass.WBC]
    counted = [cell for cell in white if cell.counted]
    rules = (
        (any(_unidentified(cell) for cell in counted), CELL_UNIDENTIFIED),
        (any(cell.cell_type is not None and not cell.cell_type.in_domain for cell in counted), CELL_FOREIGN),
        (any(not c.counted and c.score >= policy.weak_white_cell_score for c in white), WEAK_WHITE_CELL),
        (policy.scale_needs_red_cells and bool(counted) and analysis.rbc_diameter_px is None, SCALE_UNKNOWN),
    )
    reasons = tuple(reason for holds, reason in rules if holds)
    return Triage(Decision.UNCERTAIN, reasons) if reasons else Triage(Decision.ACCEPT)


def _unidentified(cell: Detection) -> bool:
    return cell.cell_type is None or cell.cell_type.label == UNIDENTIFIED
