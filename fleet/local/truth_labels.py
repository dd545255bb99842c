"""A stand-in for a reader who is always right: labels by what the simulated microscope has drawn. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.contract.cells import DetectionWire
from fleet.contract.http import CellLabel, CellOpinion, SecondOpinion
from models.bundle.manifest import UNIDENTIFIED
from models.runtime.matching import iou_matrix

MATCH_IOU = 0.5
ARTEFACT = "artefact"
NOT_CLASSED = "not_classed"

Box = tuple[float, float, float, float]
Truth = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UnsureCell:
    """A cell that the edge left unnamed, and what it is.

    Attributes:
        opinion: id of the second opinion whose image shows it.
        box: x y w h, pixels of the image.
        label: its true type.
    """

    opinion: str
    box: Box
    label: str


def labels_of(opinion: SecondOpinion, truth: Sequence[Truth]) -> tuple[CellLabel, ...]:
    """One label for each white cell that either model saw; `artefact` where nothing of the kind was drawn."""
    return tuple(
        CellLabel(cell=place, label=true_type(_seen(cell).bbox, truth) or ARTEFACT)
        for place, cell in enumerate(opinion.cells)
    )


def labels_by_larger_model(opinion: SecondOpinion) -> tuple[CellLabel, ...]:
    """The larger model's own word, where no truth is to be had: `not_classed` where it is unsure as well."""
    return tuple(CellLabel(cell=place, label=_word(cell)) for place, cell in enumerate(opinion.cells))


def unsure_cells(opinion: SecondOpinion, labels: Sequence[CellLabel]) -> list[UnsureCell]:
    """Cells of an opinion that the edge saw and left unidentified, with the label they got."""
    found = []
    for label in labels:
        if label.cell is None or label.label in (ARTEFACT, NOT_CLASSED):
            continue
        edge = opinion.cells[label.cell].edge
        if edge is not None and edge.cell_type is not None and edge.cell_type.label == UNIDENTIFIED:
            found.append(UnsureCell(opinion.id, edge.bbox, label.label))
    return found


def true_type(box: Box, truth: Sequence[Truth]) -> str | None:
    """Type of the drawn white cell that a box covers; None without one."""
    drawn = [cell for cell in truth if cell["cls"] == "WBC" and cell["cell_type"]]
    if not drawn:
        return None
    overlaps = iou_matrix([corners(box)], [tuple(cell["box"]) for cell in drawn])[0]
    best = int(overlaps.argmax())
    return str(drawn[best]["cell_type"]) if overlaps[best] >= MATCH_IOU else None


def corners(box: Box) -> Box:
    """x y w h -> x1 y1 x2 y2."""
    x, y, w, h = box
    return x, y, x + w, y + h


def _seen(cell: CellOpinion) -> DetectionWire:
    found = cell.cloud or cell.edge
    if found is None:
        raise ValueError("a cell that neither model saw")
    return found


def _word(cell: CellOpinion) -> str:
    if cell.cloud is None or cell.cloud.cell_type is None or cell.cloud.cell_type.label == UNIDENTIFIED:
        return NOT_CLASSED
    return cell.cloud.cell_type.label
