"""What camera, stream and video share: frames out of an opened `cv2.VideoCapture`."""

from __future__ import annotations

import numpy as np

from edge_agent.capture.opencv import cv2
from models.runtime.results import ImageRGB


def retrieve_rgb(capture: cv2.VideoCapture) -> ImageRGB | None:
    """Decode the frame that was grabbed last.

    Returns:
        (H, W, 3) uint8 RGB, owned by the caller; None if it cannot be decoded.
    """
    try:
        decoded, bgr = capture.retrieve()
    except cv2.error:
        return None
    if not decoded or bgr is None or not bgr.size:
        return None
    code = cv2.COLOR_GRAY2RGB if bgr.ndim == 2 or bgr.shape[2] == 1 else cv2.COLOR_BGR2RGB
    return np.ascontiguousarray(cv2.cvtColor(bgr, code), dtype=np.uint8)


class Cv2Connection:
    """An opened camera or stream as `live.Connection`."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def read(self) -> ImageRGB | None:
        """The next frame, (H, W, 3) uint8 RGB; None when it is lost or nothing came within the read time-out."""
        if not self._capture.grab():
            return None
        return retrieve_rgb(self._capture)

    def close(self) -> None:
        """Release the device."""
        self._capture.release()
