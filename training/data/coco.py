"""Fields with boxes, read from COCO files that carry a near-duplicate `group` per image."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass
from models.runtime.results import FloatArray
from training.errors import DataError

CLASS_INDEX: dict[str, int] = {cls.value: index for index, cls in enumerate(CellClass)}


@dataclass(frozen=True, slots=True, eq=False)
class FieldRecord:
    """One annotated field.

    Attributes:
        path: the picture.
        width_px, height_px: its size.
        group: name of its near-duplicate group; images of one group show the same cells.
        source: laboratory or set that it comes from.
        boxes: (N, 4) float32, x1 y1 x2 y2, pixels of the picture.
        labels: (N,) int64, index into `CellClass`.
    """

    path: Path
    width_px: int
    height_px: int
    group: str
    source: str
    boxes: FloatArray
    labels: NDArray[np.int64]


def read_coco(annotations: Path) -> list[FieldRecord]:
    """Read the fields of a COCO file; pictures are looked for beside it.

    Raises:
        DataError: absent, damaged, a category that is no cell class, or a picture that is not there.
    """
    try:
        raw: dict[str, Any] = json.loads(annotations.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise DataError(f"{annotations}: there is no such file; is the data set complete?") from exc
    except (OSError, ValueError) as exc:
        raise DataError(f"{annotations}: cannot be read as JSON: {exc}") from exc
    try:
        return _records(raw, annotations)
    except (KeyError, TypeError) as exc:
        raise DataError(f"{annotations}: is no COCO file: {exc!r} is missing or of the wrong type") from exc


def _records(raw: dict[str, Any], annotations: Path) -> list[FieldRecord]:
    classes = _class_by_category(raw["categories"], annotations)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in raw["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    records = []
    for image in raw["images"]:
        path = annotations.parent / image["file_name"]
        if not path.is_file():
            raise DataError(f"{path}: named in {annotations.name} but not there")
        own = by_image.get(image["id"], [])
        corners = np.array([a["bbox"] for a in own], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([classes[a["category_id"]] for a in own], np.int64)
        group, source = str(image.get("group", image["file_name"])), str(image.get("source", "unknown"))
        records.append(FieldRecord(path, image["width"], image["height"], group, source, corners, labels))
    return records


def _class_by_category(categories: list[dict[str, Any]], annotations: Path) -> dict[int, int]:
    found = {}
    for category in categories:
        name = category["name"]
        if name not in CLASS_INDEX:
            raise DataError(f"{annotations}: category {name!r} is none of {', '.join(CLASS_INDEX)}")
        found[int(category["id"])] = CLASS_INDEX[name]
    return found


def without_groups(records: Iterable[FieldRecord], others: Iterable[FieldRecord]) -> list[FieldRecord]:
    """The records whose near-duplicate group has no member among the others."""
    taken = {record.group for record in others}
    return [record for record in records if record.group not in taken]


def read_split(root: Path, split: str) -> list[FieldRecord]:
    """A split of a detection set; `val_clean` is val without the groups that have a member in train."""
    if split.endswith("_clean") and not (root / f"{split}.json").is_file():
        return without_groups(read_split(root, split.removesuffix("_clean")), read_split(root, "train"))
    return read_coco(root / f"{split}.json")
