"""The differential: shares of the white-cell types with exact 95 % limits. Pure.

The limits are Clopper-Pearson's (in haematology: Rümke's), from the regularised incomplete beta function, so that a
small count is shown as uncertain as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, log, log1p, sqrt

from models.bundle.manifest import UNIDENTIFIED, WhiteCellType

CONFIDENCE_RATIO = 0.95
_BISECTIONS = 60
_MAX_TERMS = 10_000
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Share:
    """One type's part of the identified white cells.

    Attributes:
        label: the type.
        cells: white cells of this type.
        share_ratio: cells over all identified white cells; 0 without any.
        low_ratio, high_ratio: exact 95 % limits; 0 and 1 without any.
    """

    label: str
    cells: int
    share_ratio: float
    low_ratio: float
    high_ratio: float


@dataclass(frozen=True, slots=True)
class Differential:
    """Shares in the fixed order of the types, and what they leave out.

    Attributes:
        shares: one a type.
        identified: white cells with a type, the denominator.
        unidentified: white cells that the model would not name; in no share.
    """

    shares: tuple[Share, ...]
    identified: int
    unidentified: int

    def rounded(self) -> dict[str, dict[str, float]]:
        """Type -> cells, share and its limits to six digits, as documents give them."""
        return {
            share.label: {
                "cells": share.cells,
                "share": round(share.share_ratio, 6),
                "low": round(share.low_ratio, 6),
                "high": round(share.high_ratio, 6),
            }
            for share in self.shares
        }


def differential(white_cells: Mapping[str, int]) -> Differential:
    """Type (or `unidentified`) -> cells, as a differential. ValueError for a negative count."""
    if any(count < 0 for count in white_cells.values()):
        raise ValueError("a number of cells cannot be negative")
    identified = sum(white_cells.get(kind.value, 0) for kind in WhiteCellType)
    shares = []
    for kind in WhiteCellType:
        cells = white_cells.get(kind.value, 0)
        low, high = limits(cells, identified)
        shares.append(Share(kind.value, cells, cells / identified if identified else 0.0, low, high))
    return Differential(tuple(shares), identified, white_cells.get(UNIDENTIFIED, 0))


def limits(seen: int, total: int, *, confidence_ratio: float = CONFIDENCE_RATIO) -> tuple[float, float]:
    """Exact two-sided limits of a share.

    Args:
        seen: cells of the type, 0 to total.
        total: all cells; without any the limits are 0 and 1.
        confidence_ratio: probability that the limits hold the truth, at least.

    Raises:
        ValueError: seen outside 0 to total, or a confidence outside 0 to 1.
    """
    if not 0 <= seen <= total:
        raise ValueError(f"{seen} of {total} cells is not a share")
    if not 0 < confidence_ratio < 1:
        raise ValueError("a confidence lies between 0 and 1")
    tail = (1 - confidence_ratio) / 2
    low = 0.0 if seen == 0 else _beta_quantile(tail, seen, total - seen + 1)
    high = 1.0 if seen == total else _beta_quantile(1 - tail, seen + 1, total - seen)
    return low, high


@dataclass(frozen=True, slots=True)
class PlateletEstimate:
    """Platelets in 10^9 per litre with the 95 % half-width of the fields' mean."""

    per_litre_e9: float
    margin_e9: float


def estimate_platelets(
    *, fields: int, total: int, total_of_squares: int, factor_e9: float | None
) -> PlateletEstimate | None:
    """Mean platelets a field times the microscope's calibrated factor; None without a factor or with under ten fields.

    Args:
        fields: fields counted.
        total: platelets in them.
        total_of_squares: sum of the squares of the fields' counts.
        factor_e9: 10^9 per litre for one platelet a field, calibrated per microscope.
    """
    if factor_e9 is None or fields < 10:
        return None
    mean = total / fields
    variance = max(0.0, (total_of_squares - fields * mean * mean) / (fields - 1))
    return PlateletEstimate(mean * factor_e9, 1.96 * sqrt(variance / fields) * factor_e9)


def beta_ratio(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b) for a, b > 0 and x in 0..1."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    # The continued fraction converges fast below the mean only; above it the symmetry is used.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation of the incomplete beta function's continued fraction."""
    c, d = 1.0, _away_from_zero(1 - (a + b) * x / (a + 1))
    d = 1 / d
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            change = c * d
            value *= change
        if abs(change - 1) < 1e-14:
            return value
    raise ArithmeticError(f"the incomplete beta function did not converge at x={x}, a={a}, b={b}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if beta_ratio(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
