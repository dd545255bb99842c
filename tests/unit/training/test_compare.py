"""Two bundles side by side: what is the same is not told apart, what differs is, and by how much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

pytest.importorskip("faster_coco_eval")

import training.evaluation
from models.bundle import read_bundle, write_bundle
from models.bundle.manifest import CellClass
from models.runtime.results import CellType, Detection, FieldAnalysis
from tests.unit.training.small_sets import EDGE_BUNDLE
from training.cli import app
from training.evaluation.compare import FieldPairs, cell_differences, field_differences, paired
from training.evaluation.run import Plan
from training.evaluation.white import ReadCell
from training.metrics import TrueCells

pytestmark = pytest.mark.torch

PLAN = Plan(resamples=200)
SCHEMA = json.loads((Path(training.evaluation.__file__).parent / "comparison_schema.json").read_text())


def analysis(boxes: np.ndarray, *, latency_ms: float) -> FieldAnalysis:
    cells = [Detection(tuple(box), CellClass.RBC, 0.9, True) for box in boxes.tolist()]
    return FieldAnalysis(400, 400, tuple(cells), None, {"detect": latency_ms})


def pairs(count: int, *, shift_px: float, slower: float) -> FieldPairs:
    rng = np.random.default_rng(0)
    made = FieldPairs()
    for number in range(count):
        corners = rng.uniform(0, 300, (8, 2))
        boxes = np.hstack([corners, corners + 40]).astype(np.float32)
        made.truth.append(TrueCells(boxes, np.zeros(8, np.int64)))
        made.groups.append(str(number))
        made.a.append(analysis(boxes + rng.normal(0, 1, boxes.shape), latency_ms=10 + rng.random()))
        made.b.append(analysis(boxes + shift_px, latency_ms=slower * (10 + rng.random())))
    return made


def test_a_bundle_with_looser_boxes_is_told_apart_and_so_is_a_slower_one() -> None:
    rows = {d.figure: d for d in field_differences(pairs(30, shift_px=6, slower=2.0), "val", PLAN)}
    assert rows["mAP50-95"].better == "a"
    assert rows["mAP50-95"].difference.high is not None
    assert rows["mAP50-95"].difference.high < 0
    assert rows["time of a field, ms"].better == "a"
    assert rows["time of a field, ms"].difference.value == pytest.approx(10.5, abs=1.0)


def test_what_is_the_same_is_not_told_apart() -> None:
    made = pairs(10, shift_px=0, slower=1.0)
    made.b = made.a
    assert {d.better for d in field_differences(made, "val", PLAN)} == {""}
    assert {d.difference.value for d in field_differences(made, "val", PLAN)} == {0.0}


def test_pairing_tells_a_small_steady_difference_apart_that_each_interval_alone_would_hide() -> None:
    spread = np.random.default_rng(1).normal(0.5, 0.1, 400)
    said = paired("x", "y", (0.5, spread), (0.52, spread + 0.02))
    assert said.better == "b"
    assert said.a.high is not None
    assert said.b.low is not None
    assert said.a.high > said.b.low
    assert paired("x", "y", (0.5, spread), (0.52, spread + 0.02), larger_is_better=False).better == "a"


def _cell(label: int, said: int, *, named: bool = True) -> ReadCell:
    kinds = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
    chances = {kind: 0.9 if i == said else 0.025 for i, kind in enumerate(kinds)}
    word = CellType(kinds[said] if named else "unidentified", chances, (kinds[said],), True, 0.5)
    return ReadCell("f", str(id(chances)), label, None, word)


def test_a_missed_cell_lowers_the_accuracy_and_is_no_wrong_name() -> None:
    a = [_cell(i % 2, i % 2) for i in range(40)]
    b = [c if i >= 10 else ReadCell(c.file, c.group, c.label, None, None) for i, c in enumerate(a)]
    rows = {d.figure: d for d in cell_differences(a, b, "set", PLAN)}
    assert rows["balanced accuracy in use"].difference.value == pytest.approx(-0.25)
    assert rows["balanced accuracy in use"].better == "a"
    assert rows["accepted"].difference.value == pytest.approx(-0.25)
    assert rows["error among accepted"].difference.value == 0.0


def test_where_neither_names_a_cell_the_errors_are_not_compared() -> None:
    none = [_cell(i % 2, 0, named=False) for i in range(8)]
    rows = {d.figure: d for d in cell_differences(none, none, "set", PLAN)}
    assert rows["error among accepted"].as_json()["difference"] == {"value": None, "low": None, "high": None}
    assert rows["error among accepted"].better == ""


def test_two_bundles_become_a_table_a_document_and_a_page(sets: Path, tmp_path: Path) -> None:
    bundle = read_bundle(EDGE_BUNDLE)
    fields = bundle.manifest.model_dump(mode="json", by_alias=True) | {"version": "1.0.1"}
    fields["detector"]["thresholds"]["WBC"] = 0.999
    other = tmp_path / "other"
    write_bundle(other, {k: v for k, v in fields.items() if k not in ("files", "schema")}, bundle.files)
    out, page = tmp_path / "compared.json", tmp_path / "compared.html"
    arguments = ["compare", str(EDGE_BUNDLE), str(other), "--split", "val", "--cells", "test", "--site", "wbc_site_b"]
    arguments += ["--resamples", "50", "--limit", "4", "--threads", "1", "--out", str(out), "--html", str(page)]
    said = CliRunner().invoke(app, arguments, env={"AHS_DATA_DIR": str(sets)})
    assert said.exit_code == 0, said.output
    assert "1.0.1" in said.output
    document = json.loads(out.read_text())
    Draft202012Validator(SCHEMA).validate(document)
    assert (document["schema"], document["b"]["version"]) == ("ahs.comparison/1", "1.0.1")
    rows = {(d["over"], d["figure"]): d for d in document["differences"]}
    assert rows[("val", "mAP50-95")]["difference"]["value"] == 0.0  # Thresholds do not enter it.
    assert rows[("wbc_pbc test", "accepted")]["difference"]["value"] < 0  # Hardly any white cell counts.
    assert rows[("wbc_site_b, true boxes", "accepted")]["difference"]["value"] == 0.0
    text = page.read_text(encoding="utf-8")
    assert "Research use only. Not for diagnosis." in text
    assert document["a"]["digest"] in text
    assert document["b"]["digest"] in text
    assert "A quick look" in text
