"""The page of an evaluation: whole in one file, of the bundle that was measured, readable on desk and tablet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("faster_coco_eval")

from models.bundle import read_bundle, write_bundle
from tests.fakes.chromium import DESK, SMALL_TARGETS, TABLET, UNNAMED, chromium
from tests.unit.training.small_sets import EDGE_BUNDLE
from training.charts import ticks
from training.cli import app
from training.errors import DataError
from training.report.charts import Axes, Bar, Series, around, bar_chart, line_chart, matrix
from training.report.curves import read_run, run_charts
from training.report.pictures import load

pytestmark = pytest.mark.torch


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    lines = [{"epoch": e, "loss": 9 / e, "map50": 0.3 * e, "map50_RBC": 0.2 * e, "text": "x"} for e in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    (folder / "parameters.json").write_text('{"name": "small-detector"}')
    return folder


@pytest.fixture(scope="session")
def page(evaluation: Path, sets: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    arguments = ["report", "--evaluation", str(evaluation), "--bundle", str(EDGE_BUNDLE), "--out", str(out)]
    said = CliRunner().invoke(app, [*arguments, "--run", str(run_folder)], env={"AHS_DATA_DIR": str(sets)})
    assert said.exit_code == 0, said.output
    return out


def test_the_page_is_whole_in_one_file_and_says_what_it_is_for(page: Path, document: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Research use only. Not for diagnosis." in text
    assert document["bundle"]["digest"] in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "url(" not in text
    assert "@import" not in text


def test_every_part_of_the_evaluation_is_shown(page: Path, document: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    for key in ("boxes", "shifts", "white-cells", "calibration", "naming", "training", "errors", "speed", "method"):
        assert f'<section id="{key}">' in text, key
    assert "small-detector: map50" in text
    assert text.count("data:image/jpeg") > 3
    worst = document["white_cells"]["wbc_site_b"]["worst"]
    assert not worst or f"→ {worst[0]['said']}" in text


def test_the_figures_are_those_of_the_document(page: Path, document: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    for said in document["fields"].values():
        assert f"{said['average_precision']['map50']['value']:.3f} (" in text
    for row in document["shifts"]["rows"][1:]:
        assert f"{row['difference']['value']:+.3f} (" in text


def test_without_the_data_the_page_says_that_it_has_no_pictures(
    evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AHS_DATA_DIR", raising=False)
    out = tmp_path / "report.html"
    arguments = ["report", "--evaluation", str(evaluation), "--bundle", str(EDGE_BUNDLE), "--out", str(out)]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "without pictures" in said.output
    assert "The worst errors are not shown" in out.read_text(encoding="utf-8")
    assert "data:image/jpeg" not in out.read_text(encoding="utf-8")


def test_an_evaluation_of_another_bundle_is_refused(evaluation: Path, tmp_path: Path) -> None:
    bundle = read_bundle(EDGE_BUNDLE)
    fields = bundle.manifest.model_dump(mode="json", by_alias=True) | {"version": "9.9.9"}
    write_bundle(tmp_path / "other", {k: v for k, v in fields.items() if k not in ("files", "schema")}, bundle.files)
    arguments = ["report", "--evaluation", str(evaluation), "--bundle", str(tmp_path / "other")]
    said = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "report.html")])
    assert said.exit_code == 1
    assert "evaluate this bundle" in said.output
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("text", "words"), [(None, "no such file"), ("{", "JSON lines"), ("", "no epochs")])
def test_a_run_without_figures_is_refused_with_words(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        read_run(tmp_path)


def test_the_same_figure_of_each_class_shares_a_chart(run_folder: Path) -> None:
    charts = run_charts(read_run(run_folder))
    assert len(charts) == 2
    assert "map50 RBC" in charts[1]
    assert "text" not in "".join(re.findall(r"<figcaption>(.*?)</figcaption>", "".join(charts)))


def test_a_picture_outside_the_data_folder_is_never_read(sets: Path, tmp_path: Path) -> None:
    (sets.parent / "secret.png").write_bytes((sets / "wbc_site_b" / "0.png").read_bytes())
    assert load(sets, "wbc_site_b/0.png") is not None
    assert load(sets, "../secret.png") is None
    assert load(sets, "absent.png") is None
    assert load(None, "wbc_site_b/0.png") is None


def test_words_in_a_chart_cannot_become_markup() -> None:
    nasty = "<script>alert(1)</script>"
    axes = Axes(nasty, nasty)
    drawn = line_chart(nasty, [Series(nasty, [(0, 0), (1, 1)], 1), Series("b", [], 2)], axes)
    drawn += bar_chart(nasty, [Bar(nasty, 1.0, 0.5, 1.5, nasty, False)]) + matrix(
        [[1, 0]], [nasty], [nasty, "b"], nasty
    )
    assert "<script" not in drawn


def test_a_bar_that_is_outside_is_marked_not_only_coloured() -> None:
    bars = [Bar("a", -0.2, -0.3, -0.1, "-0.2", False), Bar("b", -0.01, None, None, "-0.01", True)]
    drawn = bar_chart("x", bars, limit=-0.05)
    assert drawn.count("✕") == 1
    assert drawn.count("c-whisker") == 1
    assert "c-limit" in drawn


def test_ticks_are_round_and_inside_the_range() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3.0, 3.0) == [3.0]
    low, high = around([0.2, 0.3])
    assert low < 0.2 < 0.3 < high
    assert around([]) == (0.0, 1.0)
    assert around([0.0, 0.0]) == (0.0, 1.0)


@pytest.mark.chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, TABLET], ids=["desk", "tablet"])
def test_the_page_is_whole_in_light_and_dark_at_the_desk_and_on_a_tablet(
    page: Path, size: dict[str, int], scheme: str
) -> None:
    with chromium() as browser, browser.page(f"file://{page}", size=size, scheme=scheme) as watched:
        watched.open("")
        assert watched.overflow_px() <= 0
        assert watched.page.get_by_text("Research use only", exact=True).is_visible()
        assert watched.page.evaluate(UNNAMED) == []
        if size is TABLET:
            assert watched.page.evaluate(SMALL_TARGETS) == []
        ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        watched.page.click("[data-theme-toggle]")
        turned = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (turned == "rgb(255, 255, 255)") == (scheme == "dark")
        assert watched.troubles == []


def test_a_single_wrong_name_is_shaded_like_something() -> None:
    drawn = matrix([[199, 1], [0, 3]], ["a", "b"], ["a", "b"], "x")
    assert drawn.count('class="m1"') == 1
    assert drawn.count('class="m0"') == 1
