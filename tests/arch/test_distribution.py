"""What `pip install .` would bring: every package by name, and every file that a program opens at run time."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("cloud", "edge_agent", "fleet", "models", "training")
NOT_OPENED = {".py", ".pyc", ".md"}
"""Code, and prose beside it; a bundle's card is carried all the same."""


def settings() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]  # type: ignore[no-any-return]


def test_every_package_is_listed_by_name_and_no_other() -> None:
    there = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in PROGRAMS for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(settings()["packages"]) == there


@pytest.mark.parametrize("top", PROGRAMS)
def test_every_data_file_of_a_package_is_carried(top: str) -> None:
    packages = [str(name) for name in settings()["packages"]]
    patterns = settings()["package-data"]
    left_out = []
    for path in (ROOT / top).rglob("*"):
        if not path.is_file() or path.suffix in NOT_OPENED:
            continue
        owner = max((p for p in packages if path.is_relative_to(ROOT / p.replace(".", "/"))), key=len)
        folder = ROOT / owner.replace(".", "/")
        wanted = [*patterns["*"], *patterns.get(owner, [])]  # type: ignore[misc]
        if not any(path in set(folder.glob(str(pattern))) for pattern in wanted):
            left_out.append(str(path.relative_to(ROOT)))
    assert left_out == []
