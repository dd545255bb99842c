"""The reader thread of a live source: whatever ends it, another takes its place and its connection is closed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edge_agent.capture.errors import SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.live import LiveSource
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DroppedFrame
from models.runtime.results import ImageRGB

LINK = {
    "open_timeout_ms": 1000,
    "read_timeout_ms": 600,
    "backoff_first_s": 0.05,
    "backoff_last_s": 0.1,
    "abandon_after_s": 2.0,
}


class Camera:
    """Black on its first connection, noise on every later one."""

    def __init__(self, number: int) -> None:
        self.closed = False
        self._number = number
        self._rng = np.random.default_rng(number)

    def read(self) -> ImageRGB | None:
        time.sleep(0.01)
        if self._number == 1:
            return np.zeros((32, 48, 3), np.uint8)
        return self._rng.integers(60, 200, (32, 48, 3), dtype=np.uint8)

    def close(self) -> None:
        self.closed = True


def a_frame(source: LiveSource) -> Frame:
    for _ in range(50):
        try:
            return source.read(0.1)
        except SourceTimeout:
            continue
        except Exception as exc:
            if type(exc).__name__ != "SourceLost":
                raise
    raise AssertionError(f"no frame: {source.status().text}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("end", [RuntimeError("the drop could not be told"), SystemExit()])
def test_a_reader_that_dies_is_replaced_and_its_connection_closed(end: BaseException) -> None:
    cameras: list[Camera] = []

    def connect() -> Camera:
        cameras.append(Camera(len(cameras) + 1))
        return cameras[-1]

    def on_drop(dropped: DroppedFrame) -> None:
        raise end

    settings = SourceSettings.model_validate({"spec": "0", "link": LINK})
    with LiveSource(settings, kind="camera", label="camera 0", connect=connect, on_drop=on_drop) as source:
        assert a_frame(source).image.shape == (32, 48, 3)
        assert cameras[0].closed
        assert source.status().reconnects == 1
    assert all(camera.closed for camera in cameras)
