"""A tiny real bundle with golden inputs, pictures that fit it, and the agent as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.contract.report import AgentReport
from models.runtime import Pipeline, build_golden
from models.runtime.imaging import encode_png

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def disc_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle that reads coloured discs and proves itself on golden inputs."""
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import draw_field, write_blob_bundle

    root = tmp_path_factory.mktemp("disc-bundle")
    reference = Pipeline(write_blob_bundle(root / "draft"), keep_embeddings=True)
    fields = [draw_field(seed=seed) for seed in range(2)]
    golden = build_golden(fields, [reference.analyse(field.image) for field in fields])
    write_blob_bundle(root / "bundle", golden)
    return root / "bundle"


@pytest.fixture
def disc_pictures(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder of so many pictures; each seventh cell is white."""
    from tests.unit.runtime.blob_bundle import draw_field

    def make(count: int) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            (folder / f"field-{number:03d}.png").write_bytes(encode_png(draw_field(seed=number).image))
        return folder

    return make


class EdgeProcess:
    """`python -m edge_agent run` with its own folder."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "edge.yaml"
        self.log = folder / "agent.log"
        self.config.write_text(yaml.safe_dump(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, module: Sequence[str] = ("edge_agent",)) -> EdgeProcess:
        """Starts it; `module`: what stands for the agent, with its own arguments before those of the agent."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AHS_EDGE")}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module, "run", "--config", str(self.config)],
                cwd=REPOSITORY,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in found if line["event"] == name]

    def wait_for(self, name: str, *, count: int = 1, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout_s
        while len(found := self.events(name)) < count:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"no {count} x {name}:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return found

    def wait(self, timeout_s: float = 90.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.log.read_text()[-3000:]}") from None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        self.process.terminate()
        return self.wait(10)

    def report(self) -> AgentReport:
        out = self.folder / "report.json"
        done = run_edge("export", "--config", str(self.config), "--out", str(out))
        assert done.returncode == 0, done.stderr
        return AgentReport.model_validate_json(out.read_bytes())


def run_edge(*arguments: str, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
    """One command of `ahs-edge` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture
def edge(tmp_path: Path, disc_bundle: Path) -> Iterator[Callable[..., EdgeProcess]]:
    """Makes agents over the disc bundle; whatever still runs at the end is killed."""
    made: list[EdgeProcess] = []

    def make(name: str = "bench-1", **sections: Any) -> EdgeProcess:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = {
            "device": {"id": name, "site": "lab-1"},
            "data_dir": str(folder / "data"),
            "inference": {"bundle": str(disc_bundle), "threads": 1},
            "console": {"enabled": False},
            "store": {"min_free_bytes": 0},
            "run": {"self_test": False},
        }
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}  # type: ignore[dict-item]
        made.append(EdgeProcess(folder, settings))
        return made[-1]

    yield make
    for process in made:
        if process._process is not None and process.process.poll() is None:
            process.kill()
