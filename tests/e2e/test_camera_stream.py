"""A network camera that freezes and restarts in the middle of a slide: the agent says so, recovers, reads on."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from fleet.local.processes import Part, free_port
from models.runtime.imaging import encode_jpeg
from models.synthetic import SlideSpec, VirtualSlide

pytestmark = pytest.mark.slow

STAGE_STOPS = 8
FRAMES_A_STOP = 14
FPS = 14.0
WAIT_S = 60.0


def load_fake(name: str) -> Any:
    spec = spec_from_file_location(name, Path(__file__).parents[1] / "fakes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def film() -> list[bytes]:
    """A stage that stops at one field after the other; each frame has the noise of a sensor."""
    slide, rng = VirtualSlide(SlideSpec(seed=5)), np.random.default_rng(5)
    frames = []
    for stop in range(STAGE_STOPS):
        field = slide.render(x_um=stop * 80.0, y_um=0.0).image.astype(np.float32)
        for _ in range(FRAMES_A_STOP):
            noisy = field + rng.normal(0.0, 2.0, field.shape).astype(np.float32)
            frames.append(encode_jpeg(np.clip(noisy, 0, 255).astype(np.uint8), 90))
    return frames


def test_the_agent_says_that_its_camera_is_frozen_or_gone_and_reads_on_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    with load_fake("mjpeg_server").MjpegServer(film(), fps=FPS) as camera:
        config = tmp_path / "edge.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "data_dir": str(tmp_path / "data"),
                    "source": {
                        "spec": camera.url,
                        "um_per_px": 0.083,
                        "link": {"open_timeout_ms": 1500, "read_timeout_ms": 1500, "stall_after_s": 1.5},
                        "freshness": {"frozen_after_s": 1.0},
                    },
                    "inference": {"threads": 1},
                    "console": {"port": port},
                }
            )
        )
        with Part.python("agent", "edge_agent", "run", "--config", str(config), log=tmp_path / "log") as agent:
            agent.wait_until(lambda: bool(snapshot(port)), timeout_s=WAIT_S)
            until(agent, lambda: fields(port) >= 2, "the first fields are read")
            assert snapshot(port)["problems"] == []

            camera.mode = "freeze"
            until(agent, lambda: "frozen" in camera_text(port), "the frozen picture is seen")
            assert [problem["text"] for problem in snapshot(port)["problems"]], "the page says that something is wrong"
            before = fields(port)
            time.sleep(2.0)
            assert fields(port) == before, "a frozen picture is no field"
            camera.mode = "run"
            until(agent, lambda: fields(port) > before, "it reads on after the freeze")

            camera.stop()
            until(agent, lambda: snapshot(port)["camera"]["state"] != "ok", "the lost camera is seen")
            before = fields(port)
            camera.start()
            until(agent, lambda: fields(port) > before, "it reads on after the restart")
            until(agent, lambda: snapshot(port)["problems"] == [], "nothing is wrong any more")


def snapshot(port: int) -> dict[str, Any]:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/snapshot", timeout=2.0)
        return dict(answer.json()) if answer.status_code == 200 else {}
    except httpx.HTTPError:
        return {}


def fields(port: int) -> int:
    slide = snapshot(port).get("slide")
    return int(slide["fields"]) if slide else 0


def camera_text(port: int) -> str:
    camera = snapshot(port).get("camera", {})
    return f"{camera.get('state', '')} {camera.get('text', '')}".lower()


def until(agent: Part, what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s in vain: {why}\n{agent.log_tail(30)}"
        time.sleep(0.2)
