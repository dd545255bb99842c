"""How a data set is put together: categories, the scale of an image, the hash over all. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from statistics import median

from fleet.contract.cells import CellClassName, DetectionWire
from fleet.contract.codec import encode
from fleet.contract.dataset import DatasetCategory, DatasetExport
from models.runtime.scale import FRAME_MARGIN_PX

CATEGORIES = (
    DatasetCategory(id=1, name="RBC"),
    DatasetCategory(id=2, name="WBC"),
    DatasetCategory(id=3, name="Platelets"),
)
WHITE_CELL_ID = 2

MIN_RED_CELLS = 3
"""Fewer do not tell the scale of an image; what the shipped bundles ask for too."""

NO_HASH = "0" * 64


def rbc_diameter_px(detections: Iterable[DetectionWire], *, width_px: int, height_px: int) -> float | None:
    """The scale of an image as the pipeline takes it: median longer side of the counted red cells, pixels of the frame.

    Cells that the frame cuts do not count. None below MIN_RED_CELLS.
    """
    margin = FRAME_MARGIN_PX
    sides = []
    for found in detections:
        x, y, width, height = found.bbox
        inside = x > margin and y > margin and x + width < width_px - margin and y + height < height_px - margin
        if found.counted and found.cls is CellClassName.RBC and inside:
            sides.append(max(width, height))
    diameter = median(sides) if len(sides) >= MIN_RED_CELLS else 0.0
    return round(diameter, 2) if diameter > 0 else None


def hashed(export: DatasetExport) -> DatasetExport:
    """The same with its manifest's hash; a hash that was there before does not count."""
    plain = _with_hash(export, NO_HASH)
    return _with_hash(plain, hashlib.sha256(encode(plain)).hexdigest())


def _with_hash(export: DatasetExport, sha256: str) -> DatasetExport:
    return export.model_copy(update={"info": export.info.model_copy(update={"manifest_sha256": sha256})})
