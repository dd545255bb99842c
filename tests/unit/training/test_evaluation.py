"""`ahs-train evaluate` from the outside, over small sets of generated fields, with the shipped edge bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("faster_coco_eval")

import training.evaluation
from models.bundle import read_bundle
from models.runtime.pipeline import Pipeline
from tests.unit.training.small_sets import EDGE_BUNDLE
from training.data.coco import read_split
from training.errors import DataError
from training.evaluation.outcomes import read_outcomes
from training.evaluation.run import read_evaluation, thinned
from training.evaluation.scale import DENSE_SIZES, consistency, dense_fields, scale_consistency
from training.evaluation.tables import tables
from training.evaluation.white import read_site

pytestmark = pytest.mark.torch

SCHEMA = json.loads((Path(training.evaluation.__file__).parent / "evaluation_schema.json").read_text())


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(read_bundle(EDGE_BUNDLE))


def test_the_document_follows_its_schema(document: dict[str, Any]) -> None:
    Draft202012Validator(SCHEMA).validate(document)
    assert document["scale"] is None
    assert document["fields"].keys() == {"val", "val_clean"}


def test_a_field_near_to_a_training_field_is_not_in_the_clean_set(document: dict[str, Any]) -> None:
    assert document["fields"]["val"]["fields"] == 6
    assert document["fields"]["val"]["groups"] == 3
    assert document["fields"]["val_clean"]["fields"] == 4
    assert set(document["fields"]["val"]["slices"]) == {"A", "B"}


def test_each_interval_holds_its_figure(document: dict[str, Any]) -> None:
    for figure in document["fields"]["val"]["average_precision"].values():
        assert figure["low"] <= figure["value"] + 1e-9 or figure["value"] - figure["low"] < 0.05
        assert figure["low"] <= figure["high"]


def test_a_white_cell_that_is_not_found_counts_as_an_error(document: dict[str, Any]) -> None:
    for said in document["white_cells"].values():
        table = np.array(said["confusion"])
        recalls = [table[k, k] / table[k].sum() for k in range(5) if table[k].sum()]
        assert said["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
        assert said["found"]["value"] == pytest.approx(1 - table[:, 5].sum() / table.sum())
    assert document["white_cells"]["wbc_site_b"]["resampled_by"] == "slide"
    assert document["white_cells"]["wbc_site_b"]["groups"] <= 3
    assert document["white_cells"]["wbc_site_b, true boxes"]["found"]["value"] == 1.0


def test_the_clean_fields_stand_first_among_the_shifts(document: dict[str, Any]) -> None:
    rows = document["shifts"]["rows"]
    assert (rows[0]["name"], rows[0]["difference"]["value"]) == ("clean", 0.0)
    clean = rows[0]["average_precision"]["map50"]["value"]
    assert clean == pytest.approx(document["fields"]["val"]["average_precision"]["map50"]["value"])
    for row in rows:
        assert row["difference"]["value"] == pytest.approx(row["average_precision"]["map50"]["value"] - clean)
        assert row["within"] == (row["difference"]["value"] >= -0.05)


def test_the_domain_score_costs_a_small_part_of_the_pipeline(document: dict[str, Any]) -> None:
    said = document["speed"]
    assert 0 <= said["domain_score_share"] < 1
    assert said["domain_score_ms"] > 0
    assert said["within"] == (said["domain_score_share"] <= 0.05)


def test_every_part_becomes_a_table(document: dict[str, Any]) -> None:
    titles = " ".join(table.title for table in tables(document))
    assert all(
        word in titles for word in ("Boxes", "White cells", "Probabilities", "none of the types", "look", "Speed")
    )
    assert all(len(row) == len(t.header) for t in tables(document) for row in t.rows)


def test_the_same_field_at_other_sizes_keeps_its_count_or_says_how_far_it_is_off(
    sets: Path, pipeline: Pipeline
) -> None:
    said = scale_consistency(pipeline, read_split(sets / "det_txl", "val")[:2], lambda: None)
    assert said["fields"] == 2
    assert said["change_sum"]["1.0"] == 0.0
    assert 0 <= said["change_field"]["median"] <= said["change_field"]["worst"]
    assert said["change_field"]["mean"] <= said["change_field"]["worst"]
    assert said["within"] == (said["within_sum"] and said["within_mean"])
    assert set(said["count_error"]) == {"0.5", "1.0", "2.0"}
    assert said["count_error"]["1.0"]["change_sum"] == said["count_error"]["1.0"]["change_field"] == 0.0
    Draft202012Validator(SCHEMA["$defs"]["scale"]["properties"]["consistency"] | {"$defs": SCHEMA["$defs"]}).validate(
        said
    )


def test_count_errors_are_told_against_the_annotations_at_every_size() -> None:
    said = consistency([[90, 100, 110], [45, 50, 50]], [100, 40], ["a", "b"])
    half, full, double = (said["count_error"][k] for k in ("0.5", "1.0", "2.0"))
    assert half == pytest.approx(
        {"sum": 135 / 140 - 1, "field": (0.1 + 0.125) / 2, "change_sum": -15 / 140, "change_field": -0.0125}
    )
    assert full == pytest.approx({"sum": 150 / 140 - 1, "field": 0.125, "change_sum": 0.0, "change_field": 0.0})
    assert double["field"] == pytest.approx((0.1 + 0.25) / 2)
    assert said["change_field"]["mean"] == pytest.approx(0.1)
    assert said["worst_file"] == "a"
    assert not said["within"]


def test_changes_that_cancel_over_the_fields_pass_by_their_sum_and_not_by_their_mean() -> None:
    said = consistency([[110, 100, 100], [90, 100, 100]], [100, 100], ["a", "b"])
    assert said["within_sum"]
    assert not said["within_mean"]
    assert not said["within"]
    steady = consistency([[101, 100, 100], [99, 100, 100]], [100, 100], ["a", "b"])
    assert steady["within"]


def test_fields_without_red_cells_say_nothing_about_sizes() -> None:
    said = consistency([[0, 0, 0]], [0], ["a"])
    assert (said["fields"], said["worst_file"], said["count_error"]) == (0, None, {})
    assert said["change_field"]["mean"] is None


def test_no_cap_cuts_a_field_of_hundreds_of_red_cells(pipeline: Pipeline) -> None:
    (said,) = dense_fields(pipeline, lambda: None, sizes=[(1600, 1200, 0.125)])
    assert said["true"] > 250
    assert said["recall"] > 0.95
    assert said["passes"] > 1


def test_dense_fields_hold_one_of_twelve_megapixels() -> None:
    assert (4000, 3000, 0.125) in DENSE_SIZES


def test_cells_of_the_other_laboratory_are_listed_one_by_one(document: dict[str, Any]) -> None:
    for name, said in document["white_cells"].items():
        assert ("outcomes" in said) == name.startswith("wbc_site_b")
        if "outcomes" not in said:
            continue
        read = read_outcomes(said["outcomes"], name)
        assert len(read.slides) == said["cells"]
        assert len(set(read.slides)) == said["groups"]
        assert read.named.mean() == pytest.approx(said["selective"]["accepted"]["value"])
        assert (read.said >= 0).mean() == pytest.approx(said["found"]["value"])


def test_cells_at_true_boxes_are_the_cells_that_are_annotated(sets: Path, pipeline: Pipeline) -> None:
    found, boxed = read_site(pipeline, sets, "wbc_site_b", lambda: None)
    assert len(found) == len(boxed)
    assert all(cell.said is not None for cell in boxed)
    assert [c.label for c in found] == [c.label for c in boxed]


def test_a_quick_look_is_spread_over_the_whole_set() -> None:
    assert thinned(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert thinned([1, 2], 5) == [1, 2]
    assert thinned([1, 2], None) == [1, 2]


def test_measuring_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "import training.cli, training.evaluation.run, training.evaluation.show\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "words"), [(None, "there is no such file"), ("{", "cannot be read"), ('{"schema": "x/9"}', "no document")]
)
def test_what_is_no_evaluation_is_refused_with_words(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "e.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_evaluation(tmp_path / "e.json")
