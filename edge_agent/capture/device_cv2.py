"""A camera attached to this workstation, by its number (USB, built in, frame grabber)."""

from __future__ import annotations

from edge_agent.capture.capture_cv2 import Cv2Connection
from edge_agent.capture.errors import SourceNotFound
from edge_agent.capture.live import LiveSource
from edge_agent.capture.opencv import cv2
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import OnDrop


def device_source(settings: SourceSettings, *, on_drop: OnDrop | None = None) -> LiveSource:
    """A source over camera number `settings.spec`; width, height and fps are asked of the driver.

    A driver is free to ignore what it is asked for: the size is then reported as wrong by freshness.
    """
    index = int(settings.spec)

    def connect() -> Cv2Connection:
        capture = cv2.VideoCapture(index)
        if not capture.isOpened():
            capture.release()
            raise SourceNotFound(
                f"camera {index} cannot be opened: check that it is connected and switched on, that no other program "
                f"uses it, and that this user may read it (on Linux /dev/video{index}, group 'video'); the first "
                "camera has number 0"
            )
        wanted = (
            (cv2.CAP_PROP_FRAME_WIDTH, settings.width_px),
            (cv2.CAP_PROP_FRAME_HEIGHT, settings.height_px),
            (cv2.CAP_PROP_FPS, settings.fps),
            # The driver's own queue would hand out old pictures; drivers that cannot do it ignore it.
            (cv2.CAP_PROP_BUFFERSIZE, 1),
        )
        for name, value in wanted:
            if value is not None:
                capture.set(name, value)
        return Cv2Connection(capture)

    return LiveSource(settings, kind="camera", label=f"camera {index}", connect=connect, on_drop=on_drop)
