"""What must run on a small PC is imported while the heavy libraries cannot be: the linter does not see every import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = ("torch", "torchvision", "albumentations", "mlflow", "models.nets", "training")
RELEASE = ("fleet.release", "fleet.rollout")
EVERYTHING_ELSE = ("numpy", "cv2", "onnxruntime", "httpx", "paho", "fastapi", "starlette", "sqlalchemy", "structlog")

BLOCKED = {
    "edge_agent": (*HEAVY, *RELEASE, "cloud", "sqlalchemy"),
    "cloud": (*HEAVY, "edge_agent"),
    "models.bundle": (*HEAVY, "onnxruntime", "cv2"),
    "models.runtime": HEAVY,
    "models.synthetic": (*HEAVY, "onnxruntime"),
    "fleet.client": (*HEAVY, *RELEASE, "numpy", "cv2", "onnxruntime"),
    "fleet.contract": (*HEAVY, *RELEASE, *EVERYTHING_ELSE, "models", "fleet.client"),
}
"""Package -> what cannot be imported while every module of it is."""

CHILD = """
import importlib, pkgutil, sys

package, blocked = sys.argv[1], sys.argv[2].split()

class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == word or name.startswith(word + ".") for word in blocked):
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)
        return None

sys.meta_path.insert(0, Block())
top = importlib.import_module(package)
for module in pkgutil.walk_packages(top.__path__, package + "."):
    if not module.name.endswith("__main__") and ".migrations." not in module.name:
        importlib.import_module(module.name)
print("imported", len([name for name in sys.modules if name.startswith(package)]))
"""


def import_all(package: str, blocked: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """Imports every module of `package` in a fresh interpreter in which `blocked` cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, package, " ".join(blocked)],
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("package", BLOCKED)
def test_every_module_is_imported_without_what_is_blocked(package: str) -> None:
    result = import_all(package, BLOCKED[package], ROOT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 1


WITHOUT_TORCH = ("torch", "torchvision", "albumentations", "mlflow", "onnx", "scipy", "matplotlib", "faster_coco_eval")

HELP = (
    CHILD.split("top = ")[0]
    + """
from typer.testing import CliRunner
from training.cli import app

for words in ([], ["refit"], ["base-set"], ["retrain"]):
    said = CliRunner().invoke(app, [*words, "--help"])
    assert said.exit_code == 0, said.output
said = CliRunner().invoke(app, ["train", "--config", "training/configs/smoke.yaml"])
assert said.exit_code == 1, said.output
print(said.output)
"""
)


def test_the_refit_and_its_help_need_nothing_of_the_training_extra() -> None:
    """The environment of the demo holds no torch; what needs it says how to install it."""
    command = [sys.executable, "-c", HELP, "training", " ".join((*WITHOUT_TORCH, "models.nets"))]
    env = {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "this command needs torch" in result.stdout
    assert "automated-hematology-system[training]" in result.stdout


@pytest.mark.parametrize("blocked", ["torch", "fleet.release"])
def test_an_import_that_the_linter_cannot_see_is_caught(blocked: str, tmp_path: Path) -> None:
    for name in ("edge_agent", "fleet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "edge_agent" / "sly.py").write_text(
        f"import importlib\nimportlib.import_module('{blocked[:3]}' + '{blocked[3:]}')\n"
    )
    result = import_all("edge_agent", BLOCKED["edge_agent"], tmp_path)
    assert result.returncode != 0
    assert f"{blocked} is blocked here" in result.stderr
