"""Coverage and size of the conformal sets of hand-made cells."""

from __future__ import annotations

import numpy as np
import pytest

from models.runtime.results import CellType
from training.evaluation.white import TYPES, ReadCell, _conformal

NEUTROPHIL, LYMPHOCYTE = TYPES.index("neutrophil"), TYPES.index("lymphocyte")


def cell(label: int, *said: str) -> ReadCell:
    word = CellType(said[0] if said else "unidentified", dict.fromkeys(TYPES, 0.2), said, True, 0.5)
    return ReadCell("a.png", "g", label, (0.0, 0.0, 9.0, 9.0), word)


CELLS = [
    cell(NEUTROPHIL, "neutrophil"),
    cell(NEUTROPHIL, "eosinophil", "neutrophil"),
    cell(NEUTROPHIL, "monocyte"),
    cell(LYMPHOCYTE, "lymphocyte", "monocyte", "neutrophil"),
    cell(LYMPHOCYTE),
]
"""Three of five sets hold the true type: two of three neutrophils, one of two lymphocytes."""


def test_a_set_covers_a_cell_whose_true_type_it_holds() -> None:
    said = _conformal(CELLS, np.ones((3, 5), np.int32), 0.9)
    assert said["nominal"] == 0.9
    assert said["coverage"]["value"] == pytest.approx(3 / 5)
    assert list(said["coverage_by_type"]) == [TYPES[k] for k in sorted((NEUTROPHIL, LYMPHOCYTE))]
    assert said["coverage_by_type"]["neutrophil"]["value"] == pytest.approx(2 / 3)
    assert said["coverage_by_type"]["lymphocyte"]["value"] == pytest.approx(1 / 2)
    assert said["mean_size"]["value"] == pytest.approx((1 + 2 + 1 + 3 + 0) / 5)
    assert said["sizes"] == {"0": 1, "1": 2, "2": 1, "3": 1}


def test_its_limits_are_those_of_the_resampled_cells() -> None:
    """In one resample only the cells that are covered, in the other only those that are not."""
    weights = np.array([[2, 1, 0, 2, 0], [0, 0, 3, 0, 2]], np.int32)
    said = _conformal(CELLS, weights, 0.9)
    assert (said["coverage"]["low"], said["coverage"]["high"]) == pytest.approx((0.025, 0.975))
    neutrophils = said["coverage_by_type"]["neutrophil"]
    assert (neutrophils["low"], neutrophils["high"]) == pytest.approx((0.025, 0.975))
    # Mean sizes (2 * 1 + 2 + 2 * 3) / 5 and 3 * 1 / 5.
    assert (said["mean_size"]["low"], said["mean_size"]["high"]) == pytest.approx((0.6 + 0.035, 2.0 - 0.035))
