"""Augmentation of white-cell crops: another stain, another light, another camera, the same cell."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.runtime.imaging import crop_cell
from models.runtime.results import ImageRGB
from training.config import CellAugment

FloatImage = NDArray[np.float32]
MILD_NOISE = 2.0
"""Deviation of the noise every training crop gets at most, grey levels."""


class CellAugmenter:
    """Cuts a crop with a shaken window and changes its look; repeatable by seed.

    Args:
        config: how far each change may go.
        input_px: side of the crop.
    """

    def __init__(self, config: CellAugment, input_px: int) -> None:
        self._config, self._input_px = config, input_px

    def __call__(self, image: ImageRGB, box: tuple[float, ...], window_px: float, *, seed: int) -> ImageRGB:
        """One training crop.

        Args:
            image: (H, W, 3) uint8 RGB, the field.
            box: x1 y1 x2 y2, pixels of the field.
            window_px: side of the window that the device would cut.
            seed: the same seed gives the same crop.

        Returns:
            (C, C, 3) uint8 RGB.
        """
        c, rng = self._config, np.random.default_rng(seed)
        shift_x, shift_y = rng.uniform(-c.shift_ratio, c.shift_ratio, 2) * window_px
        moved = (box[0] + shift_x, box[1] + shift_y, box[2] + shift_x, box[3] + shift_y)
        window = window_px * float(np.exp(rng.uniform(-c.window_jitter, c.window_jitter)))
        crop = turned(crop_cell(image, moved, window, self._input_px), int(rng.integers(8)))
        strong = rng.random() < c.strong_probability
        look = self._strong(crop.astype(np.float32), rng) if strong else self._mild(crop.astype(np.float32), rng)
        return look.clip(0, 255).round().astype(np.uint8)

    def _mild(self, x: FloatImage, rng: np.random.Generator) -> FloatImage:
        gain = rng.uniform(0.93, 1.07, 3).astype(np.float32)
        return x * gain + rng.normal(0, rng.uniform(0, MILD_NOISE), x.shape).astype(np.float32)

    def _strong(self, x: FloatImage, rng: np.random.Generator) -> FloatImage:
        c = self._config
        x = mixed_density(x, rng, c.density_mix)
        x = x * rng.uniform(1 - c.cast, 1 + c.cast * 0.4, 3).astype(np.float32)
        if rng.random() < 0.4:
            veil = rng.uniform(170, 255, 3).astype(np.float32)
            haze = np.float32(rng.uniform(0, c.haze))
            x = x * (1 - haze) + veil * haze
        if rng.random() < 0.5:
            mean = x.mean(axis=(0, 1), keepdims=True)
            x = (x - mean) * np.float32(rng.uniform(c.min_contrast, 1.2)) + mean
        if rng.random() < 0.5:
            x = np.asarray(cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.3, max(0.31, c.blur_px)))), np.float32)
        if rng.random() < 0.3:
            x = x + ramp(x.shape[0], rng)[..., None]
        return x + rng.normal(0, rng.uniform(0.5, c.noise), x.shape).astype(np.float32)


def turned(crop: ImageRGB, which: int) -> ImageRGB:
    """One of the eight symmetries of the square."""
    out = np.rot90(crop, which % 4)
    return np.ascontiguousarray(out[:, ::-1] if which >= 4 else out)


def mixed_density(x: FloatImage, rng: np.random.Generator, strength: float) -> FloatImage:
    """Mix the channels' optical densities: what another stain mixture does to the same cell."""
    density = -np.log((x + 1) / 256.0)
    matrix = np.eye(3) * rng.uniform(1 - 1.5 * strength, 1 + 1.5 * strength, 3)
    matrix += rng.uniform(-strength, strength, (3, 3)) * (1 - np.eye(3))
    mixed = (density @ matrix.astype(np.float32)).clip(0, 6)
    return np.asarray(256.0 * np.exp(-mixed) - 1, np.float32)


def ramp(side_px: int, rng: np.random.Generator) -> FloatImage:
    """Uneven light: a plane over the crop, grey levels."""
    axis = np.linspace(-1, 1, side_px, dtype=np.float32)
    a, b = rng.uniform(-18, 18, 2)
    return np.asarray(a * axis[:, None] + b * axis[None], np.float32)
