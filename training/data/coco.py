"""Fields with boxes, read from COCO files that carry a near-duplicate `group` per image."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass
from models.runtime.results import FloatArray
from training.data.formats.annotated import Faults, Picture, judge
from training.data.formats.coco import read_coco_file

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
        DataError: what is wrong with the file, its boxes or its categories, each on its own line.
    """
    return [field_record(picture) for picture in read_strictly(annotations, CLASS_INDEX)]


def read_strictly(annotations: Path, known: Collection[str]) -> tuple[Picture, ...]:
    """The pictures of a COCO file whose categories are all among `known`.

    Raises:
        DataError: what is wrong, each on its own line.
    """
    faults = Faults()
    data = read_coco_file(annotations, faults)
    for name in data.classes:
        if name not in known:
            faults.add(annotations, f"category {name!r} is none of {', '.join(known)}")
    for picture in data.pictures:
        judge(picture, faults)
    faults.refuse()
    return data.pictures


def field_record(picture: Picture) -> FieldRecord:
    """A picture as training takes it; without a group it is one of its own."""
    return FieldRecord(
        path=picture.path,
        width_px=picture.width_px,
        height_px=picture.height_px,
        group=picture.group or f"{picture.split}/{picture.path.name}",
        source=picture.source or "unknown",
        boxes=picture.boxes.astype(np.float32),
        labels=np.array([CLASS_INDEX[name] for name in picture.names], np.int64),
    )


def without_groups(records: Iterable[FieldRecord], others: Iterable[FieldRecord]) -> list[FieldRecord]:
    """The records whose near-duplicate group has no member among the others."""
    taken = {record.group for record in others}
    return [record for record in records if record.group not in taken]


def read_split(root: Path, split: str) -> list[FieldRecord]:
    """A split of a detection set; `val_clean` is val without the groups that have a member in train."""
    if split.endswith("_clean") and not (root / f"{split}.json").is_file():
        return without_groups(read_split(root, split.removesuffix("_clean")), read_split(root, "train"))
    return read_coco(root / f"{split}.json")
