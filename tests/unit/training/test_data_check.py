"""Bad data: read right, or refused with a sentence that says what to do; all of it in one go."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.runtime.imaging import encode_jpeg
from tests.unit.cmyk_jpeg import CMYK_JPEG
from tests.unit.training.annotated_sets import CLASSES, annotated, as_told, picture_file
from training.data.check import check_set
from training.data.coco import read_coco
from training.data.formats.annotated import AnnotatedSet, Faults, Picture, mended, renamed
from training.data.formats.registry import Format, read_set, write_set
from training.errors import DataError


def checked(*pictures: Picture) -> Faults:
    faults = Faults()
    check_set(AnnotatedSet(CLASSES, pictures), faults)
    return faults


def stored(path: Path, image: NDArray[np.uint8] | NDArray[np.uint16]) -> Path:
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


GREY = np.tile(np.arange(64, dtype=np.uint8), (48, 1))


def turned(jpeg: bytes, orientation: int) -> bytes:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((-5, 2, 9, 9), "stands out of the picture (64x48 px); let --repair cut it"),
        ((60, 2, 70, 9), "stands out of the picture"),
        ((64, 2, 70, 9), "lies outside the picture (64x48 px); let --repair leave it out"),
        ((9, 2, 9, 9), "the box holds nothing"),
        ((9, 9, 2, 2), "the box holds nothing"),
        ((float("nan"), 2, 9, 9), "a coordinate is no number"),
    ],
)
def test_a_box_outside_or_empty_is_named_with_what_to_do(
    tmp_path: Path, box: tuple[float, float, float, float], words: str
) -> None:
    path = picture_file(tmp_path / "a.png")
    (fault,) = checked(annotated(path, [(1, 1, 9, 9), box], ["WBC", "RBC"])).grave
    assert fault.where == f"{path}, box 2 (RBC)"
    assert words in fault.text


def test_rounding_by_less_than_a_pixel_is_no_fault(tmp_path: Path) -> None:
    assert checked(annotated(picture_file(tmp_path / "a.png"), [(-0.4, 0, 64.4, 48.2)], ["RBC"])).found == []


def test_a_wrong_class_is_named_once_with_how_often_and_where_first(tmp_path: Path) -> None:
    paths = [picture_file(tmp_path / f"{n}.png", seed=n) for n in range(2)]
    fields = [annotated(path, [(1, 1, 9, 9)] * (n + 1), ["yeast"] * (n + 1)) for n, path in enumerate(paths)]
    (fault,) = checked(*fields).grave
    assert fault.where == "class 'yeast'"
    assert f"used 3 times, first in {paths[0]}" in fault.text
    assert "--rename yeast=CLASS" in fault.text


def test_a_class_can_be_renamed_but_not_one_that_is_not_there(tmp_path: Path) -> None:
    data = AnnotatedSet(("yeast", "RBC"), (annotated(picture_file(tmp_path / "a.png"), [(1, 1, 9, 9)], ["yeast"]),))
    done = renamed(data, {"yeast": "WBC"})
    assert (done.classes, done.pictures[0].names) == (("WBC", "RBC"), ("WBC",))
    with pytest.raises(DataError, match="has no class 'mould', only RBC, yeast"):
        renamed(data, {"mould": "WBC"})


def test_a_field_without_boxes_is_read_and_noted(tmp_path: Path) -> None:
    faults = checked(annotated(picture_file(tmp_path / "a.png")))
    assert faults.grave == []
    assert "has no boxes" in faults.found[0].text


def test_an_empty_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (fault,) = checked(annotated(tmp_path / "a.png", [(1, 1, 9, 9)], ["RBC"])).grave
    assert "the picture is empty (0 bytes); take the picture again or leave it out" in fault.text


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(noise)[:-200])
    (fault,) = checked(annotated(tmp_path / "a.jpg", [(1, 1, 9, 9)], ["RBC"])).grave
    assert "truncated" in fault.text


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", GREY),
        ("grey.jpg", GREY),
        ("sixteen.png", GREY.astype(np.uint16) * 257),
        ("sixteen.tiff", np.dstack([GREY.astype(np.uint16) * 257] * 3)),
        ("alpha.png", np.dstack([GREY, GREY, GREY, GREY])),
        ("palette.bmp", GREY),
    ],
)
def test_grey_sixteen_bit_and_alpha_are_read_right(
    tmp_path: Path, name: str, image: NDArray[np.uint8] | NDArray[np.uint16]
) -> None:
    assert checked(annotated(stored(tmp_path / name, image), [(1, 1, 9, 9)], ["RBC"])).found == []


def test_cmyk_is_read_right(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(CMYK_JPEG)
    assert checked(annotated(tmp_path / "a.jpg", [(1, 1, 9, 9)], ["RBC"])).found == []


def test_a_picture_turned_by_exif_is_measured_upright_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(turned(encode_jpeg(np.dstack([GREY] * 3)), 6))
    before = AnnotatedSet(CLASSES, (annotated(path, [(1, 40, 47, 63)], ["WBC"], size=(48, 64)),))
    for form in (Format.VOC, Format.YOLO, Format.COCO):
        write_set(before, tmp_path / form, form, Faults())
        faults = Faults()
        after = read_set(tmp_path / form, faults)
        check_set(after, faults)
        assert faults.found == []
        assert as_told(after, 6) == as_told(before, 6)


def test_boxes_drawn_on_the_unturned_picture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(turned(encode_jpeg(np.dstack([GREY] * 3)), 6))
    (fault,) = checked(annotated(path, [(1, 1, 40, 40)], ["WBC"], size=(64, 48))).grave
    assert "its EXIF turns it to 48x64 px" in fault.text
    assert "save the picture without EXIF orientation, or annotate it again upright" in fault.text


def test_an_annotation_of_another_size_is_refused(tmp_path: Path) -> None:
    path = picture_file(tmp_path / "a.png")
    (fault,) = checked(annotated(path, [(1, 1, 9, 9)], ["WBC"], size=(128, 96))).grave
    assert "has 64x48 px, its annotation says 128x96" in fault.text


def test_twelve_megapixels_and_600_red_cells_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((3000, 4000, 3), 200, np.uint8))
    cells = [(x, y, x + 90.0, y + 90.0) for x in range(0, 3900, 130) for y in range(0, 2900, 145)]
    assert len(cells) == 600
    before = AnnotatedSet(CLASSES, (annotated(path, cells, ["RBC"] * 600, size=(4000, 3000)),))
    for form in (Format.COCO, Format.VOC, Format.YOLO):
        write_set(before, tmp_path / form, form, Faults())
        faults = Faults()
        after = read_set(tmp_path / form, faults)
        assert as_told(after, 6) == as_told(before, 6)
        assert faults.found == []
    check_set(after, faults)
    assert faults.found == []
    (record,) = read_coco(tmp_path / "coco" / "train.json")
    assert record.boxes.shape == (600, 4)


def test_the_same_file_in_two_splits_is_a_fault_and_twice_in_one_a_note(tmp_path: Path) -> None:
    path, again = picture_file(tmp_path / "a.png"), picture_file(tmp_path / "b.png")
    box, name = [(1.0, 1.0, 9.0, 9.0)], ["RBC"]
    (fault,) = checked(annotated(path, box, name, split="train"), annotated(again, box, name, split="val")).grave
    assert f"is the same file as {path} of train; split anew by group" in fault.text
    faults = checked(annotated(path, box, name), annotated(again, box, name))
    assert faults.grave == []
    assert "is the same file as" in faults.found[0].text
    (fault,) = checked(annotated(path, kind="monocyte"), annotated(again, kind="lymphocyte")).grave
    assert "which is called monocyte; decide for one class" in fault.text


def test_all_faults_of_a_set_are_listed_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    sound = picture_file(tmp_path / "sound.png")
    faults = checked(
        annotated(tmp_path / "empty.png", [(1, 1, 9, 9)], ["RBC"]),
        annotated(tmp_path / "gone.png", [(1, 1, 9, 9)], ["RBC"]),
        annotated(sound, [(1, 1, 1, 9), (90, 1, 99, 9), (-9, 1, 9, 9)], ["RBC", "WBC", "fungus"]),
    )
    assert len(faults.grave) == 6
    with pytest.raises(DataError) as refused:
        faults.refuse()
    assert str(refused.value).count("\n") == 5


def test_repair_cuts_and_leaves_out_and_says_each(tmp_path: Path) -> None:
    path = picture_file(tmp_path / "a.png")
    boxes = [(1, 1, 9, 9), (1, 1, 9, 9), (-8, 1, 9, 9), (70, 1, 80, 9), (3, 3, 3, 9), (60, 40, 64.3, 48)]
    faults = Faults()
    done = mended(annotated(path, boxes, ["RBC"] * 6, marks=tuple({"n": n} for n in range(6))), faults)
    assert done.boxes.tolist() == [[1, 1, 9, 9], [0, 1, 9, 9], [60, 40, 64, 48]]
    assert [m["n"] for m in done.marks] == [0, 2, 5]
    assert [f.where.split(", ")[1] for f in faults.found] == [f"box {n} (RBC)" for n in (2, 3, 4, 5)]
    assert faults.grave == []


def test_training_refuses_a_set_with_a_box_outside(tmp_path: Path) -> None:
    path = picture_file(tmp_path / "a.png")
    write_set(
        AnnotatedSet(CLASSES, (annotated(path, [(70, 1, 90, 9)], ["RBC"]),)), tmp_path / "s", Format.COCO, Faults()
    )
    with pytest.raises(DataError, match="lies outside the picture"):
        read_coco(tmp_path / "s" / "train.json")
