"""How much of its area one field shares with another, by registration of their thumbnails. Pure."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Thumbnail = NDArray[np.float32]
"""(H, W) float32 grey levels 0..255, each the mean of its part of the frame; see `measure.thumbnail`."""

_Plane = NDArray[np.float64]
_LEAST_SHARED_RATIO = 0.1
"""Shifts that leave less than this in common are not looked at: little area matches by chance."""


class Place:
    """A thumbnail with what its comparisons need, worked out once however often it is compared."""

    def __init__(self, thumbnail: Thumbnail) -> None:
        """Args:
        thumbnail: of the field.
        """
        self.shape = thumbnail.shape
        self.centred: _Plane = thumbnail.astype(np.float64) - float(thumbnail.mean())

    def difference_level(self, other: Place) -> float:
        """Mean absolute difference in grey levels, without shifting; the mean is out: a flickering lamp is no change.

        Infinite for thumbnails of two sizes.
        """
        if self.shape != other.shape:
            return float("inf")
        return float(np.abs(self.centred - other.centred).mean())

    @cached_property
    def spectrum(self) -> NDArray[np.complex128]:
        """Of the centred thumbnail, padded to twice its size."""
        return np.fft.rfft2(self.centred, _padded(self.shape))

    @cached_property
    def as_first(self) -> tuple[_Plane, _Plane]:
        """Sum and spread over the common area at every shift, where the other field is shifted."""
        return self._moments(first=True)

    @cached_property
    def as_second(self) -> tuple[_Plane, _Plane]:
        """The same, where this one is shifted."""
        return self._moments(first=False)

    def _moments(self, *, first: bool) -> tuple[_Plane, _Plane]:
        ones, area, size = _ones_spectrum(self.shape), _area(self.shape), _padded(self.shape)

        def over_area(spectrum: NDArray[np.complex128]) -> _Plane:
            product = spectrum * np.conj(ones) if first else ones * np.conj(spectrum)
            return np.asarray(np.fft.irfft2(product, size), np.float64)

        total = over_area(self.spectrum)
        squares = over_area(np.fft.rfft2(self.centred**2, size))
        return total, squares - total * total / area


def overlap_ratio(first: Place, second: Place, *, peak_above_ratio: float) -> float:
    """Share of its area that the second field has in common with the first, 0..1; 0 if they do not match anywhere.

    Every shift is tried: the correlation over the common area, normalised by its own mean and spread.

    Args:
        first, second: the fields.
        peak_above_ratio: overlapping fields correlate at least so well over their common area.
    """
    if first.shape != second.shape:
        return 0.0
    area, size = _area(first.shape), _padded(first.shape)
    (sum_a, spread_a), (sum_b, spread_b) = first.as_first, second.as_second
    product = np.fft.irfft2(first.spectrum * np.conj(second.spectrum), size)
    floor = 1e-3 * area
    score = (product - sum_a * sum_b / area) / np.sqrt(np.maximum(spread_a, floor) * np.maximum(spread_b, floor))
    shared = area / (first.shape[0] * first.shape[1])
    score[shared < _LEAST_SHARED_RATIO] = -1.0
    # A small common area matches well by chance far more often than a large one: it has to match better.
    chance = peak_above_ratio + 0.5 * (1.0 - shared) * (1.0 - peak_above_ratio)
    best = np.unravel_index(int(np.argmax(score - chance)), score.shape)
    return float(shared[best]) if score[best] >= chance[best] else 0.0


def _padded(shape: tuple[int, ...]) -> tuple[int, int]:
    return 2 * shape[0], 2 * shape[1]


@lru_cache(maxsize=4)
def _ones_spectrum(shape: tuple[int, ...]) -> NDArray[np.complex128]:
    return np.fft.rfft2(np.ones(shape), _padded(shape))


@lru_cache(maxsize=4)
def _area(shape: tuple[int, ...]) -> _Plane:
    """Pixels in common at every shift."""
    ones = _ones_spectrum(shape)
    return np.maximum(np.fft.irfft2(ones * np.conj(ones), _padded(shape)), 1.0)
