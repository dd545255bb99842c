"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def interval(figure: Mapping[str, Any] | None, *, digits: int = 3) -> str:
    """`0.956 (0.941-0.969)`; a dash where there was nothing to measure on."""
    if figure is None or figure["value"] is None:
        return "-"
    text = f"{figure['value']:.{digits}f}"
    if figure["low"] is None:
        return text
    return f"{text} ({figure['low']:.{digits}f}-{figure['high']:.{digits}f})"


def difference(figure: Mapping[str, Any] | None, *, digits: int = 3) -> str:
    """`-0.019 (-0.034 to -0.002)`, always with its sign."""
    if figure is None or figure["value"] is None:
        return "-"
    text = f"{figure['value']:+.{digits}f}"
    if figure["low"] is None:
        return text
    return f"{text} ({figure['low']:+.{digits}f} to {figure['high']:+.{digits}f})"


def percent(figure: Mapping[str, Any] | None, *, digits: int = 1) -> str:
    """`96.3 % (94.1-98.0)`."""
    if figure is None or figure["value"] is None:
        return "-"
    text = f"{100 * figure['value']:.{digits}f} %"
    if figure["low"] is None:
        return text
    return f"{text} ({100 * figure['low']:.{digits}f}-{100 * figure['high']:.{digits}f})"


def plain(value: float | None, *, digits: int = 3) -> str:
    """A figure without an interval."""
    return "-" if value is None else f"{value:.{digits}f}"
