"""An evaluation on a card: of these parts, whole, in place of an older one; and packing that repeats itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("faster_coco_eval")

import models.synthetic as synthetic
from models.bundle import read_bundle
from models.bundle.manifest import CARD_NAME
from models.runtime import GoldenLimits, Pipeline, build_golden, run_self_test
from tests.unit.training.small_sets import EDGE_BUNDLE
from training.card import OTHER
from training.cli import app
from training.errors import DataError
from training.evaluation.card import TITLE, check_same_parts, with_evaluation, write_with_evaluation

pytestmark = pytest.mark.torch

EMBEDDER = """\
kind: embedder
name: small-embedder
seed: 1
stages: [{epochs: 1, input_px: 64}]
net: {widths: [4, 4, 8, 8], dimensions: 8}
data:
  dataset: null
  generated: {count: 12, first_seed: 100000, width_px: 320, height_px: 240}
  generated_val: {count: 0}
  epoch_size: 8
  generated_ratio: 1.0
optimiser: {learning_rate: 0.003, warmup_steps: 1, batch: 4}
"""


def test_the_card_shows_intervals_laboratories_and_shifts(document: dict[str, Any], tmp_path: Path) -> None:
    bundle = read_bundle(EDGE_BUNDLE)
    done = write_with_evaluation(bundle, document, tmp_path / "new")
    card = done.files[CARD_NAME].decode()
    val = document["fields"]["val"]["average_precision"]["map50"]
    assert f"{val['value']:.3f} ({val['low']:.3f}-{val['high']:.3f})" in card
    assert all(row["name"] in card for row in document["shifts"]["rows"])
    assert "val: A" in card
    assert card.index(TITLE) < card.index("## Limits")
    assert "Research use only" in card
    assert done.manifest.provenance.metrics["val_map50_low"] == round(val["low"], 5)
    unchanged = {name for name in bundle.files if done.files[name] == bundle.files[name]}
    assert unchanged == set(bundle.files) - {CARD_NAME}


def test_the_same_inputs_give_the_same_digest_and_a_new_evaluation_takes_the_place_of_the_old(
    document: dict[str, Any], evaluation: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(EDGE_BUNDLE)
    first = write_with_evaluation(bundle, document, tmp_path / "a")
    arguments = ["card", "--bundle", str(EDGE_BUNDLE), "--evaluation", str(evaluation), "--out", str(tmp_path / "b")]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert read_bundle(tmp_path / "b").digest == first.digest
    assert first.digest in said.output
    assert write_with_evaluation(first, document, tmp_path / "c").digest == first.digest
    assert first.digest != bundle.digest


def test_a_bundle_with_a_new_card_still_proves_itself(document: dict[str, Any], tmp_path: Path) -> None:
    done = write_with_evaluation(read_bundle(EDGE_BUNDLE), document, tmp_path / "new")
    assert run_self_test(Pipeline(done)).passed


def test_figures_of_other_parts_or_of_a_quick_look_are_refused(document: dict[str, Any]) -> None:
    files = read_bundle(EDGE_BUNDLE).files
    check_same_parts(document, files)
    with pytest.raises(DataError, match=r"another head\.npz"):
        check_same_parts(document, {**files, "head.npz": b"other"})
    quick = copy.deepcopy(document)
    quick["method"]["limit"] = 10
    with pytest.raises(DataError, match="quick look"):
        check_same_parts(quick, files)


def test_a_card_without_limits_gets_the_evaluation_at_its_end(document: dict[str, Any]) -> None:
    assert with_evaluation("# A card\n", document).startswith(f"# A card\n\n{TITLE}\n")


def test_what_is_said_of_another_laboratory_is_what_was_measured() -> None:
    figures = {"cells": 212.0, "found": 0.156, "accepted": 0.485, "accepted_accuracy": 0.812}
    said = OTHER.format_map(figures)
    assert "Of its 212 white\ncells 15.6% are found" in said
    assert "81.2% of these names are right" in said


def test_golden_inputs_are_built_alike_each_time() -> None:
    pipeline = Pipeline(read_bundle(EDGE_BUNDLE), keep_embeddings=True)
    slides = [synthetic.generate_field(930_002)]
    once, again = (
        build_golden(slides, [pipeline.analyse(s.image) for s in slides], limits=GoldenLimits()) for _ in range(2)
    )
    assert once == again


@pytest.mark.slow
def test_exporting_and_calibrating_twice_gives_the_same_parts_to_the_byte(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "embedder.yaml").write_text(EMBEDDER)
    cache = ["--cache", str(tmp_path / "cache")]
    runner, quiet = CliRunner(), ["--no-mlflow", "--threads", "1", "--device", "cpu", *cache]
    for config, name in (("training/configs/smoke.yaml", "detector"), (str(tmp_path / "embedder.yaml"), "embedder")):
        said = runner.invoke(app, ["train", "--config", config, "--out", str(tmp_path / name), *quiet])
        assert said.exit_code == 0, said.output
    recipe = {
        "name": "small",
        "version": "0.0.1",
        "role": "edge",
        "created": "2026-01-01",
        "title": "Small",
        "detector": {"checkpoint": str(tmp_path / "detector" / "last.pt")},
        "embedder": {"checkpoints": [str(tmp_path / "embedder" / "last.pt")], "int8": False},
        "calibration": {
            "dataset": None,
            "fields": 4,
            "cells": 8,
            "generated_fields": 12,
            "held_out_fields": 12,
        },
        "golden_seeds": [930002],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    for work in ("first", "second"):
        for command in ("export", "calibrate"):
            arguments = [command, "--recipe", str(tmp_path / "recipe.yaml"), "--work", str(tmp_path / work), *cache]
            said = runner.invoke(app, arguments)
            assert said.exit_code == 0, said.output
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert {"detector.onnx", "embedder.onnx", "head.npz", "calibration.json"} <= set(names)
    different = [n for n in names if (tmp_path / "first" / n).read_bytes() != (tmp_path / "second" / n).read_bytes()]
    assert different == []
