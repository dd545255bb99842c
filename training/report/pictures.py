"""Worst errors as pictures, embedded into the page: they go where the user writes the page, and nowhere else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup, escape

from models.runtime.errors import ImageError
from models.runtime.imaging import crop_cell, encode_jpeg, read_image
from models.runtime.results import ImageRGB

CROP_PX = 128
WINDOW_RATIO = 1.7
FIELD_PX = 460
QUALITY = 82
SHOWN_CELLS = 24
SHOWN_FIELDS = 12
CLASS_TONES = {"RBC": "rbc", "WBC": "wbc", "Platelets": "plt"}


def data_uri(image: ImageRGB) -> str:
    """A picture as JPEG inside an address."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, QUALITY)).decode("ascii")


def load(root: Path | None, file: str) -> ImageRGB | None:
    """A picture of the data folder; None where it is not there, cannot be read, or would lie outside the folder."""
    if root is None:
        return None
    path = (root / file).resolve()
    if not path.is_relative_to(root.resolve()):
        return None
    try:
        return read_image(path)
    except ImageError:
        return None


def cell_cards(worst: Sequence[Mapping[str, Any]], root: Path | None) -> list[dict[str, Any]]:
    """The worst cells with their pictures: `uri`, `true`, `said`, `words`; those without a picture are left out."""
    cards = []
    for row in worst[:SHOWN_CELLS]:
        image = load(root, row["file"])
        if image is None:
            continue
        height, width = image.shape[:2]
        box = row["box"] or (0.0, 0.0, float(width), float(height))
        side = max(box[2] - box[0], box[3] - box[1]) * (WINDOW_RATIO if row["box"] else 1.0)
        crop = crop_cell(image, tuple(box), side, CROP_PX)
        sure = "" if row["probability"] is None else f"p {row['probability']:.2f}"
        words = "named" if row["named"] else ("" if row["probability"] is None else "not named")
        cards.append({"uri": data_uri(crop), "true": row["true"], "said": row["said"], "sure": sure, "words": words})
    return cards


def field_cards(worst: Sequence[Mapping[str, Any]], root: Path | None) -> list[dict[str, Any]]:
    """The worst fields, drawn over with what was missed (dashed) and what is none (solid)."""
    cards = []
    for row in worst[:SHOWN_FIELDS]:
        image = load(root, row["file"])
        if image is None:
            continue
        words = f"{len(row['missed'])} missed, {len(row['false'])} too many, {row['cells']} cells"
        cards.append({"svg": _field(image, row, words), "words": words, "file": Path(row["file"]).name})
    return cards


def _field(image: ImageRGB, row: Mapping[str, Any], words: str) -> Markup:
    height, width = image.shape[:2]
    ratio = min(1.0, FIELD_PX / max(height, width))
    small = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    shown = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
    boxes = [_rect(box, "missed") for box in row["missed"]] + [_rect(box, "false") for box in row["false"]]
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><image href="{}" width="{}" height="{}"/>{}</svg>'
    ).format(width, height, words, data_uri(shown), width, height, Markup("").join(boxes))


def _rect(box: Sequence[Any], kind: str) -> Markup:
    x1, y1, x2, y2, cls = box
    tone = CLASS_TONES.get(str(cls), "rbc")
    shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{max(0.0, x2 - x1):.1f}" height="{max(0.0, y2 - y1):.1f}"'
    return Markup(f'<rect class="e-{kind} e-{tone}" {shape}><title>{escape(cls)} {kind}</title></rect>')
