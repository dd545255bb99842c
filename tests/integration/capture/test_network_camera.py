"""A real MJPEG stream over HTTP that freezes, goes away, comes back, and fails in the other ways cameras do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.capture.errors import SourceError, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DroppedFrame, DropReason, FrameSource, SourceState

PATIENCE_S = 15.0


def load_fake(name: str) -> Any:
    path = Path(__file__).parents[2] / "fakes" / f"{name}.py"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jpeg(seed: int, *, level: float = 170.0, size_px: tuple[int, int] = (160, 120)) -> bytes:
    rng = np.random.default_rng(seed)
    noisy = np.clip(rng.normal(level, 8.0 if 5 < level < 250 else 0.0, (size_px[1], size_px[0], 3)), 0, 255)
    done, data = cv2.imencode(".jpg", noisy.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return data.tobytes()


def settings(url: str) -> SourceSettings:
    return SourceSettings.model_validate(
        {
            "spec": url,
            "link": {
                "open_timeout_ms": 1000,
                "read_timeout_ms": 600,
                "stall_after_s": 0.3,
                "backoff_first_s": 0.05,
                "backoff_last_s": 0.3,
                "abandon_after_s": 4.0,
            },
            "freshness": {"frozen_after_s": 0.3, "reconnect_frozen_after_s": 1.0, "window_s": 1.0},
        }
    )


@pytest.fixture
def camera() -> Iterator[Any]:
    with load_fake("mjpeg_server").MjpegServer([jpeg(n) for n in range(97)], fps=25.0) as server:
        yield server


def read_one(source: FrameSource) -> Frame:
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        try:
            return source.read(0.1)
        except (SourceTimeout, SourceLost):
            continue
    raise AssertionError(f"no frame: {source.status()}")


def wait_for(source: FrameSource, state: SourceState) -> None:
    """Read on, as the agent does, until the source says so."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        if source.status().state is state:
            return
        try:
            source.read(0.02)
        except SourceError:
            continue
    raise AssertionError(f"never {state}: {source.status()}")


def test_a_freeze_and_a_restart_in_the_middle_are_told_and_survived(camera: Any) -> None:
    with open_source(settings(camera.url)) as source:
        first = read_one(source)
        assert source.status().state is SourceState.UP

        camera.mode = "freeze"
        wait_for(source, SourceState.FROZEN)
        assert "frozen" in source.status().text
        with pytest.raises(SourceTimeout, match="frozen"):
            source.read(0.1)
        camera.mode = "run"
        after_freeze = read_one(source)
        wait_for(source, SourceState.UP)

        camera.stop()
        wait_for(source, SourceState.RECONNECTING)
        with pytest.raises(SourceLost, match="reconnecting"):
            source.read(0.1)
        camera.start()
        after_restart = read_one(source)
        wait_for(source, SourceState.UP)
        status = source.status()
    assert first.frame < after_freeze.frame < after_restart.frame
    assert status.reconnects >= 1
    assert status.dropped[DropReason.REPEATED] >= 3


def test_a_camera_that_stays_frozen_is_reconnected(camera: Any) -> None:
    with open_source(settings(camera.url)) as source:
        read_one(source)
        camera.mode = "freeze"
        end_s = time.monotonic() + PATIENCE_S
        while source.status().reconnects == 0 and time.monotonic() < end_s:
            time.sleep(0.05)
        assert source.status().reconnects >= 1
        wait_for(source, SourceState.FROZEN)


@pytest.mark.parametrize(
    ("picture", "state"),
    [
        (lambda n: jpeg(n, level=1.0), SourceState.BLACK),
        (lambda n: jpeg(n, level=255.0), SourceState.SATURATED),
        (lambda n: jpeg(n, size_px=(80, 64)), SourceState.WRONG_SIZE),
    ],
)
def test_a_picture_that_cannot_be_a_field_is_told_once_counted_and_not_delivered(
    camera: Any, picture: Callable[[int], bytes], state: SourceState
) -> None:
    told: list[DroppedFrame] = []
    with open_source(settings(camera.url), on_drop=told.append) as source:
        read_one(source)
        camera.stop()
        camera.show([picture(n) for n in range(20)])
        camera.start()
        wait_for(source, state)
        time.sleep(0.3)
        before = source.status().dropped[DropReason(state.value)]
        assert before >= 2
        assert [d.reason for d in told].count(DropReason(state.value)) == 1
        camera.stop()
        camera.show([jpeg(n) for n in range(200, 240)])
        camera.start()
        read_one(source)
        wait_for(source, SourceState.UP)


@pytest.mark.parametrize("mode", ["silent", "trickle", "hang_up"])
def test_a_stream_that_dries_up_is_noticed_and_comes_back(camera: Any, mode: str) -> None:
    with open_source(settings(camera.url)) as source:
        read_one(source)
        camera.mode = mode
        end_s = time.monotonic() + PATIENCE_S
        while source.status().healthy and time.monotonic() < end_s:
            time.sleep(0.02)
        assert source.status().state in (SourceState.STALLED, SourceState.RECONNECTING, SourceState.TRICKLING)
        camera.mode = "run"
        wait_for(source, SourceState.UP)
        read_one(source)


def test_the_newest_frame_wins_and_the_others_are_counted(camera: Any) -> None:
    with open_source(settings(camera.url)) as source:
        first = read_one(source)
        time.sleep(1.0)
        late = read_one(source)
        status = source.status()
    assert time.monotonic() - late.captured_monotonic_s < 1.0
    assert late.frame > first.frame + 5
    assert status.dropped[DropReason.SUPERSEDED] >= late.frame - first.frame - 1 > 0
    assert status.fps > 10


def test_a_password_in_the_address_is_never_shown(camera: Any) -> None:
    url = camera.url.replace("http://", "http://eve:secret@") + "?token=hidden"
    with open_source(settings(url)) as source:
        frame = read_one(source)
        shown = source.status().text + frame.source_ref
    assert "secret" not in shown
    assert "hidden" not in shown


def test_a_stream_and_a_camera_that_are_not_there_are_named_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    for spec, says in (("http://127.0.0.1:9/x", "stream http://127.0.0.1:9/x cannot be opened"), ("63", "camera 63")):
        started_s = time.monotonic()
        with pytest.raises(SourceNotFound, match=says), open_source(settings(spec)):
            pass
        assert time.monotonic() - started_s < 5.0
    assert capfd.readouterr().err == ""
