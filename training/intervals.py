"""Intervals of measured figures: the percentile bootstrap over groups, and the exact limits of a share.

Pictures of one near-duplicate group, or of one slide, show the same cells: a group is drawn whole or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_RATIO = 0.95
RESAMPLES = 1000
_BISECTIONS = 60
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the limits between which it would fall on other pictures of the same kind.

    Attributes:
        value: on the pictures as they are.
        low, high: limits at `CONFIDENCE_RATIO`; None where nothing could be resampled.
    """

    value: float
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, float | None]:
        """Plain data; None for what there was nothing to measure on."""
        return {"value": self.value if isfinite(self.value) else None, "low": self.low, "high": self.high}


def group_weights(
    groups: Sequence[str], *, resamples: int, seed: int, strata: Sequence[str] | None = None
) -> NDArray[np.int32]:
    """How often each item occurs in each resample when whole groups are drawn with replacement.

    Args:
        groups: name of each item's group.
        resamples: number of resamples.
        seed: the same seed draws the same groups.
        strata: by item, what its group is drawn among; a group belongs to the stratum that most of its items name.
            Without them groups are drawn among all groups.

    Returns:
        (resamples, items) int32.
    """
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    counts = np.zeros((resamples, len(names)), np.int32)
    rng = np.random.default_rng(seed)
    for members in _strata(index, len(names), strata):
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return counts[:, index]


def _strata(index: NDArray[np.intp], count: int, strata: Sequence[str] | None) -> list[NDArray[np.intp]]:
    if strata is None:
        return [np.arange(count)] if count else []
    votes: list[Counter[str]] = [Counter() for _ in range(count)]
    for group, stratum in zip(index.tolist(), strata, strict=True):
        votes[group][stratum] += 1
    # The first by name where two are named equally often, so that the order of the items does not matter.
    chosen = np.array([max(sorted(v), key=v.__getitem__) for v in votes])
    return [np.nonzero(chosen == stratum)[0] for stratum in np.unique(chosen)]


def percentile(value: float, resampled: Array) -> Interval:
    """The interval that the resampled figures span; resamples without the figure (NaN) are left out."""
    usable = resampled[np.isfinite(resampled)]
    if not len(usable):
        return Interval(value, None, None)
    tail = (1 - CONFIDENCE_RATIO) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def mean_interval(values: Array, weights: NDArray[np.int32]) -> Interval:
    """Interval of the mean of (N,) values; NaN without any."""
    if not len(values):
        return Interval(float("nan"), None, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        return percentile(float(values.mean()), (weights @ values) / weights.sum(axis=1))


def clopper_pearson(seen: int, total: int) -> tuple[float, float]:
    """Exact two-sided limits of a share at `CONFIDENCE_RATIO`; 0 and 1 without any case.

    Raises:
        ValueError: seen outside 0 to total.
    """
    if not 0 <= seen <= total:
        raise ValueError(f"{seen} of {total} is not a share")
    tail = (1 - CONFIDENCE_RATIO) / 2
    low = 0.0 if seen == 0 else _crossing(lambda p: 1 - _at_most(seen - 1, total, p), tail)
    high = 1.0 if seen == total else _crossing(lambda p: 1 - _at_most(seen, total, p), 1 - tail)
    return low, high


def share_interval(seen: int, total: int) -> Interval:
    """A share with its exact limits; NaN without any case."""
    return Interval(seen / total if total else float("nan"), *clopper_pearson(seen, total))


def _crossing(rising: Callable[[float], float], level: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if rising(middle) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(seen: int, total: int, share: float) -> float:
    """Chance of at most `seen` among `total` where each has the chance `share`."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return 1.0 if seen >= total else 0.0
    k = np.arange(seen + 1, dtype=np.float64)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1, dtype=np.float64)))])
    logs = factorials[total] - factorials[: seen + 1] - factorials[total - np.arange(seen + 1)]
    logs = logs + k * np.log(share) + (total - k) * np.log1p(-share)
    return float(min(1.0, np.exp(logs).sum()))
