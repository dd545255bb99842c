"""Statistics of a data set, measured on generated fields, and their page in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.runtime.imaging import encode_png
from tests.fakes.chromium import DESK, TABLET, chromium
from tests.unit.training.annotated_sets import CLASSES, annotated, picture_file
from training.charts import histogram, scatter, ticks
from training.cli import app
from training.data.formats.annotated import AnnotatedSet, Faults, Picture
from training.data.formats.registry import Format, write_set
from training.data.generated import generated_example
from training.data.statistics import look_of, statistics_of
from training.data.statistics_page import chosen_examples, statistics_page


def generated(folder: Path, seed: int, *, split: str, source: str) -> Picture:
    example = generated_example(seed, width_px=320, height_px=240)
    path = folder / f"{source}-{seed}.png"
    path.write_bytes(encode_png(example.image))
    boxes = [tuple(b) for b in example.boxes.tolist()]
    names = [CLASSES[label] for label in example.labels.tolist()]
    return annotated(path, boxes, names, size=(320, 240), split=split, source=source)


@pytest.fixture
def dataset(tmp_path: Path) -> AnnotatedSet:
    made = [generated(tmp_path, n, split="val" if n == 3 else "train", source=f"lab<{n % 2}>") for n in range(4)]
    return AnnotatedSet(CLASSES, tuple(made))


def test_cells_sizes_and_pictures_are_counted(dataset: AnnotatedSet) -> None:
    found = statistics_of(dataset)
    names = [name for p in dataset.pictures for name in p.names]
    assert found.pictures == {"train": 3, "val": 1}
    assert {n: sum(own.get(n, 0) for own in found.cells.values()) for n in set(names)} == {
        n: names.count(n) for n in set(names)
    }
    assert found.per_field.tolist() == [len(p.names) for p in dataset.pictures]
    assert found.classes[0] == "RBC"
    red = np.concatenate([p.boxes[[n == "RBC" for n in p.names]] for p in dataset.pictures])
    assert sorted(found.longest_px["RBC"].tolist()) == pytest.approx(
        sorted((red[:, 2:] - red[:, :2]).max(axis=1).tolist())
    )
    assert {s: len(own) for s, own in found.looks.items()} == {"lab<0>": 2, "lab<1>": 2}


def test_light_and_stain_are_told_apart() -> None:
    image = generated_example(5, width_px=320, height_px=240).image.astype(np.float64)
    plain = look_of(image.astype(np.uint8))
    dark = look_of((image * 0.7).astype(np.uint8))
    assert dark.brightness == pytest.approx(0.7 * plain.brightness, rel=0.02)
    assert dark.od_green == pytest.approx(plain.od_green, abs=0.03)
    yellow = look_of((image * [1.0, 1.0, 0.6]).astype(np.uint8))
    assert yellow.warmth == pytest.approx(plain.warmth + np.log2(1 / 0.6), abs=0.05)
    stained = look_of((255 * (image / 255) ** 1.6).astype(np.uint8))
    assert stained.od_green > 1.2 * plain.od_green
    assert look_of(np.full((32, 32, 3), 200, np.uint8)).od_red == 0.0


def test_examples_are_dealt_from_every_source_by_the_seed(dataset: AnnotatedSet) -> None:
    chosen = chosen_examples(dataset, 2, seed=0)
    assert {p.source for p in chosen} == {"lab<0>", "lab<1>"}
    assert chosen == chosen_examples(dataset, 2, seed=0)
    assert len(chosen_examples(dataset, 99, seed=0)) == 4
    assert chosen_examples(AnnotatedSet((), ()), 9, seed=0) == []


def test_the_page_needs_nothing_beside_it_and_carries_the_label(dataset: AnnotatedSet) -> None:
    page = statistics_page("mine", dataset, statistics_of(dataset), examples=2)
    assert "Research use only. Not for diagnosis." in page
    assert "lab&lt;0&gt;" in page
    assert "lab<0>" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "url(" not in page


def test_a_set_without_boxes_gets_its_page_too(tmp_path: Path) -> None:
    pictures = [
        annotated(picture_file(tmp_path / f"{k}.png", seed=n), kind=k) for n, k in enumerate(("monocyte", "basophil"))
    ]
    data = AnnotatedSet((), tuple(pictures))
    page = statistics_page("single", data, statistics_of(data))
    assert "one class a picture, 2 classes" in page
    assert "Cells and their sizes" not in page


def test_a_set_of_fields_without_any_cell_gets_its_page_too(tmp_path: Path) -> None:
    data = AnnotatedSet((), (annotated(picture_file(tmp_path / "a.png")),))
    assert "1 pictures without any" in statistics_page("empty", data, statistics_of(data))


def test_bars_hold_every_value_also_those_beyond_the_edge() -> None:
    chart = histogram([0, 1, 1, 9, 99], edges=[0, 1, 2, 10], label="x", colour="#000", title="t")
    assert re.findall(r"<title>(.*?)</title>", chart) == ["0 to 1: 1", "1 to 2: 2", "2 to 10: 2"]


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-0.3, 0.31, [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]), (5, 5, [5])],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == wanted


def test_series_differ_by_shape_and_are_named_with_their_size() -> None:
    chart = scatter({"a&b": np.zeros((2, 2)), "c": np.ones((1, 2))}, x_label="x", y_label="y", title="t")
    assert "a&amp;b (2)" in chart
    assert "c (1)" in chart
    assert chart.count("<circle") == 2 + 1
    assert chart.count("<rect") == 1 + 1


def test_the_command_writes_the_page(dataset: AnnotatedSet, tmp_path: Path) -> None:
    write_set(dataset, tmp_path / "set", Format.COCO, Faults())
    said = CliRunner().invoke(app, ["data", "stats", str(tmp_path / "set"), "--out", str(tmp_path / "page")])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "page" / "index.html").is_file()


OVERLAID = """() => [...document.querySelectorAll(".field")].every((f) =>
  Math.abs(f.querySelector("img").clientHeight - f.querySelector("svg").getBoundingClientRect().height) < 2)"""


@pytest.mark.chromium
def test_the_page_fits_any_window_and_boxes_lie_on_their_pictures(dataset: AnnotatedSet, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(statistics_page("mine", dataset, statistics_of(dataset)), encoding="utf-8")
    with chromium() as browser:
        for size in (DESK, TABLET, {"width": 390, "height": 844}):
            for scheme in ("light", "dark"):
                with browser.page(tmp_path.as_uri(), size=size, scheme=scheme) as watched:
                    watched.open("/index.html")
                    assert watched.overflow_px() <= 0
                    assert watched.page.evaluate("[...document.images].every((i) => i.naturalWidth > 0)")
                    assert watched.page.evaluate(OVERLAID)
                    assert watched.troubles == []
