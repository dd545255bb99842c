"""White cells one by one in an evaluation: what several documents need to be judged together, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import UNIDENTIFIED
from training.errors import DataError
from training.evaluation.white import TYPES, ReadCell

NOT_FOUND = -1


def outcomes(cells: Sequence[ReadCell]) -> dict[str, Any]:
    """The cells as rows: slide, true type, most probable type, its probability, whether it was named."""
    slides = sorted({cell.group for cell in cells})
    return {"types": list(TYPES), "slides": slides, "rows": [_row(cell, slides) for cell in cells]}


def _row(cell: ReadCell, slides: Sequence[str]) -> list[Any]:
    known = [slides.index(cell.group), cell.label]
    if cell.said is None:
        return [*known, None, None, False]
    chances = cell.said.probabilities
    top = max(chances, key=chances.__getitem__)
    return [*known, TYPES.index(top), round(float(chances[top]), 4), cell.said.label != UNIDENTIFIED]


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """The same rows as arrays, in step.

    Attributes:
        slides: of each cell, by name.
        labels: true type, index into `WhiteCellType`.
        said: most probable type, `NOT_FOUND` for a cell that was not found.
        named: whether the type was given as a name.
    """

    slides: tuple[str, ...]
    labels: NDArray[np.int64]
    said: NDArray[np.int64]
    named: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which cells were found and would be named right."""
        return np.asarray(self.said == self.labels, np.bool_)

    def of_same_cells(self, other: Outcomes) -> bool:
        """Whether both speak of the same cells in the same order."""
        return self.slides == other.slides and np.array_equal(self.labels, other.labels)


def read_outcomes(raw: Mapping[str, Any], where: str) -> Outcomes:
    """Rows of a document.

    Raises:
        DataError: damaged, or of other types.
    """
    try:
        if tuple(raw["types"]) != TYPES:
            raise DataError(f"{where}: speaks of other types of white cells: {', '.join(raw['types'])}")
        rows = raw["rows"]
        return Outcomes(
            slides=tuple(str(raw["slides"][row[0]]) for row in rows),
            labels=np.array([row[1] for row in rows], np.int64),
            said=np.array([NOT_FOUND if row[2] is None else row[2] for row in rows], np.int64),
            named=np.array([row[4] for row in rows], bool),
        )
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise DataError(f"{where}: its cells one by one are damaged: {exc}") from exc
