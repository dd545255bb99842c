"""Numbers of a picture, for the quality gate, freshness and field selection."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.freshness import FrameLook
from edge_agent.capture.gate import FieldMeasurements
from edge_agent.capture.opencv import cv2
from models.runtime.results import ImageRGB

WORKING_SIDE_PX = 480
"""Sharpness is measured at this longer side, so that it does not depend on the camera's pixel count."""
SATURATED_LEVEL = 250
THUMBNAIL_SIZE_PX = (64, 48)
EDGE_PERCENTILE = 98.0
EDGE_SIGMA_PX = 1.0
REBLUR_SIGMA_PX = 2.0


def measure(image: ImageRGB) -> FieldMeasurements:
    """Measure a field.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    brightness, background = (float(v) for v in np.percentile(grey, [50, 90]))
    tint = image[grey >= background].reshape(-1, 3).mean(axis=0)
    return FieldMeasurements(
        width_px=int(image.shape[1]),
        height_px=int(image.shape[0]),
        focus=_focus(np.asarray(grey, np.uint8)),
        brightness_level=brightness,
        background_level=background,
        saturated_ratio=_saturated_ratio(image),
        cast_level=float(tint.max() - tint.min()),
    )


def look(image: ImageRGB) -> FrameLook:
    """What freshness needs of a frame; about a millisecond for 640x480.

    Args:
        image: (H, W, 3) uint8 RGB, contiguous.
    """
    # Every fourth row and column is enough for light; the checksum alone has to see each byte.
    sample = image[::4, ::4]
    return FrameLook(
        digest=zlib.crc32(np.ascontiguousarray(image).data),
        width_px=int(image.shape[1]),
        height_px=int(image.shape[0]),
        bright_level=float(np.percentile(sample.max(axis=2), 99)),
        saturated_ratio=_saturated_ratio(sample),
    )


def thumbnail(image: ImageRGB) -> NDArray[np.float32]:
    """(48, 64) float32 grey levels 0..255, each the mean of its part of the frame: for `selection`.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    small = cv2.resize(image, THUMBNAIL_SIZE_PX, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)


def _saturated_ratio(image: ImageRGB) -> float:
    return float((image.min(axis=2) >= SATURATED_LEVEL).mean())


def _focus(grey: NDArray[np.uint8]) -> float:
    """Share of the gradient that the strongest edges lose when the picture is blurred once more.

    A sharp edge suffers from a second blur, a blurred one hardly changes. The ratio does not depend on contrast or
    brightness, and looking only at the strongest edges keeps sensor noise out of it: noise has fine detail too and
    would make a defocused field look sharp.
    """
    height, width = grey.shape
    scale = WORKING_SIDE_PX / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(grey, size, interpolation=method), np.float32)
    once = np.asarray(cv2.GaussianBlur(small, (0, 0), EDGE_SIGMA_PX), np.float32)
    twice = np.asarray(cv2.GaussianBlur(once, (0, 0), REBLUR_SIGMA_PX), np.float32)
    energy, energy_after = _gradient_energy(once), _gradient_energy(twice)
    edges = energy >= np.percentile(energy, EDGE_PERCENTILE)
    before = float(energy[edges].mean())
    if before < 1e-6:
        return 0.0
    return max(0.0, 1.0 - float(np.sqrt(energy_after[edges].mean() / before)))


def _gradient_energy(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    dx = np.diff(picture, axis=1)[:-1]
    dy = np.diff(picture, axis=0)[:, :-1]
    return np.asarray(dx * dx + dy * dy, np.float32)
