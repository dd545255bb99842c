"""ONNX Runtime is loaded without its telemetry: no identifier is made, nothing is sent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def files_made(tmp_path: Path, code: str) -> list[str]:
    """What a fresh process leaves in its temporary folder; the variables that also switch it off are taken away."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=120)
    return sorted(path.name for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("module", ["models.runtime", "models.runtime.session"])
def test_the_library_is_loaded_without_making_an_identifier(tmp_path: Path, module: str) -> None:
    made = files_made(tmp_path, f"import {module}, onnxruntime; onnxruntime.SessionOptions()")
    assert [name for name in made if name.startswith(".ses")] == []


def test_the_check_can_fail_the_bare_library_makes_one(tmp_path: Path) -> None:
    if files_made(tmp_path, "import onnxruntime; onnxruntime.SessionOptions()") == []:
        pytest.fail("this build has no telemetry: the test above proves nothing, and can go")
