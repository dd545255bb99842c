"""`ahs-train` from the outside, on generated fields alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from typer.testing import CliRunner

from training import tracking
from training.checkpoint import load_checkpoint
from training.cli import app
from training.config import GeneratedFields
from training.data.generated import generated_examples, generator_fingerprint

pytestmark = pytest.mark.torch

SMOKE = Path("training/configs/smoke.yaml")
runner = CliRunner()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_help_names_every_command() -> None:
    said = runner.invoke(app, ["--help"]).output
    assert all(word in said for word in ("train", "evaluate", "export", "calibrate", "pack"))


def test_the_smoke_configuration_trains_without_any_data(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AHS_DATA_DIR", raising=False)
    arguments = ["train", "--config", str(SMOKE), "--out", str(tmp_path / "run"), "--cache", str(cache)]
    said = runner.invoke(app, [*arguments, "--no-mlflow", "--threads", "1", "--device", "cpu"])
    assert said.exit_code == 0, said.output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert load_checkpoint(tmp_path / "run" / "last.pt")["next_epoch"] == 2


def test_without_data_the_shipped_detector_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AHS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = runner.invoke(
        app, ["train", "--config", "training/configs/edge-detector.yaml", "--out", str(tmp_path), "--no-mlflow"]
    )
    assert said.exit_code == 1
    assert "AHS_DATA_DIR is not set" in said.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--config", "absent.yaml"], "cannot be read"),
        (["evaluate", "--bundle", "absent", "--generated", "1"], "there is no bundle"),
        (["evaluate", "--bundle", "absent"], "say what to measure"),
        (["export", "--recipe", "training/configs/smoke.yaml"], "problem"),
    ],
)
def test_wrong_input_is_answered_with_one_clear_message(arguments: list[str], words: str) -> None:
    said = runner.invoke(app, arguments)
    assert said.exit_code != 0
    assert words in said.output
    assert "Traceback" not in said.output


def test_packing_before_exporting_says_what_to_run_first(tmp_path: Path) -> None:
    recipe = "training/configs/edge-bundle.yaml"
    said = runner.invoke(app, ["pack", "--recipe", recipe, "--out", str(tmp_path / "b"), "--work", str(tmp_path)])
    assert said.exit_code == 1
    assert "export" in said.output


def test_a_cached_field_is_the_rendered_field(cache: Path) -> None:
    config = GeneratedFields(count=1, first_seed=100_000, width_px=160, height_px=120)
    first = generated_examples(config, cache)[0]
    again = generated_examples(config, cache)[0]
    assert (first.image == again.image).all()
    assert (first.boxes == again.boxes).all()
    assert first.cell_types == again.cell_types
    assert any(generator_fingerprint() in folder.name for folder in cache.iterdir())


def test_without_mlflow_the_figures_still_go_to_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    tracker = tracking.open_trackers(tmp_path / "run")
    tracker.start("x", {"seed": 1})
    tracker.record(1, {"loss": 0.5})
    tracker.finish()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")) == {"epoch": 1, "loss": 0.5}
    assert json.loads((tmp_path / "run" / "parameters.json").read_text(encoding="utf-8"))["seed"] == 1


def test_a_seed_on_the_command_line_is_that_of_the_run(tmp_path: Path, cache: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text(SMOKE.read_text(encoding="utf-8").replace("epochs: 2", "epochs: 1"), encoding="utf-8")

    def trained(name: str, *more: str) -> dict[str, Any]:
        where = ["--out", str(tmp_path / name), "--cache", str(cache), "--no-mlflow", "--threads", "1"]
        said = runner.invoke(app, ["train", "--config", str(config), *where, "--device", "cpu", *more])
        assert said.exit_code == 0, said.output
        return load_checkpoint(tmp_path / name / "last.pt")

    own, other, again = trained("own"), trained("other", "--seed", "11"), trained("again", "--seed", "11")
    assert (own["config"]["seed"], other["config"]["seed"]) == (1, 11)
    assert json.loads((tmp_path / "other" / "parameters.json").read_text(encoding="utf-8"))["seed"] == 11
    name = next(iter(own["model"]))
    assert not torch.equal(own["model"][name], other["model"][name])
    assert all(torch.equal(other["model"][key], again["model"][key]) for key in other["model"])
    resumed = ["train", "--config", str(config), "--out", str(tmp_path / "other"), "--resume", "--no-mlflow"]
    said = runner.invoke(app, [*resumed, "--cache", str(cache), "--device", "cpu"])
    assert "another configuration" in said.output
