"""Another laboratory's look of the same field: stain, light, camera. Pixels change, boxes do not."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.runtime.results import ImageRGB
from training.config import FieldLook

FloatImage = NDArray[np.float32]
MAX_DENSITY = 6.0
VEIL_GREY = (170.0, 255.0)


def relit(image: ImageRGB, rng: np.random.Generator, look: FieldLook) -> ImageRGB:
    """The field as another stain, lamp and camera would show it, each change by its own chance.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: where the strengths are drawn from.
        look: how far each change may go.

    Returns:
        (H, W, 3) uint8 RGB, the same cells at the same places.
    """
    x = image.astype(np.float32)
    if rng.random() < look.stain_probability:
        x = _restained(x, rng, look.density_mix)
    if rng.random() < look.light_probability:
        x = _recast(x, rng, look)
    if rng.random() < look.light_probability / 2:
        x *= _uneven_light(x.shape[0], x.shape[1], rng, look.vignette)[..., None]
    if rng.random() < look.defocus_probability:
        sigma = float(rng.uniform(0.4, max(0.41, look.defocus_ratio * max(x.shape[:2]) / 100.0)))
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), np.float32)
    return x.clip(0, 255).astype(np.uint8)


def _restained(x: FloatImage, rng: np.random.Generator, strength: float) -> FloatImage:
    """Mix the channels' optical densities, stronger or weaker as a whole."""
    density = cv2.log((x + 1.0) * np.float32(1 / 256.0))
    matrix = np.diag(rng.uniform(1 - 1.5 * strength, 1 + 1.5 * strength, 3))
    matrix += rng.uniform(-strength, strength, (3, 3)) * (1 - np.eye(3))
    mixed = cv2.transform(density, matrix.astype(np.float32)).clip(-MAX_DENSITY, 0)
    return np.asarray(cv2.exp(mixed) * np.float32(256.0) - 1.0, np.float32)


def _recast(x: FloatImage, rng: np.random.Generator, look: FieldLook) -> FloatImage:
    """White balance, haze and contrast."""
    x = x * rng.uniform(1 - look.cast, 1 + look.cast * 0.4, 3).astype(np.float32)
    if rng.random() < 0.4:
        share = np.float32(rng.uniform(0, look.haze))
        x = x * (1 - share) + rng.uniform(*VEIL_GREY, 3).astype(np.float32) * share
    if rng.random() < 0.5:
        mean = x.mean(axis=(0, 1), keepdims=True)
        x = (x - mean) * np.float32(rng.uniform(look.min_contrast, 1.2)) + mean
    return np.asarray(x, np.float32)


def _uneven_light(height_px: int, width_px: int, rng: np.random.Generator, strength: float) -> FloatImage:
    """Gain of each pixel: darker towards the corners, and a slope across the field."""
    ys, xs = np.linspace(-1, 1, height_px, dtype=np.float32), np.linspace(-1, 1, width_px, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-strength, strength, 2).astype(np.float32) / 2
    fall = np.float32(rng.uniform(0, strength)) / 2
    radius2 = ys[:, None] ** 2 + xs[None, :] ** 2
    return np.asarray(1 - fall * radius2 + slope_y * ys[:, None] + slope_x * xs[None, :], np.float32)
