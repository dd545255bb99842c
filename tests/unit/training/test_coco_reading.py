"""Reading of annotated fields and their near-duplicate groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.coco import read_coco, read_split, without_groups
from training.errors import DataError


def coco_file(folder: Path, split: str, groups: list[str], *, category: str = "WBC", picture: bool = True) -> Path:
    names = ["RBC", category, "Platelets"]
    images: list[dict[str, Any]] = []
    for number, group in enumerate(groups, 1):
        name = f"{split}-{number}.png"
        if picture:
            (folder / name).write_bytes(b"not decoded here")
        images.append({"id": number, "file_name": name, "width": 40, "height": 30, "group": group, "source": "x"})
    boxes = [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1.0, 2.0, 10.0, 5.0], "area": 50, "iscrowd": 0}]
    content = {
        "categories": [{"id": i, "name": n} for i, n in enumerate(names, 1)],
        "images": images,
        "annotations": boxes,
    }
    path = folder / f"{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_boxes_become_corners_and_categories_become_our_class_order(tmp_path: Path) -> None:
    first, second = read_coco(coco_file(tmp_path, "train", ["a", "b"]))
    assert first.boxes.tolist() == [[1.0, 2.0, 11.0, 7.0]]
    assert first.labels.tolist() == [1]
    assert second.boxes.shape == (0, 4)
    assert second.labels.dtype == np.int64


def test_images_whose_near_copy_is_elsewhere_are_dropped(tmp_path: Path) -> None:
    train = read_coco(coco_file(tmp_path, "train", ["a", "b", "b", "c"]))
    val = read_coco(coco_file(tmp_path, "val", ["b", "d"]))
    assert [r.group for r in without_groups(train, val)] == ["a", "c"]
    assert [r.group for r in read_split(tmp_path, "val_clean")] == ["d"]


def test_a_file_of_its_own_for_the_clean_split_is_preferred(tmp_path: Path) -> None:
    coco_file(tmp_path, "train", ["a"])
    coco_file(tmp_path, "test", ["a", "z"])
    coco_file(tmp_path, "test_clean", ["q"])
    assert [r.group for r in read_split(tmp_path, "test_clean")] == ["q"]


def test_damage_is_told_with_the_file_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.json: there is no such file"):
        read_coco(tmp_path / "train.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_coco(tmp_path / "bad.json")
    (tmp_path / "odd.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="categories"):
        read_coco(tmp_path / "odd.json")
    with pytest.raises(DataError, match="'yeast' is none of"):
        read_coco(coco_file(tmp_path, "train", ["a"], category="yeast"))
    with pytest.raises(DataError, match="not there"):
        read_coco(coco_file(tmp_path, "gone", ["a"], picture=False))
