"""Two ways to do the same work, taken in turns, compared item by item."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter


@dataclass(frozen=True)
class Compared:
    """Times of the same items both ways.

    Attributes:
        bare_ms: one an item.
        full_ms: one an item, in the same order.
    """

    bare_ms: tuple[float, ...]
    full_ms: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """full over bare, item by item: what other load did to one did it to its neighbour too."""
        return tuple(full / bare for bare, full in zip(self.bare_ms, self.full_ms, strict=True))


def in_turns(items: int, bare: Callable[[int], object], full: Callable[[int], object], *, warm_up: int = 3) -> Compared:
    """Times `bare(i)` and `full(i)` next to each other for every item, the order swapped each time."""
    times: tuple[list[float], list[float]] = ([], [])
    ways = (bare, full)
    for number in range(items + warm_up):
        for way in (0, 1) if number % 2 else (1, 0):
            start_s = perf_counter()
            ways[way](number)
            taken_ms = (perf_counter() - start_s) * 1000.0
            if number >= warm_up:
                times[way].append(taken_ms)
    return Compared(tuple(times[0]), tuple(times[1]))


def spread(values: Sequence[float]) -> str:
    """Median with the range that nine of ten lie in."""
    cuts = quantiles(values, n=20)
    return f"{median(values):.2f} ({cuts[0]:.2f} to {cuts[-1]:.2f})"


def conditions() -> str:
    """On what and with what it was measured, for the head of a document."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "opencv-python-headless", "numpy"))
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    day = datetime.now(UTC).date().isoformat()
    return (
        f"Measured {day} on {cpu_name()}, {os.cpu_count()} logical cores, load {load}; "
        f"Python {platform.python_version()}, {packages}."
    )


def cpu_name() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
