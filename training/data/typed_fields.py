"""Fields of another laboratory in which only the white cells are annotated, each with its type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.bundle.manifest import CellClass, WhiteCellType
from models.runtime.imaging import read_image
from training.data.coco import read_strictly
from training.data.generated import FieldExample

TYPES = tuple(kind.value for kind in WhiteCellType)


def typed_fields(annotations: Path) -> Iterator[FieldExample]:
    """Fields of a COCO file whose categories are white-cell types; pictures are looked for beside it.

    Raises:
        DataError: absent or damaged, or a category that is none of the five types.
    """
    white = list(CellClass).index(CellClass.WBC)
    for picture in read_strictly(annotations, TYPES):
        image, labels = read_image(picture.path), np.full(len(picture.names), white, np.int64)
        name = picture.path.relative_to(annotations.parent).as_posix()
        yield FieldExample(image, picture.boxes.astype(np.float32), labels, picture.names, name)
