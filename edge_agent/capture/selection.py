"""Which frames of a live source are new fields. Pure: thumbnails and times come from the caller.

An operator moves the stage, looks, moves on. A field is counted once, when the stage has come to rest and does not
show again what was counted last; a field that overlaps it would count the cells of the overlap twice.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.settings import SelectionSettings

Thumbnail = NDArray[np.float32]
"""(H, W) float32 grey levels 0..255, each the mean of its part of the frame; see `measure.thumbnail`."""


class Selection(StrEnum):
    """What a frame is for counting."""

    NEW_FIELD = "new_field"
    MOVING = "moving"
    SAME_FIELD = "same_field"


class FieldSelector:
    """Follows the frames of one live source."""

    def __init__(self, settings: SelectionSettings | None = None) -> None:
        """Args:
        settings: limits; the stated defaults if not given.
        """
        self._limits = settings or SelectionSettings()
        self._before: Thumbnail | None = None
        self._still_since_s = 0.0
        self._counted: Thumbnail | None = None

    def offer(self, thumbnail: Thumbnail, now_s: float) -> Selection:
        """Judge the next frame. NEW_FIELD is said once a field: the frame is then the one last counted.

        Args:
            thumbnail: of the frame.
            now_s: monotonic time of its capture.
        """
        before, self._before = self._before, thumbnail
        moved = before is None or before.shape != thumbnail.shape
        if not moved and before is not None:
            # The mean is taken out: a flickering lamp is no movement.
            difference = (thumbnail - thumbnail.mean()) - (before - before.mean())
            moved = float(np.abs(difference).mean()) >= self._limits.still_difference_level
        if moved:
            self._still_since_s = now_s
        if now_s - self._still_since_s < self._limits.still_for_s or (moved and before is not None):
            return Selection.MOVING
        if self._counted is not None and overlap_ratio(
            self._counted, thumbnail, peak_above_ratio=self._limits.peak_above_ratio
        ) > (self._limits.overlap_above_ratio):
            return Selection.SAME_FIELD
        self._counted = thumbnail
        return Selection.NEW_FIELD


def overlap_ratio(first: Thumbnail, second: Thumbnail, *, peak_above_ratio: float) -> float:
    """Share of its area that the second field has in common with the first, 0..1; 0 if they do not match anywhere.

    Every shift is tried: the correlation over the common area, normalised by its own mean and spread.
    Shifts that leave less than a tenth in common are not looked at: little area matches by chance.
    """
    if first.shape != second.shape:
        return 0.0
    height, width = first.shape
    size = (2 * height, 2 * width)

    def correlate(a: Thumbnail, b: Thumbnail) -> NDArray[np.float64]:
        spectrum = np.fft.rfft2(a.astype(np.float64), size) * np.conj(np.fft.rfft2(b.astype(np.float64), size))
        return np.asarray(np.fft.irfft2(spectrum, size), np.float64)

    ones = np.ones_like(first)
    a, b = first - first.mean(), second - second.mean()
    area = np.maximum(correlate(ones, ones), 1.0)
    sum_a, sum_b = correlate(a, ones), correlate(ones, b)
    spread_a = correlate(a * a, ones) - sum_a * sum_a / area
    spread_b = correlate(ones, b * b) - sum_b * sum_b / area
    floor = 1e-3 * area
    score = (correlate(a, b) - sum_a * sum_b / area) / np.sqrt(
        np.maximum(spread_a, floor) * np.maximum(spread_b, floor)
    )
    shared = area / (height * width)
    score[shared < 0.1] = -1.0
    # A small common area matches well by chance far more often than a large one: it has to match better.
    chance = peak_above_ratio + 0.5 * (1.0 - shared) * (1.0 - peak_above_ratio)
    best = np.unravel_index(int(np.argmax(score - chance)), score.shape)
    return float(shared[best]) if score[best] >= chance[best] else 0.0
