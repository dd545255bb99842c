"""What a picture in doubt is worth to whoever gives second opinions: uncertainty times novelty. Pure.

Only the order counts: `Worths` says whether a picture stands high enough among the last ones, the higher the more of
the budget is spent. So a burst of doubt does not take the whole hour, and a quiet hour sends whatever is in doubt.

Embeddings tell kinds of cells apart, not cells: the nearest other cell of the same type is as near as the same cell
seen again. So a picture that shows what was sent before is found by registration, and embeddings only rank.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.registration import Place, overlap_ratio
from edge_agent.triage.rules import TriagePolicy
from models.bundle.manifest import UNIDENTIFIED, CellClass
from models.runtime.results import Detection, FieldAnalysis

REMEMBERED_CELLS = 200
REMEMBERED_WORTHS = 200
REMEMBERED_PLACES = 64
FEW = 20
"""With fewer worths seen every picture is as good as any."""
FREE_RATIO = 0.5
"""Of the budget; so much is given to whatever is in doubt, the rest to the better ones."""
WEAK_DOUBT = 0.5
"""Uncertainty of a white cell that was not counted: its type is beside the point."""
MATCHES_ABOVE = 0.75

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """Why a picture is in doubt, as numbers.

    Attributes:
        uncertainty: 0..1, of its most doubtful white cell.
        cells: embeddings of the doubtful cells, each of length 1; empty where the model gives none.
    """

    uncertainty: float
    cells: tuple[Vector, ...] = ()


def doubt_of(analysis: FieldAnalysis, policy: TriagePolicy) -> Doubt:
    """The doubt about a field's white cells, by the same rules that made it uncertain."""
    found = [(doubt, cell) for cell in analysis.detections if (doubt := _uncertainty(cell, policy)) > 0.0]
    cells = tuple(vector for _, cell in found if (vector := _unit(cell)) is not None)
    # A scale that is not known is a doubt about every cell.
    return Doubt(max((doubt for doubt, _ in found), default=WEAK_DOUBT), cells)


def _uncertainty(cell: Detection, policy: TriagePolicy) -> float:
    if cell.cls is not CellClass.WBC:
        return 0.0
    if not cell.counted:
        return WEAK_DOUBT if cell.score >= policy.weak_white_cell_score else 0.0
    kind = cell.cell_type
    if kind is None or not kind.in_domain:
        return 1.0
    return 1.0 - max(kind.probabilities.values(), default=0.0) if kind.label == UNIDENTIFIED else 0.0


def _unit(cell: Detection) -> Vector | None:
    if cell.cell_type is None or cell.cell_type.embedding is None:
        return None
    vector = np.asarray(cell.cell_type.embedding, np.float64)
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0.0 else None


class Worths:
    """Ranks pictures by what was sent and offered lately."""

    def __init__(self) -> None:
        self._sent: deque[Vector] = deque(maxlen=REMEMBERED_CELLS)
        self._novelties: deque[float] = deque(maxlen=REMEMBERED_WORTHS)
        self._offered: deque[float] = deque(maxlen=REMEMBERED_WORTHS)

    def of(self, doubt: Doubt) -> float:
        """Uncertainty times novelty; remembered for the ranking."""
        novelty = self._novelty(doubt.cells)
        if novelty is None:
            novelty = median(self._novelties) if self._novelties else 1.0
        else:
            self._novelties.append(novelty)
        worth = doubt.uncertainty * novelty
        self._offered.append(worth)
        return worth

    def is_enough(self, worth: float, *, fullness_ratio: float) -> bool:
        """Whether a picture of this worth leaves when so much of the budget is spent."""
        if fullness_ratio <= FREE_RATIO or len(self._offered) < FEW:
            return True
        rank_ratio = (fullness_ratio - FREE_RATIO) / (1.0 - FREE_RATIO)
        return worth >= float(np.quantile(np.asarray(self._offered), min(1.0, rank_ratio)))

    def sent(self, doubt: Doubt) -> None:
        """Its cells are no longer new."""
        self._sent.extend(doubt.cells)

    def _novelty(self, cells: tuple[Vector, ...]) -> float | None:
        """1 less the cosine of the nearest cell that was sent, of the newest of these cells; None without cells."""
        if not cells:
            return None
        same = [known for known in self._sent if known.shape == cells[0].shape]
        if not same:
            return 1.0
        nearest = np.max(np.stack(cells) @ np.stack(same).T, axis=1)
        return max(0.0, float(1.0 - nearest.min()))


class SentPlaces:
    """Finds pictures that show what was sent before.

    Args:
        duplicate_above_ratio: a picture that shares more of its area with one of those sent last shows the same; with 1
            none does.
    """

    def __init__(self, duplicate_above_ratio: float) -> None:
        self._above_ratio = duplicate_above_ratio
        self._sent: deque[Place] = deque(maxlen=REMEMBERED_PLACES)

    def shows_again(self, place: Place) -> bool:
        """Whether a picture is a near-duplicate."""
        return self._above_ratio < 1.0 and any(
            overlap_ratio(known, place, peak_above_ratio=MATCHES_ABOVE) > self._above_ratio for known in self._sent
        )

    def sent(self, place: Place) -> None:
        """A picture has left."""
        self._sent.append(place)
