"""Another laboratory's look, put onto a field: listed shifts of stated strength, repeatable by seed.

`SHIFTS` is the whole list; each entry is a pure function of picture, boxes and seed. Strengths are in the units that
the entry's words name: grey levels of 255, pixels of the field, shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.runtime.imaging import decode_image, encode_jpeg
from models.runtime.results import FloatArray, ImageRGB

Shifted = tuple[ImageRGB, FloatArray]
Change = Callable[[ImageRGB, FloatArray, int], Shifted]
FloatImage = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shift:
    """One change of a field.

    Attributes:
        name: of the shift, stable.
        kind: what is changed: stain, white balance, blur and so on.
        strength: the number that says how far.
        words: what the strength means.
        change: (image (H, W, 3) uint8 RGB, boxes (N, 4) float32 pixels, seed) -> both after the change.
    """

    name: str
    kind: str
    strength: float
    words: str
    change: Change

    def apply(self, image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        """The changed field; neither argument is touched."""
        return self.change(image, boxes, seed)


def stain_mix(strength: float) -> Change:
    """Mix the channels' optical densities by a random matrix: another stain mixture on the same cells."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        rng = np.random.default_rng(seed)
        density = -np.log((image.astype(np.float32) + 1) / 256.0)
        own = np.eye(3) * rng.uniform(1 - 1.5 * strength, 1 + 1.5 * strength, 3)
        mixed = density @ (own + rng.uniform(-strength, strength, (3, 3)) * (1 - np.eye(3))).astype(np.float32)
        return _levels(256.0 * np.exp(-mixed.clip(0, 6)) - 1), boxes.copy()

    return change


def stain_intensity(factor: float) -> Change:
    """Multiply all optical densities: a pale or a dark stain."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        share = (image.astype(np.float32) + 1) / 256.0
        return _levels(256.0 * np.power(share, np.float32(factor)) - 1), boxes.copy()

    return change


def white_balance(red: float, blue: float) -> Change:
    """Multiply the red and the blue channel: warmer or colder light."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        return _levels(image.astype(np.float32) * np.array([red, 1.0, blue], np.float32)), boxes.copy()

    return change


def cast(strength: float) -> Change:
    """Darken each channel by a random share: a colour cast."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        gains = np.random.default_rng(seed).uniform(1 - strength, 1.0, 3).astype(np.float32)
        return _levels(image.astype(np.float32) * gains), boxes.copy()

    return change


def blur(sigma_px: float) -> Change:
    """Gaussian blur: out of focus."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8), boxes.copy()

    return change


def noise(sigma: float) -> Change:
    """Gaussian noise of each pixel and channel."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        grain = np.random.default_rng(seed).standard_normal(image.shape, np.float32) * np.float32(sigma)
        return _levels(image.astype(np.float32) + grain), boxes.copy()

    return change


def vignetting(loss: float) -> Change:
    """Darken towards the corners, with the square of the distance from the middle; the corners lose `loss`."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        height, width = image.shape[:2]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None]
        return _levels(image * (1 - np.float32(loss) * (x * x + y * y) / 2)[..., None]), boxes.copy()

    return change


def scale(factor: float) -> Change:
    """Resize the field; its boxes grow with it."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        height, width = image.shape[:2]
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        resized = np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)
        return resized, boxes * np.array([size[0] / width, size[1] / height] * 2, np.float32)

    return change


def jpeg(quality: int) -> Change:
    """Compress as JPEG and read again."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        return decode_image(encode_jpeg(image, quality)), boxes.copy()

    return change


def brightness(factor: float) -> Change:
    """Multiply all grey levels: another exposure."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        return _levels(image.astype(np.float32) * np.float32(factor)), boxes.copy()

    return change


def contrast(factor: float) -> Change:
    """Draw all grey levels towards the field's mean, or away from it."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        del seed
        mean = image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        return _levels((image - mean) * np.float32(factor) + mean), boxes.copy()

    return change


def haze(share: float) -> Change:
    """Lay a light veil of random tint over the field: scattered light."""

    def change(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
        veil = np.random.default_rng(seed).uniform(190, 255, 3).astype(np.float32)
        return _levels(image * np.float32(1 - share) + veil * np.float32(share)), boxes.copy()

    return change


def _levels(values: FloatImage | NDArray[np.float64]) -> ImageRGB:
    return np.asarray(values.clip(0, 255).round(), np.uint8)


def as_it_is(image: ImageRGB, boxes: FloatArray, seed: int) -> Shifted:
    """No change."""
    del seed
    return image.copy(), boxes.copy()


AS_IT_IS = Shift("clean", "clean", 0.0, "as the fields are", as_it_is)
SHIFTS: tuple[Shift, ...] = (
    Shift("stain_mix", "stain", 0.15, "largest share of a channel's density that goes into another", stain_mix(0.15)),
    Shift("stain_pale", "stain", 0.7, "factor of all optical densities", stain_intensity(0.7)),
    Shift("stain_dark", "stain", 1.4, "factor of all optical densities", stain_intensity(1.4)),
    Shift("white_balance_warm", "white balance", 1.15, "factor of red; blue .85", white_balance(1.15, 0.85)),
    Shift("white_balance_cold", "white balance", 0.85, "factor of red; blue 1.15", white_balance(0.85, 1.15)),
    Shift("cast", "white balance", 0.25, "largest share that a channel loses", cast(0.25)),
    Shift("blur", "blur", 1.5, "sigma, pixels of the field", blur(1.5)),
    Shift("blur_strong", "blur", 2.5, "sigma, pixels of the field", blur(2.5)),
    Shift("noise", "noise", 12.0, "sigma, grey levels", noise(12.0)),
    Shift("vignetting", "vignetting", 0.4, "share of the light that the corners lose", vignetting(0.4)),
    Shift("scale_0.5", "scale", 0.5, "factor of both sides", scale(0.5)),
    Shift("scale_0.7", "scale", 0.7, "factor of both sides", scale(0.7)),
    Shift("scale_1.4", "scale", 1.4, "factor of both sides", scale(1.4)),
    Shift("scale_2", "scale", 2.0, "factor of both sides", scale(2.0)),
    Shift("jpeg", "compression", 30.0, "quality, 1 to 100", jpeg(30)),
    Shift("brightness_dark", "brightness", 0.75, "factor of all grey levels", brightness(0.75)),
    Shift("brightness_light", "brightness", 1.2, "factor of all grey levels", brightness(1.2)),
    Shift("contrast_low", "contrast", 0.6, "factor of the distance from the mean", contrast(0.6)),
    Shift("contrast_high", "contrast", 1.4, "factor of the distance from the mean", contrast(1.4)),
    Shift("haze", "haze", 0.3, "share of the veil", haze(0.3)),
)
"""Every shift that a detector is judged under."""
