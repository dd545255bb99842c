"""How good the probabilities are: likelihood, Brier score, calibration error. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.intervals import Interval, percentile

LEAST_CHANCE = 1e-12
BINS = 15
Array = NDArray[np.float64]


def at_temperature(chances: Array, temperature: float) -> Array:
    """Probabilities as they were before they were divided by a temperature: (N, K), rows sum to 1."""
    logs = np.log(np.maximum(chances, 1e-300)) * temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def log_losses(chances: Array, labels: NDArray[np.int64]) -> Array:
    """(N,) negative log-likelihood of each cell's true type, nats."""
    of_truth = chances[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(of_truth, LEAST_CHANCE)), np.float64)


def brier_scores(chances: Array, labels: NDArray[np.int64]) -> Array:
    """(N,) squared distance of each cell's probabilities to the truth, 0..2."""
    wanted = np.eye(chances.shape[1])[labels]
    return np.asarray(((chances - wanted) ** 2).sum(axis=1), np.float64)


def reliability(chances: Array, labels: NDArray[np.int64]) -> list[dict[str, float]]:
    """Equally wide bins of the top probability that hold cells: `from`, `to`, `cells`, `confidence`, `accuracy`."""
    top, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    which = _bin(top)
    rows = []
    for b in np.unique(which).tolist():
        own = which == b
        rows.append(
            {
                "from": b / BINS,
                "to": (b + 1) / BINS,
                "cells": int(own.sum()),
                "confidence": float(top[own].mean()),
                "accuracy": float(right[own].mean()),
            }
        )
    return rows


def calibration_error(chances: Array, labels: NDArray[np.int64], weights: NDArray[np.int32]) -> Interval:
    """Expected calibration error of the top probability over `BINS` equally wide bins."""
    top = chances.max(axis=1)
    off = (chances.argmax(axis=1) == labels).astype(np.float64) - top
    member = (_bin(top)[:, None] == np.arange(BINS)).astype(np.float64)

    def error(w: NDArray[np.int32] | Array) -> Array:
        return np.asarray(np.abs((w * off) @ member).sum(axis=-1) / w.sum(axis=-1), np.float64)

    return percentile(float(error(np.ones((1, len(top))))[0]), error(weights))


def _bin(top: Array) -> NDArray[np.int64]:
    return np.minimum((top * BINS).astype(np.int64), BINS - 1)
