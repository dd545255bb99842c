"""One evaluation of the shipped edge bundle over small sets of generated fields, made once for all tests here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.training.small_sets import EDGE_BUNDLE, examples, write_sets


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with small sets."""
    return write_sets(tmp_path_factory.mktemp("data"), examples(6))


@pytest.fixture(scope="session")
def evaluation(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ahs-train evaluate` wrote of the sets."""
    pytest.importorskip("faster_coco_eval")
    from training.cli import app

    out = tmp_path_factory.mktemp("out") / "evaluation.json"
    asked = ["--split", "val", "--cells", "test", "--site", "wbc_site_b", "--outsiders", "wbc_ood_dev", "--shifts"]
    arguments = ["evaluate", "--bundle", str(EDGE_BUNDLE), *asked, "--speed", "--out", str(out), "--resamples", "50"]
    said = CliRunner().invoke(app, [*arguments, "--threads", "1"], env={"AHS_DATA_DIR": str(sets)})
    assert said.exit_code == 0, said.output
    assert "Research use only" in said.output
    return out


@pytest.fixture(scope="session")
def document(evaluation: Path) -> dict[str, Any]:
    """The same, read."""
    from training.evaluation.run import read_evaluation

    return read_evaluation(evaluation)
