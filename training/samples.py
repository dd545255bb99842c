"""Pictures for people: fields with truth and findings drawn in, and crops with the names they got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass
from models.runtime.detector import Candidates
from models.runtime.results import ImageRGB
from training.metrics import TrueCells

LONGEST_PX = 480
TILE_PX, CAPTION_PX = 128, 18
TRUTH_RGB = (255, 255, 255)
FOUND_RGB = {CellClass.RBC: (213, 94, 0), CellClass.WBC: (0, 114, 178), CellClass.PLATELETS: (0, 158, 115)}
"""Colours that stay apart for colour-blind eyes (Okabe and Ito)."""


def field_picture(image: ImageRGB, truth: TrueCells, found: Candidates, *, threshold: float) -> ImageRGB:
    """A field with its true cells in thin white and what was found in the colour of its class."""
    ratio = LONGEST_PX / max(image.shape[:2])
    size = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
    drawn = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    for box in truth.boxes:
        _rectangle(drawn, box * ratio, TRUTH_RGB, 1)
    for box, cls in zip(found.boxes[found.scores >= threshold], found.classes[found.scores >= threshold], strict=True):
        _rectangle(drawn, box * ratio, FOUND_RGB[list(CellClass)[cls]], 2)
    return np.asarray(drawn, np.uint8)


def _rectangle(image: NDArray[Any], box: NDArray[Any], colour: tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, width)


def crop_sheet(crops: Sequence[ImageRGB], captions: Sequence[str], *, columns: int = 8) -> ImageRGB:
    """Crops side by side, each over its caption; one grey tile where there are none."""
    rows = max(1, -(-len(crops) // columns))
    sheet = np.full((rows * (TILE_PX + CAPTION_PX), columns * TILE_PX, 3), 235, np.uint8)
    for number, (crop, caption) in enumerate(zip(crops, captions, strict=True)):
        top, left = (number // columns) * (TILE_PX + CAPTION_PX), (number % columns) * TILE_PX
        sheet[top : top + TILE_PX, left : left + TILE_PX] = cv2.resize(crop, (TILE_PX, TILE_PX))
        place = (left + 3, top + TILE_PX + CAPTION_PX - 5)
        cv2.putText(sheet, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (20, 20, 20), 1, cv2.LINE_AA)
    return sheet
