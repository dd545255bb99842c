"""Many contenders in turns: every round runs each once, in another order, so that other load hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from time import perf_counter

import numpy as np

WARM_UP = 3


def in_rounds(ways: Mapping[str, Callable[[], object]], rounds: int, *, seed: int = 0) -> dict[str, list[float]]:
    """Milliseconds of each way in each round."""
    rng = np.random.default_rng(seed)
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + WARM_UP):
        for index in rng.permutation(len(names)):
            name = names[index]
            began_s = perf_counter()
            ways[name]()
            taken_ms = (perf_counter() - began_s) * 1000.0
            if number >= WARM_UP:
                times[name].append(taken_ms)
    return times


def ratio(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> tuple[float, float, float]:
    """How many times faster `fast` is than `slow`, paired by round: median, and the range of nine in ten."""
    paired = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    cuts = quantiles(paired, n=20)
    return median(paired), cuts[0], cuts[-1]
