"""Pictures with boxes and labels, for people. Drawn with numpy and a small built-in font, no further library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.pixel_font import GLYPH_HEIGHT_PX, draw_text, text_width_px
from edge_agent.triage.rules import Triage
from fleet.contract.cells import CellClassName, DetectionWire
from models.bundle.manifest import UNIDENTIFIED
from models.runtime import encode_jpeg
from models.runtime.results import ImageRGB

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

QUALITY = 92
FOOTER = "RESEARCH USE ONLY"
COLOURS: dict[CellClassName, Colour] = {
    CellClassName.RBC: (213, 94, 0),
    CellClassName.WBC: (0, 114, 178),
    CellClassName.PLATELETS: (0, 158, 115),
}
"""Okabe and Ito's palette: apart for the colour-blind too."""
DOUBT: Colour = (204, 121, 167)
INK: Colour = (255, 255, 255)
GROUND: Colour = (20, 20, 20)
BAR_PX = GLYPH_HEIGHT_PX + 8


def annotated(image: ImageRGB, detections: Sequence[DetectionWire], triage: Triage) -> bytes:
    """A copy with boxes, white-cell types and a bar below that says the decision and what it is for, as JPEG.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        detections: boxes in pixels of the image; those not counted are drawn dashed.
        triage: decision and reasons.
    """
    height, width = image.shape[:2]
    canvas = np.empty((height + BAR_PX, width, 3), np.uint8)
    canvas[:height] = image
    canvas[height:] = GROUND
    field = canvas[:height]
    for cell in sorted(detections, key=lambda found: found.cls is CellClassName.WBC):
        doubtful = cell.cell_type is not None and cell.cell_type.label == UNIDENTIFIED
        colour = DOUBT if doubtful else COLOURS.get(cell.cls, DOUBT)
        _box(field, cell.bbox, colour, dashed=not cell.counted, thick_px=2 if cell.cls is CellClassName.WBC else 1)
        if cell.cell_type is not None:
            _label(field, cell.bbox, cell.cell_type.label, colour)
    said = " ".join([triage.decision.value, *triage.reasons]).replace("_", " ")
    draw_text(canvas, said[: max(0, width // 6 - 30)], x=4, y=height + 4, colour=INK)
    draw_text(canvas, FOOTER, x=max(4, width - text_width_px(FOOTER) - 4), y=height + 4, colour=INK)
    return encode_jpeg(canvas, QUALITY)


def _box(
    image: ImageRGB, bbox: tuple[float, float, float, float], colour: Colour, *, dashed: bool, thick_px: int
) -> None:
    height, width = image.shape[:2]
    x, y, w, h = bbox
    x1, y1 = max(0, round(x)), max(0, round(y))
    x2, y2 = min(width, max(x1 + 1, round(x + w))), min(height, max(y1 + 1, round(y + h)))
    if x1 >= width or y1 >= height:
        return
    across, down = np.arange(x1, x2), np.arange(y1, y2)
    if dashed:
        across, down = across[(across - x1) % 6 < 3], down[(down - y1) % 6 < 3]
    for depth in range(min(thick_px, y2 - y1, x2 - x1)):
        image[y1 + depth, across] = colour
        image[y2 - 1 - depth, across] = colour
        image[down, x1 + depth] = colour
        image[down, x2 - 1 - depth] = colour


def _label(image: ImageRGB, bbox: Box, text: str, colour: Colour) -> None:
    height, width = image.shape[:2]
    w, h = text_width_px(text) + 4, GLYPH_HEIGHT_PX + 4
    x = min(max(0, round(bbox[0])), max(0, width - w))
    above = round(bbox[1]) - h
    y = above if above >= 0 else min(max(0, round(bbox[1])), max(0, height - h))
    image[y : y + h, x : x + w] = colour
    draw_text(image, text, x=x + 2, y=y + 2, colour=INK)
