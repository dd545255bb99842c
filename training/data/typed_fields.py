"""Fields of another laboratory in which only the white cells are annotated, each with its type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.bundle.manifest import CellClass, WhiteCellType
from models.runtime.imaging import read_image
from training.data.generated import FieldExample
from training.errors import DataError

TYPES = tuple(kind.value for kind in WhiteCellType)


def typed_fields(annotations: Path) -> Iterator[FieldExample]:
    """Fields of a COCO file whose categories are white-cell types; pictures are looked for beside it.

    Raises:
        DataError: absent or damaged, or a category that is none of the five types.
    """
    try:
        raw = json.loads(annotations.read_text(encoding="utf-8"))
        kinds = {c["id"]: c["name"] for c in raw["categories"]}
        by_image: dict[int, list[dict[str, object]]] = {image["id"]: [] for image in raw["images"]}
        for annotation in raw["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{annotations}: cannot be read as COCO: {exc}") from exc
    if unknown := sorted(set(kinds.values()) - set(TYPES)):
        raise DataError(f"{annotations}: category {unknown[0]!r} is none of {', '.join(TYPES)}")
    white = list(CellClass).index(CellClass.WBC)
    for image in raw["images"]:
        own = by_image[image["id"]]
        boxes = np.array([a["bbox"] for a in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        types = tuple(kinds[a["category_id"]] for a in own)
        picture = read_image(annotations.parent / image["file_name"])
        yield FieldExample(picture, boxes, np.full(len(own), white, np.int64), types, image["file_name"])
