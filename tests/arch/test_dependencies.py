"""What is installed: one OpenCV, every requirement pinned, nothing heavy at the edge."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADLESS = "opencv-python-headless"
OURSELVES = "automated-hematology-system"


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def requirements(extra: str | None = None) -> set[str]:
    """Names of what is required directly, an extra's own extras followed."""
    listed = project()["dependencies"] if extra is None else project()["optional-dependencies"][extra]
    found: set[str] = set()
    for text in listed:
        if name_of(text) == OURSELVES:
            inner = re.search(r"\[(.*)\]", text)
            found = found.union(*(requirements(name) for name in (inner[1] if inner else "").split(",")))
        else:
            found.add(name_of(text))
    return found


def pinned() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def second_opencv(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("opencv")} - {HEADLESS}


def test_there_is_one_opencv_and_it_is_headless() -> None:
    installed = {name_of(dist.metadata["Name"]) for dist in importlib.metadata.distributions()}
    everything = requirements().union(*(requirements(extra) for extra in project()["optional-dependencies"]))
    for names in (installed, everything, {name_of(line) for line in pinned()}):
        assert HEADLESS in names
        assert second_opencv(names) == set()


@pytest.mark.parametrize("name", ["opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"])
def test_a_second_opencv_is_seen(name: str) -> None:
    assert second_opencv({HEADLESS, name_of(name), "numpy"}) == {name}


def test_every_direct_requirement_is_pinned_to_a_plain_version() -> None:
    assert [line for line in pinned() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    everything = requirements().union(*(requirements(extra) for extra in project()["optional-dependencies"]))
    assert everything - {name_of(line) for line in pinned()} == set()


def test_the_edge_the_cloud_and_the_demo_install_nothing_of_training() -> None:
    heavy = {"torch", "torchvision", "albumentations", "mlflow", "onnx", "scipy", "matplotlib"}
    for extra in ("edge", "cloud", "fleet", "demo"):
        assert (requirements() | requirements(extra)) & heavy == set()
    assert heavy - {"torchvision"} <= requirements("training")
