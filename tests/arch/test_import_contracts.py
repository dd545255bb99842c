"""import-linter's contracts hold, and each of them is seen to fail on a tree where it is violated."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / ".importlinter"

TREE = (
    "edge_agent.capture",
    "edge_agent.store",
    "cloud",
    "training",
    "models.bundle",
    "models.nets",
    "models.runtime",
    "models.synthetic",
    "fleet.cli",
    "fleet.client",
    "fleet.contract",
    "fleet.local",
    "fleet.release",
    "fleet.release_cli",
    "fleet.rollout",
    "fleet.webkit",
)

PLANTED = {
    "layers": [
        {"edge_agent": "import cloud"},
        {"cloud": "import training"},
        {"models.runtime": "import fleet.client"},
        {"fleet.contract": "import models.bundle"},
        {"fleet.webkit": "import fleet.contract"},
        {"fleet.client": "import edge_agent"},
        {"fleet.release": "import cloud"},
        {"fleet.rollout": "import fleet.client"},
        {"models.bundle": "import fleet.release"},
    ],
    "local-imports-no-program": [{"fleet.local": "import edge_agent"}],
    "programs-do-not-import-local": [{"cloud": "import fleet.local"}, {"cloud": "import fleet.release_cli"}],
    "edge-without-training": [
        {"edge_agent.capture": "import torch"},
        {"edge_agent.store": "import models.runtime", "models.runtime": "import models.nets"},
        {"edge_agent.capture": "from mlflow import log_metric"},
        {"edge_agent.capture": "import fleet.release"},
        {"edge_agent.store": "import fleet.rollout"},
    ],
    "pipeline-without-torch": [
        {"models.runtime": "import torch"},
        {"models.synthetic": "import models.nets"},
        {"cloud": "def f():\n    import torchvision"},
    ],
    "acyclic": [{"edge_agent.capture": "import edge_agent.store", "edge_agent.store": "import edge_agent.capture"}],
}


def lint(folder: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Runs import-linter as its command does, on the packages under `folder`."""
    limits = [part for contract in contracts for part in ("--contract", contract)]
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--config", str(CONFIG), "--no-cache", *limits],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def plant(folder: Path, modules: dict[str, str]) -> None:
    for name in TREE:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            package = folder.joinpath(*parts[:depth])
            package.mkdir(exist_ok=True)
            (package / "__init__.py").touch()
    for name, text in modules.items():
        (folder.joinpath(*name.split(".")) / "planted.py").write_text(text + "\n")
        (folder.joinpath(*name.split(".")) / "__init__.py").write_text(f"from {name} import planted\n")


def contracts() -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(CONFIG)
    return [name.rsplit(":", 1)[1] for name in parser.sections() if ":contract:" in name]


def test_the_contracts_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert f"Contracts: {len(contracts())} kept, 0 broken" in result.stdout


def test_an_innocent_tree_passes(tmp_path: Path) -> None:
    plant(tmp_path, {})
    assert lint(tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("contract", "modules"), [(name, modules) for name, cases in PLANTED.items() for modules in cases]
)
def test_a_planted_violation_breaks_its_contract(contract: str, modules: dict[str, str], tmp_path: Path) -> None:
    plant(tmp_path, modules)
    result = lint(tmp_path, contract)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "0 kept, 1 broken" in result.stdout


def test_each_contract_is_planted_against() -> None:
    assert sorted(PLANTED) == sorted(contracts())


def test_the_edge_is_kept_from_folders_that_come_later_as_soon_as_they_are_there() -> None:
    parser = configparser.ConfigParser()
    parser.read(CONFIG)
    forbidden = parser["importlinter:contract:edge-without-training"]["forbidden_modules"].split()
    for name in ("release", "rollout"):
        assert not (ROOT / "fleet" / name).exists() or f"fleet.{name}" in forbidden
