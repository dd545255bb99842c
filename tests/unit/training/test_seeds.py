"""Several evaluations of bundles that differ by their seed, taken together."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

pytest.importorskip("faster_coco_eval")

import training.evaluation
from models.runtime.results import CellType
from training.cli import app
from training.errors import DataError
from training.evaluation.outcomes import outcomes, read_outcomes
from training.evaluation.seeds import over_seeds, read_documents, seed_tables
from training.evaluation.white import TYPES, ReadCell

pytestmark = pytest.mark.torch

FOLDER = Path(training.evaluation.__file__).parent
SCHEMA = json.loads((FOLDER / "seeds_schema.json").read_text())
SITE = "wbc_site_b"


def figure(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": value, "high": value}


def site(right: Sequence[bool], *, named: Sequence[bool] | None = None) -> dict[str, Any]:
    """Four cells on each of ten slides; two slides hold one type."""
    rows = []
    for cell, good in enumerate(right):
        slide, label = cell // 4, (cell // 8) % 5
        accepted = True if named is None else named[cell]
        rows.append([slide, label, label if good else (label + 1) % 5, 0.9, accepted])
    return {"types": list(TYPES), "slides": [f"B-{n}" for n in range(10)], "rows": rows}


def measured(number: int, map50: float, cells: dict[str, Any] | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {"cells": 40, "balanced_accuracy": figure(0.5 + number / 10)}
    if cells is not None:
        said["outcomes"] = cells
    return {
        "schema": "ahs.evaluation/1",
        "bundle": {"name": "edge", "version": f"1.0.{number}", "digest": f"sha256:{number:064x}"},
        "method": {"limit": None},
        "fields": {"val": {"average_precision": {"map50": figure(map50)}}},
        "white_cells": {SITE: said},
        "outsiders": None,
        "shifts": {"rows": [{"name": "blur", "average_precision": {"map50": figure(map50 - 0.1)}}]},
        "scale": None,
        "speed": None,
    }


def together(*documents: dict[str, Any], resamples: int = 400) -> dict[str, Any]:
    said = over_seeds(documents, resamples=resamples, seed=0)
    Draft202012Validator(SCHEMA).validate(said)
    return said


def row_of(said: dict[str, Any], over: str, name: str) -> dict[str, Any]:
    row: dict[str, Any]
    (row,) = [r for r in said["figures"] if (r["over"], r["figure"]) == (over, name)]
    return row


def joint_of(said: dict[str, Any], name: str) -> dict[str, Any]:
    row: dict[str, Any]
    (row,) = [r for r in said["joint"] if r["figure"] == name]
    return row


def test_each_figure_gets_mean_deviation_and_range() -> None:
    said = together(*(measured(n, value) for n, value in enumerate((0.90, 0.94, 0.98))))
    row = row_of(said, "fields / val", "average_precision / map50")
    assert row["mean"] == pytest.approx(0.94)
    assert row["deviation"] == pytest.approx(0.04)
    assert (row["least"], row["most"], row["seeds"]) == (0.90, 0.98, 3)
    assert row["values"] == [0.90, 0.94, 0.98]
    assert row_of(said, "shifts / blur", "average_precision / map50")["mean"] == 0.84


def test_a_figure_that_one_seed_lacks_is_named_and_one_without_value_is_not_averaged_in() -> None:
    first, second = measured(0, 0.9), measured(1, 0.8)
    del second["fields"]["val"]
    second["white_cells"][SITE]["balanced_accuracy"] = figure(None)
    said = together(first, second)
    assert said["left_out"] == ["fields / val / average_precision / map50"]
    row = row_of(said, f"white_cells / {SITE}", "balanced_accuracy")
    assert (row["mean"], row["deviation"], row["seeds"]) == (0.5, None, 1)
    assert all(len(r) == len(t.header) for t in seed_tables(said) for r in t.rows)


def test_seeds_that_agree_add_nothing_to_the_interval_of_the_slides() -> None:
    right = np.random.default_rng(3).random(40) < 0.7
    said = together(*(measured(n, 0.9, site(right.tolist())) for n in range(3)))
    row = joint_of(said, "balanced accuracy in use")
    assert row["value"] == pytest.approx(np.mean([right[8 * k : 8 * k + 8].mean() for k in range(5)]))
    assert (row["low"], row["high"]) == pytest.approx((row["slides_alone"]["low"], row["slides_alone"]["high"]))
    assert row["low"] < row["value"] < row["high"]
    assert (row["cells"], row["slides"], row["seeds"]) == (40, 10, 3)


def test_seeds_that_differ_widen_the_interval_beyond_that_of_the_slides() -> None:
    whole, half = site([True] * 40), site([True, False] * 20)
    said = together(measured(0, 0.9, whole), measured(1, 0.9, half), resamples=2000)
    row = joint_of(said, "balanced accuracy in use")
    # Every slide is alike, so all that moves is which seeds are drawn: both alike, or one of them twice.
    assert row["value"] == pytest.approx(0.75)
    assert (row["slides_alone"]["low"], row["slides_alone"]["high"]) == pytest.approx((0.75, 0.75))
    assert (row["low"], row["high"]) == pytest.approx((0.5, 1.0))


def test_share_named_and_error_among_the_named_are_taken_together_too() -> None:
    named = [True, True, False, False] * 10
    first = site([True, False, True, True] * 10, named=named)
    nobody = site([True] * 40, named=[False] * 40)
    said = together(measured(0, 0.9, first), measured(1, 0.9, nobody))
    assert joint_of(said, "accepted")["value"] == pytest.approx(0.25)
    # The seed that names nothing has no error to average in.
    assert joint_of(said, "error among accepted")["value"] == pytest.approx(0.5)


def test_without_cells_one_by_one_there_is_no_joint_interval() -> None:
    assert together(measured(0, 0.9, site([True] * 40)), measured(1, 0.9))["joint"] == []


def test_other_cells_and_damaged_cells_are_refused() -> None:
    whole = site([True] * 40)
    other = copy.deepcopy(whole)
    other["rows"][0][1] = 4
    with pytest.raises(DataError, match="lists other cells"):
        together(measured(0, 0.9, whole), measured(1, 0.9, other))
    other["rows"][0][0] = 99
    with pytest.raises(DataError, match="damaged"):
        together(measured(0, 0.9, whole), measured(1, 0.9, other))
    with pytest.raises(DataError, match="other types"):
        read_outcomes(whole | {"types": ["a", "b"]}, "x")


def test_cells_are_listed_with_slide_types_probability_and_whether_they_were_named() -> None:
    chances = dict(zip(TYPES, (0.1, 0.71234, 0.1, 0.05, 0.03766), strict=True))
    cells = [
        ReadCell("f", "B-2", 1, None, CellType(TYPES[1], chances, (TYPES[1],), True, 0.5)),
        ReadCell("f", "B-1", 0, None, CellType("unidentified", chances, (), False, 9.0)),
        ReadCell("f", "B-1", 4, None, None),
    ]
    said = outcomes(cells)
    assert said["slides"] == ["B-1", "B-2"]
    assert said["rows"] == [[1, 1, 1, 0.7123, True], [0, 0, 1, 0.7123, False], [0, 4, None, None, False]]
    read = read_outcomes(said, "x")
    assert read.slides == ("B-2", "B-1", "B-1")
    assert read.right.tolist() == [True, False, False]
    assert read.named.tolist() == [True, False, False]


def test_the_command_prints_tables_and_writes_the_document(evaluation: Path, tmp_path: Path) -> None:
    document = json.loads(evaluation.read_text())
    document["bundle"]["digest"] = f"sha256:{1:064x}"
    for row in document["white_cells"][SITE]["outcomes"]["rows"]:
        row[4] = False
    second, out = tmp_path / "second.json", tmp_path / "seeds.json"
    second.write_text(json.dumps(document))
    said = CliRunner().invoke(app, ["seeds", str(evaluation), str(second), "--out", str(out), "--resamples", "50"])
    assert said.exit_code == 0, said.output
    assert "Seeds and slides together (2 seeds)" in said.output
    written = json.loads(out.read_text())
    Draft202012Validator(SCHEMA).validate(written)
    assert {row["over"] for row in written["joint"]} == {SITE, f"{SITE}, true boxes"}
    assert any(row["figure"] == "average_precision / map50" for row in written["figures"])


def test_one_document_the_same_bundle_twice_and_other_limits_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.json" for n in range(3)]
    quick = measured_quickly(2)
    for path, document in zip(paths, (measured(0, 0.9), measured(0, 0.9), quick), strict=True):
        path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="two or more"):
        read_documents(paths[:1])
    with pytest.raises(DataError, match="the same bundle"):
        read_documents(paths[:2])
    with pytest.raises(DataError, match="another --limit"):
        read_documents([paths[0], paths[2]])


def measured_quickly(number: int) -> dict[str, Any]:
    return measured(number, 0.9) | {"method": {"limit": 5}}
