"""Cells in the order in which a person should look at them: by suggested class, the least sure first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.opinions.rules import label_of
from fleet.contract.http import CellOpinion
from models.bundle.manifest import UNIDENTIFIED, WhiteCellType

NOT_SEEN = "not_seen"
"""Group of the cells that the larger model did not see."""
BLIND = "white_cells"
"""The one group of a read without suggestions."""
GROUPS = (UNIDENTIFIED, NOT_SEEN, *(kind.value for kind in WhiteCellType))


@dataclass(frozen=True, slots=True)
class Group:
    """Cells under one heading.

    Attributes:
        label: what the larger model suggests, NOT_SEEN, or BLIND.
        places: of the cells in the opinion, the first to look at first.
    """

    label: str
    places: tuple[int, ...]


def groups(cells: Sequence[CellOpinion], *, blind: bool = False) -> list[Group]:
    """The gallery.

    Args:
        blind: the order of the picture, from left to right, which says nothing of what the models think.
    """
    if blind:
        places = sorted(range(len(cells)), key=lambda place: _corner(cells[place]))
        return [Group(BLIND, tuple(places))] if places else []
    found: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        found.setdefault(suggestion(cell) or NOT_SEEN, []).append(place)
    order = [*GROUPS, *sorted(set(found) - set(GROUPS))]
    return [
        Group(label, tuple(sorted(found[label], key=lambda place: (suspicion(cells[place]), place))))
        for label in order
        if label in found
    ]


def suggestion(cell: CellOpinion) -> str | None:
    """What the larger model says; None where it saw no cell."""
    return label_of(cell.cloud) if cell.cloud else None


def suspicion(cell: CellOpinion) -> tuple[bool, bool, bool, float]:
    """Sort key: first what the device contradicts, then what looks foreign, then what is undecided or improbable."""
    kind = cell.cloud.cell_type if cell.cloud else cell.edge.cell_type if cell.edge else None
    if kind is None:
        return (cell.agree, False, False, 0.0)
    return (cell.agree, kind.in_domain, len(kind.prediction_set) == 1, max(kind.probabilities.values(), default=0.0))


def _corner(cell: CellOpinion) -> tuple[float, float]:
    seen = cell.cloud or cell.edge
    return (seen.bbox[0], seen.bbox[1]) if seen else (0.0, 0.0)
