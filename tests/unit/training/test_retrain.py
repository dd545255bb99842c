"""A retraining from end to end, as small as it can be, on generated cells alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")

import torch

from models.bundle import read_bundle
from models.bundle.manifest import DETECTOR_NAME, EMBEDDER_NAME
from models.runtime import Pipeline
from models.zoo import shipped
from tests.unit.training.site_labels import write_labels
from training import export
from training.base_cells import make_base_set
from training.base_set import find_base_set, read_base_set
from training.distributed import Place
from training.errors import DataError, RetrainError
from training.recipe import load_recipe
from training.retrain import RetrainOptions, RetrainOutcome, run_retrain
from training.tracking import Trackers, open_trackers

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PLACE = Place(torch.device("cpu"))
LENIENT = {
    "frozen": dict.fromkeys(("balanced_accuracy", "recall", "named", "named_error", "in_domain"), 1.0) | {"nll": 10},
    "outsiders_named": 1.0,
    "site": dict.fromkeys(("balanced_accuracy", "recall", "named", "named_error", "in_domain"), 1.0) | {"nll": 10},
    "site_least_cells": 1,
}


def trackers(folder: Path, *, fresh: bool) -> Trackers:
    return open_trackers(folder, use_mlflow=False, fresh=fresh)


class BrokenOff(Trackers):
    """Its run stops after the second epoch."""

    def __init__(self) -> None:
        super().__init__([])

    def record(self, step: int, figures: dict[str, float]) -> None:
        if step == 2:
            raise DataError("the power went")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels, a base set of generated cells, and every configuration."""
    root = tmp_path_factory.mktemp("retrain")
    bundle = read_bundle(shipped("edge"))
    write_labels(root / "labels", Pipeline(bundle), seeds=range(6))
    recipe = yaml.safe_load(Path("training/configs/edge-bundle.yaml").read_text(encoding="utf-8"))
    recipe["calibration"] |= {"generated_fields": 24, "held_out_fields": 20}
    _write(root / "recipe.yaml", recipe | {"cells": None, "outsiders": None, "frozen_fields": 8})
    make_base_set(load_recipe(root / "recipe.yaml"), bundle, root / "base", root / "cache")
    embedder = {
        "kind": "embedder",
        "name": "tiny",
        "seed": 1,
        "stages": [{"epochs": 3, "input_px": 64}],
        "net": {"widths": [8, 16, 24, 32], "dimensions": 16},
        "data": {"dataset": None, "generated": {"count": 24, "first_seed": 100000}, "input_px": 64, "epoch_size": 512},
        "optimiser": {"learning_rate": 0.005, "warmup_steps": 2, "batch": 32, "ema_decay": 0.8},
    }
    _write(root / "embedder.yaml", embedder)
    _write(root / "gate.yaml", LENIENT)
    settings = {
        "name": "tiny-retrain",
        "bundle": str(shipped("edge")),
        "base": str(root / "base"),
        "recipe": str(root / "recipe.yaml"),
        "embedder": str(root / "embedder.yaml"),
        "refit": "training/configs/refit.yaml",
        "gate": str(root / "gate.yaml"),
        "site_ratio": 0.25,
        "range_cells": 16,
    }
    _write(root / "retrain.yaml", settings)
    _write(root / "strict.yaml", {**settings, "gate": "fleet/release/gate.yaml"})
    return root


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="module")
def options(site: Path) -> RetrainOptions:
    return RetrainOptions(
        config=site / "retrain.yaml",
        labels=site / "labels",
        out=site / "new",
        evidence=site / "new.evidence.json",
        work=site / "work",
        cache=site / "cache",
        created="2026-11-24",
    )


@pytest.fixture(scope="module")
def outcome(options: RetrainOptions) -> RetrainOutcome:
    return run_retrain(options, PLACE, trackers)


def test_the_new_bundle_has_another_embedder_and_proves_itself(
    outcome: RetrainOutcome, options: RetrainOptions
) -> None:
    assert outcome.written
    before, after = read_bundle(shipped("edge")), read_bundle(options.out)
    assert after.files[DETECTOR_NAME] == before.files[DETECTOR_NAME]
    assert after.files[EMBEDDER_NAME] != before.files[EMBEDDER_NAME]
    assert after.manifest.embedder.dimensions == 16
    assert after.manifest.provenance.base_digest == before.digest
    assert outcome.refitted.self_test.passed
    assert "The embedder (tiny-retrain, tiny) and the head are new" in after.files["card.md"].decode()


def test_its_base_set_lies_beside_it_so_that_it_can_be_refitted(
    outcome: RetrainOutcome, options: RetrainOptions
) -> None:
    bundle = read_bundle(options.out)
    base = read_base_set(find_base_set(bundle), bundle)
    assert base.manifest.embedder_sha256 == read_base_set(find_base_set(bundle), bundle).manifest.embedder_sha256
    old = read_base_set(options.out.parent / "base", outcome.champion)
    assert base.frozen.pictures.tolist() == old.frozen.pictures.tolist()
    assert base.frozen.cells_sha256 == old.frozen.cells_sha256


def test_the_evidence_names_the_frozen_set_that_the_current_model_was_judged_on(
    outcome: RetrainOutcome, options: RetrainOptions
) -> None:
    evidence = json.loads(options.evidence.read_text(encoding="utf-8"))
    old = read_base_set(options.out.parent / "base", outcome.champion)
    assert evidence["frozen_set"] == old.frozen.cells_sha256
    assert evidence["candidate"] == read_bundle(options.out).digest
    assert evidence["command"] == "retrain"


def test_a_worse_embedder_is_refused_by_the_shipped_tolerances(
    outcome: RetrainOutcome, options: RetrainOptions, site: Path, tmp_path: Path
) -> None:
    """The same work folder: nothing is trained again, another gate judges."""
    strict = dataclasses.replace(
        options, config=site / "strict.yaml", out=tmp_path / "new", evidence=tmp_path / "evidence.json"
    )
    refused = run_retrain(strict, PLACE, trackers)
    assert not refused.refitted.verdict.accepted
    assert not refused.written
    assert not (tmp_path / "new").exists()
    assert json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))["reasons"]


def test_what_failed_is_named_and_the_same_command_goes_on_there(
    options: RetrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(options, work=tmp_path / "work", out=tmp_path / "new", evidence=tmp_path / "e.json")
    with pytest.raises(RetrainError, match="step train failed"):
        run_retrain(own, PLACE, lambda folder, *, fresh: Trackers([trackers(folder, fresh=fresh), BrokenOff()]))
    with monkeypatch.context() as patch:
        patch.setattr(export, "PARITY_LIMIT", -1.0)
        with pytest.raises(RetrainError, match="step export failed"):
            run_retrain(own, PLACE, trackers)
    lines = (own.work / "embedder" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3], "what was recorded before it broke off is kept"
    trained = (own.work / "embedder" / "last.pt").stat().st_mtime_ns
    assert json.loads((own.work / "state.json").read_text(encoding="utf-8"))["done"] == ["check", "train"]
    assert run_retrain(own, PLACE, trackers).written
    assert (own.work / "embedder" / "last.pt").stat().st_mtime_ns == trained


def test_a_work_folder_of_other_inputs_is_refused(outcome: RetrainOutcome, options: RetrainOptions) -> None:
    with pytest.raises(RetrainError, match="belongs to other inputs"):
        run_retrain(dataclasses.replace(options, seed=9), PLACE, trackers)


def test_a_frozen_picture_that_changed_stops_it(options: RetrainOptions, site: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((site / "recipe.yaml").read_text(encoding="utf-8"))
    _write(tmp_path / "recipe.yaml", recipe | {"frozen_seed": 950_000})
    settings = yaml.safe_load((site / "retrain.yaml").read_text(encoding="utf-8"))
    _write(tmp_path / "retrain.yaml", settings | {"recipe": str(tmp_path / "recipe.yaml")})
    own = dataclasses.replace(options, config=tmp_path / "retrain.yaml", work=tmp_path / "work", out=tmp_path / "new")
    with pytest.raises(RetrainError, match=r"step check failed: .*frozen cells? "):
        run_retrain(own, PLACE, trackers)
