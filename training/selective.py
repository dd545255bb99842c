"""Naming only what is sure: how many cells are named, how many names are wrong, and what another limit would give.

A cell that the detector missed has no name; it is ranked behind all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.intervals import Interval, mean_interval, percentile, share_interval

MAX_POINTS = 200
MISSED = -2.0
"""Sureness of a cell that the detector did not find."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """Cells of one set as the model would name them.

    Attributes:
        sureness: (N,) float64; the cells named first have the most.
        right: (N,) bool, whether the most probable type is the true one; False for a missed cell.
        accepted: (N,) bool, whether the bundle names the cell.
    """

    sureness: Array
    right: NDArray[np.bool_]
    accepted: NDArray[np.bool_]


def sureness(top: Array, in_domain: NDArray[np.bool_], missed: NDArray[np.bool_]) -> Array:
    """Order in which cells are named: by top probability, foreign ones behind all familiar ones, missed ones last."""
    return np.asarray(np.where(missed, MISSED, np.where(in_domain, top, top - 1.0)), np.float64)


def risk_coverage(choices: Choices) -> tuple[Array, Array]:
    """Share of the cells that are named, rising, and share of wrong names among them; both (N,)."""
    order = np.argsort(-choices.sureness, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / max(1, len(order)), np.cumsum(~choices.right[order]) / count


def area_under(choices: Choices) -> float:
    """Area under the risk-coverage curve: mean error over all shares named; NaN without a cell."""
    _, risk = risk_coverage(choices)
    return float(risk.mean()) if len(risk) else float("nan")


def selective_figures(choices: Choices, weights: NDArray[np.int32]) -> dict[str, Any]:
    """Accepted share, error among the accepted with its limits, the curve and the area under it.

    Args:
        choices: cells of one set.
        weights: (R, N) how often each cell occurs in each resample.

    Returns:
        `accepted` (by the bootstrap), `error_accepted` (Clopper-Pearson, cells taken as independent) and
        `error_accepted_resampled` (by the bootstrap), `aurc` over all cells, `curve` of at most `MAX_POINTS` points
        as far as cells were found.
    """
    wrong = choices.accepted & ~choices.right
    named = int(choices.accepted.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = (weights @ wrong) / (weights @ choices.accepted.astype(np.float64))
    exact = share_interval(int(wrong.sum()), named)
    coverage, risk = risk_coverage(choices)
    found = int((choices.sureness > MISSED).sum())
    keep = np.unique(np.linspace(0, max(0, found - 1), min(MAX_POINTS, found)).round().astype(int))
    return {
        "accepted": mean_interval(choices.accepted.astype(np.float64), weights).as_json(),
        "accepted_cells": named,
        "wrong_cells": int(wrong.sum()),
        "error_accepted": exact.as_json(),
        "error_accepted_resampled": percentile(exact.value, np.asarray(errors, np.float64)).as_json(),
        "aurc": _area_interval(choices, weights).as_json(),
        "curve": [[float(coverage[i]), float(risk[i])] for i in keep],
    }


def _area_interval(choices: Choices, weights: NDArray[np.int32]) -> Interval:
    order = np.argsort(-choices.sureness, kind="stable")
    w = weights[:, order].astype(np.float64)
    named = np.cumsum(w, axis=1)
    risk = np.cumsum(w * ~choices.right[order], axis=1) / np.maximum(named, 1.0)
    areas = (w * risk).sum(axis=1) / np.maximum(w.sum(axis=1), 1.0)
    return percentile(area_under(choices), np.asarray(areas, np.float64))
