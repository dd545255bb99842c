"""Light and sensor: what stands between a slide and its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

ImageRGB = NDArray[np.uint8]
_BLUR_UM_PER_DEFOCUS_UM = 0.16
"""Deviation of the blur per µm out of focus: the order that an oil immersion objective shows."""


@dataclass(frozen=True, slots=True)
class Optics:
    """Everything that belongs to the frame and not to the specimen.

    Attributes:
        defocus_um: distance from the focal plane; the sign does not matter.
        gain: exposure; 1 keeps the brightness.
        vignetting_ratio: loss of light in the corners, 0..1.
        slope_ratio: difference of light from one side of the frame to the other, 0..1.
        slope_rad: direction in which it grows brighter.
        cast: factor per channel, R G B (lamp and white balance).
        haze_ratio: share of the contrast lost to stray light, 0..1.
        noise_sigma: deviation of the sensor's noise, in counts of 255.
    """

    defocus_um: float = 0.0
    gain: float = 1.0
    vignetting_ratio: float = 0.0
    slope_ratio: float = 0.0
    slope_rad: float = 0.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze_ratio: float = 0.0
    noise_sigma: float = 2.0

    def apply(self, image: ImageRGB, rng: np.random.Generator, *, um_per_px: float = 0.083) -> ImageRGB:
        """What the sensor delivers for an ideal view.

        Args:
            image: (H, W, 3) uint8 RGB; left as it is.
            rng: draws the noise; nothing else is random.
            um_per_px: scale of the view, which turns defocus into pixels.

        Returns:
            (H, W, 3) uint8 RGB, new.
        """
        sigma_px = abs(self.defocus_um) * _BLUR_UM_PER_DEFOCUS_UM / um_per_px
        # On uint8 OpenCV blurs in fixed point: the same bytes on every processor.
        seen = cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px > 0.05 else image
        counts = seen.astype(np.float32)
        if self.haze_ratio > 0.0:
            mean = np.float32(image[::8, ::8].mean())
            counts += (mean - counts) * np.float32(self.haze_ratio)
        factor = np.asarray(self.cast, np.float32) * np.float32(self.gain)
        if self.vignetting_ratio > 0.0 or self.slope_ratio > 0.0:
            counts *= self._light(image.shape[0], image.shape[1])[..., None] * factor
        elif np.any(factor != 1.0):
            counts *= factor
        if self.noise_sigma > 0.0:
            counts += rng.standard_normal(counts.shape, dtype=np.float32) * np.float32(self.noise_sigma)
        delivered: ImageRGB = np.clip(counts + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
        return delivered

    def _light(self, height_px: int, width_px: int) -> NDArray[np.float32]:
        x = np.linspace(-1.0, 1.0, width_px, dtype=np.float32)
        y = np.linspace(-1.0, 1.0, height_px, dtype=np.float32)[:, None]
        corner = np.float32(self.vignetting_ratio / 2.0)
        light = 1.0 - corner * (x * x + y * y)
        half = self.slope_ratio / 2.0
        light = (
            light + np.float32(half * math.cos(self.slope_rad)) * x + np.float32(half * math.sin(self.slope_rad)) * y
        )
        return np.asarray(light, np.float32)
