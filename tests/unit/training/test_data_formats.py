"""COCO, VOC, YOLO and ImageFolder: what is written is what is read, and nothing is lost without a word."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.annotated_sets import CLASSES, Box, annotated, as_told, picture_file, there_and_back
from training.data.formats.annotated import AnnotatedSet, Faults, Picture
from training.data.formats.registry import Format, format_of, read_set, write_set
from training.errors import DataError

BOXED = [Format.COCO, Format.VOC, Format.YOLO]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pool")
    return [picture_file(folder / str(n) / f"f{n % 2}.png", seed=n) for n in range(4)]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Eighths of a pixel: far from where rounding to six decimals could go either way."""
    x1, y1 = draw(st.integers(0, 480)), draw(st.integers(0, 352))
    return x1 / 8, y1 / 8, draw(st.integers(x1 + 4, 512)) / 8, draw(st.integers(y1 + 4, 384)) / 8


@st.composite
def fields(draw: st.DrawFn, path: Path) -> Picture:
    own = draw(st.lists(boxes(), max_size=4))
    words = st.text("abcdeäß-,\"' 1", max_size=6).map(str.strip)
    return replace(
        annotated(path, own, [draw(st.sampled_from(CLASSES)) for _ in own]),
        split=draw(st.sampled_from(["train", "val", "test"])),
        group=draw(words),
        source=draw(words),
        extra=draw(st.dictionaries(st.sampled_from(["slide", "note"]), words, max_size=2)),
    )


@pytest.mark.parametrize("form", BOXED)
@given(data=st.data())
@settings(max_examples=20)
def test_what_is_written_is_read_again(form: Format, pool: list[Path], data: st.DataObject) -> None:
    pictures = tuple(data.draw(fields(path)) for path in pool)
    with TemporaryDirectory() as folder:
        before = AnnotatedSet(CLASSES, pictures)
        after, faults = there_and_back(before, Path(folder) / "out", form)
        assert faults.grave == []
        assert as_told(after, decimals=6) == as_told(before, decimals=6)


@pytest.mark.parametrize("form", [Format.COCO, Format.VOC])
def test_boxes_keep_every_digit(form: Format, pool: list[Path], tmp_path: Path) -> None:
    before = AnnotatedSet(CLASSES, (annotated(pool[0], [(0.0, 1 / 3, 10.1, 47.9)], ["WBC"]),))
    after, _ = there_and_back(before, tmp_path / "out", form)
    assert np.abs(after.pictures[0].boxes - before.pictures[0].boxes).max() < 1e-12


@given(kinds=st.lists(st.tuples(st.sampled_from(["lymphocyte", "monocyte"]), st.sampled_from(["train", "val"]))))
@settings(max_examples=15)
def test_an_image_folder_is_read_again(pool: list[Path], kinds: list[tuple[str, str]]) -> None:
    pictures = tuple(
        annotated(path, kind=kind, split=split, group=f"g{kind}")
        for path, (kind, split) in zip(pool, kinds, strict=False)
    )
    if not pictures:
        return
    with TemporaryDirectory() as folder:
        before = AnnotatedSet((), pictures)
        after, faults = there_and_back(before, Path(folder) / "out", Format.FOLDER)
        assert faults.grave == []
        assert as_told(after) == as_told(before)


@pytest.mark.parametrize("form", BOXED)
def test_pictures_of_the_same_name_stay_apart(form: Format, pool: list[Path], tmp_path: Path) -> None:
    before = AnnotatedSet(CLASSES, tuple(annotated(p, [(n, n, n + 9, n + 9)], ["RBC"]) for n, p in enumerate(pool)))
    after, _ = there_and_back(before, tmp_path / "out", form)
    assert as_told(after, 6) == as_told(before, 6)


def test_coco_keeps_what_else_is_said_of_a_box_and_the_others_say_what_they_lose(
    pool: list[Path], tmp_path: Path
) -> None:
    field = annotated(pool[0], [(1, 1, 9, 9)], ["WBC"], marks=({"attributes": {"cell_type": "monocyte"}},))
    before = AnnotatedSet(CLASSES, (field,))
    after, faults = there_and_back(before, tmp_path / "coco", Format.COCO)
    assert after.pictures[0].marks == field.marks
    assert faults.found == []
    for form, words in ((Format.VOC, "no place for 'attributes' of 1 boxes"), (Format.YOLO, "no place for what else")):
        _, faults = there_and_back(before, tmp_path / form, form)
        assert [words in fault.text for fault in faults.found] == [True]


def test_voc_keeps_what_voc_says_of_a_box(pool: list[Path], tmp_path: Path) -> None:
    field = annotated(pool[0], [(1, 1, 9, 9), (2, 2, 8, 8)], ["WBC", "RBC"], marks=({"difficult": "1"}, {}))
    after, faults = there_and_back(AnnotatedSet(CLASSES, (field,)), tmp_path / "voc", Format.VOC)
    assert [dict(m) for m in after.pictures[0].marks] == [{"difficult": "1"}, {}]
    assert faults.found == []


@pytest.mark.parametrize("form", list(Format))
def test_the_format_is_known_by_what_lies_there(form: Format, pool: list[Path], tmp_path: Path) -> None:
    field = (
        annotated(pool[0], kind="monocyte") if form is Format.FOLDER else annotated(pool[0], [(1, 1, 9, 9)], ["RBC"])
    )
    write_set(AnnotatedSet((), (field,)), tmp_path / "out", form, Faults())
    assert format_of(tmp_path / "out") is form


def test_a_format_that_cannot_hold_the_set_is_refused_before_anything_is_written(
    pool: list[Path], tmp_path: Path
) -> None:
    boxed = AnnotatedSet(CLASSES, (annotated(pool[0], [(1, 1, 9, 9)], ["RBC"]),))
    single = AnnotatedSet((), (annotated(pool[0], kind="monocyte"),))
    with pytest.raises(DataError, match="convert this set to coco, voc or yolo"):
        write_set(boxed, tmp_path / "out", Format.FOLDER, Faults())
    with pytest.raises(DataError, match="ImageFolder"):
        write_set(single, tmp_path / "out", Format.YOLO, Faults())
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_never_written_into(pool: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(DataError, match="not empty"):
        write_set(AnnotatedSet((), ()), tmp_path, Format.COCO, Faults())


def test_what_is_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        format_of(tmp_path / "absent")
    with pytest.raises(DataError, match="none of the formats"):
        format_of(tmp_path)


# What is wrong is named with its file and line or field, all of it at once.


def damaged(tmp_path: Path, form: Format) -> Path:
    """A set of one sound picture in a format, to be damaged."""
    path = picture_file(tmp_path / "a.png")
    field = annotated(path, [(1, 1, 9, 9)], ["WBC"], split="train")
    write_set(AnnotatedSet(CLASSES, (field,)), tmp_path / "set", form, Faults())
    return tmp_path / "set"


def told(folder: Path) -> str:
    faults = Faults()
    read_set(folder, faults)
    return "\n".join(str(fault) for fault in faults.grave)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("7 .5 .5 .1 .1\n", r"a\.txt, line 1: class 7 is not in data.yaml, which names 3"),
        ("0 .5 .5 .1 .1\n0 .5 x .1 .1\n", r"a\.txt, line 2: .* are no numbers"),
        ("0 .5 .5 .1 .1 .9\n", "has 6 columns .a confidence"),
        ("0 .1 .1 .2 .2 .3 .3 .4 .4\n", "has 9 columns .an outline"),
        ("0 .5 .5\n", "has 3 columns; a line is"),
        ("0 20 20 10 10\n", "the box is in pixels"),
        ("0 nan .5 .1 .1\n", "a coordinate is no number"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(tmp_path: Path, lines: str, words: str) -> None:
    folder = damaged(tmp_path, Format.YOLO)
    (folder / "labels" / "train" / "a.txt").write_text(lines, encoding="utf-8")
    assert re.search(words, told(folder))


def test_every_wrong_line_is_told_in_one_go(tmp_path: Path) -> None:
    folder = damaged(tmp_path, Format.YOLO)
    (folder / "labels" / "train" / "a.txt").write_text("9 .5 .5 .1 .1\n0 1\n1 a b c d\n", encoding="utf-8")
    (folder / "labels" / "train" / "orphan.txt").write_text("", encoding="utf-8")
    said = told(folder)
    assert all(words in said for words in ("line 1:", "line 2:", "line 3:", "orphan.txt: has no picture"))


def test_a_wrong_description_of_yolo_is_named(tmp_path: Path) -> None:
    folder = damaged(tmp_path, Format.YOLO)
    (folder / "data.yaml").write_text("names: 3\ntrain: images/gone\n", encoding="utf-8")
    said = told(folder)
    assert "data.yaml, names: must list" in said
    assert "data.yaml, train: there is no folder images/gone" in said
    (folder / "data.yaml").write_text("{", encoding="utf-8")
    assert "is no YAML" in told(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<xmin>1</xmin>", "", "object 1: (WBC) needs numbers in <bndbox>"),
        ("<xmin>1</xmin>", "<xmin>one</xmin>", "object 1: (WBC) needs numbers"),
        ("<name>WBC</name>", "", "object 1: has no <name>"),
        ("<width>64</width>", "<width>640</width>", "<size> says 640x48, the picture has 64x48 px"),
        ("</annotation>", "", "is no XML"),
        ("<annotation>", "<!DOCTYPE x [<!ENTITY a 'a'>]><annotation>", "declares entities"),
    ],
)
def test_a_wrong_annotation_of_voc_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    folder = damaged(tmp_path, Format.VOC)
    path = folder / "Annotations" / "a.xml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert f"{path}" in told(folder)
    assert words in told(folder)


def test_what_voc_misses_is_named(tmp_path: Path) -> None:
    folder = damaged(tmp_path, Format.VOC)
    picture_file(folder / "JPEGImages" / "b.png", seed=2)
    (folder / "Annotations" / "c.xml").write_text("<annotation/>", encoding="utf-8")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("a\nd\n", encoding="utf-8")
    said = told(folder)
    assert "has no Annotations/b.xml" in said
    assert "c.xml: no picture of that name" in said
    assert "val.txt, line 1: a stands in train.txt too" in said
    assert "names d, which has no annotation" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [1, 2, 3]}, "annotations[0]: 'bbox' must be four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "annotations[0]: 'bbox' must be four numbers"),
        ({"image_id": 9}, "annotations[0]: 'image_id' 9 is no picture of the list"),
        ({"category_id": 9}, "annotations[0]: 'category_id' 9 is none of the categories"),
        ({"iscrowd": 1}, "annotations[0]: 'iscrowd' marks a crowd"),
    ],
)
def test_a_wrong_annotation_of_coco_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    folder = damaged(tmp_path, Format.COCO)
    document = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    document["annotations"][0] |= change
    (folder / "train.json").write_text(json.dumps(document), encoding="utf-8")
    assert f"train.json, {words}" in told(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 0}, "images[0]: images/train/a.png: 'width' and 'height' must be whole numbers above 0"),
        ({"file_name": "../a.png"}, "'../a.png' does not lie beside the annotations"),
        ({"file_name": "/etc/hosts"}, "'/etc/hosts' does not lie beside the annotations"),
        ({"file_name": "b.png"}, "named in train.json but not there"),
        ({"file_name": None}, "images[0]: needs a text 'file_name'"),
        ({"id": None}, "images[0]: needs an 'id'"),
    ],
)
def test_a_wrong_picture_of_coco_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    folder = damaged(tmp_path, Format.COCO)
    document = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    document["images"][0] |= change
    (folder / "train.json").write_text(json.dumps(document), encoding="utf-8")
    assert words in told(folder)


def test_a_picture_outside_any_class_folder_is_named(tmp_path: Path) -> None:
    picture_file(tmp_path / "train" / "monocyte" / "a.png")
    picture_file(tmp_path / "train" / "lost.png")
    assert "lost.png: lies in no folder of a class" in told(tmp_path)


def test_a_table_that_names_what_is_not_there_is_named(tmp_path: Path) -> None:
    picture_file(tmp_path / "monocyte" / "a.png")
    (tmp_path / "pictures.csv").write_text("file,group,source,extra\nmonocyte/z.png,g,,\n,,,\n", encoding="utf-8")
    said = told(tmp_path)
    assert "names monocyte/z.png, which is not in the set" in said
    assert "pictures.csv, line 3: names no file" in said
