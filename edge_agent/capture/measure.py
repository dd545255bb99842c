"""Numbers of a picture, for the quality gate, freshness and field selection."""

from __future__ import annotations

from edge_agent.capture.gate import FieldMeasurements
from edge_agent.capture.opencv import cv2
from models.runtime.results import ImageRGB


def measure(image: ImageRGB) -> FieldMeasurements:
    """Measure a field.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    raise NotImplementedError(cv2.__version__)
