"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def interval(figure: Mapping[str, Any] | None, *, digits: int = 3) -> str:
    """`0.956 (0.941-0.969)`; a dash where there was nothing to measure on."""
    return _with_limits(figure, lambda value: f"{value:.{digits}f}")


def difference(figure: Mapping[str, Any] | None, *, digits: int = 3) -> str:
    """`-0.019 (-0.034 to -0.002)`, always with its sign."""
    return _with_limits(figure, lambda value: f"{value:+.{digits}f}", between=" to ")


def percent(figure: Mapping[str, Any] | None, *, digits: int = 1) -> str:
    """`96.3 % (94.1-98.0)`."""
    return _with_limits(figure, lambda value: f"{100 * value:.{digits}f}", unit=" %")


def _with_limits(
    figure: Mapping[str, Any] | None, number: Callable[[float], str], *, unit: str = "", between: str = "-"
) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    text = number(figure["value"]) + unit
    if figure["low"] is None:
        return text
    return f"{text} ({number(figure['low'])}{between}{number(figure['high'])})"


def plain(value: float | None, *, digits: int = 3) -> str:
    """A figure without an interval."""
    return "-" if value is None else f"{value:.{digits}f}"
