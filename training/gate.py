"""What a head makes of cells that it did not learn from: the figures that `fleet.release.gate` judges. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet.release.gate import Figures
from models.bundle.manifest import UNIDENTIFIED, HeadSpec
from models.runtime.head import Head
from models.runtime.results import FloatArray

LEAST_CHANCE = 1e-6
"""A probability below this counts as this, so that one cell cannot decide the likelihood of a slice."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedCells:
    """Cells of one slice. Labels below 0 are outsiders.

    Attributes:
        embeddings: (N, D) float32.
        labels: (N,) int64, index into the head's classes.
    """

    embeddings: FloatArray
    labels: NDArray[np.int64]


def figures_of(head: Head, spec: HeadSpec, cells: JudgedCells) -> Figures:
    """What a head makes of a slice."""
    said = head.read_types(cells.embeddings, spec)
    named = np.array([cell.label != UNIDENTIFIED for cell in said], bool)
    at_home = np.array([cell.in_domain for cell in said], bool)
    count = len(said)
    if not count:
        return Figures(cells=0, named=0.0, in_domain=0.0)
    inside = Figures(cells=count, named=float(named.mean()), in_domain=float(at_home.mean()))
    if (cells.labels < 0).any():
        return inside
    names = [str(cls) for cls in spec.classes]
    chances = head.probabilities(cells.embeddings)
    right = chances.argmax(axis=1) == cells.labels
    of_truth = chances[np.arange(count), cells.labels]
    recall = {name: float(right[cells.labels == i].mean()) for i, name in enumerate(names) if (cells.labels == i).any()}
    held = [names[label] in cell.prediction_set for label, cell in zip(cells.labels, said, strict=True)]
    return Figures(
        cells=count,
        named=inside.named,
        in_domain=inside.in_domain,
        balanced_accuracy=float(np.mean(list(recall.values()))),
        recall=recall,
        named_error=float((~right[named]).mean()) if named.any() else 0.0,
        nll=float(-np.log(np.maximum(of_truth, LEAST_CHANCE)).mean()),
        coverage=float(np.mean(held)),
    )
