"""Labelled cells of a site: a folder as `ahs-fleet labels export` writes it, `annotations.json` and `images/`.

1. `annotations.json` is COCO of a known schema (`ahs.coco/1`, `fleet/contract/dataset.py`);
2. each picture lies inside the folder, is there, and has the SHA-256 that the entry names;
3. each annotation belongs to a picture and has a box of positive size;
4. `attributes.cell_type` is one of the five types, or the annotation is left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fleet.contract.dataset import DATASET_SCHEMA, MAX_DATASET_BYTES
from models.runtime.imaging import MAX_IMAGE_BYTES
from models.runtime.matching import iou_matrix
from training.data.white_cells import TYPE_INDEX
from training.errors import LabelsError

ANNOTATIONS_NAME, IMAGES_NAME = "annotations.json", "images"
SAME_CELL_IOU = 0.7
"""Two labels whose boxes overlap so much speak of one cell."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class LabelledCell:
    """One label.

    Attributes:
        box: x1 y1 x2 y2, pixels of the picture.
        label: index into `WhiteCellType`.
    """

    box: Box
    label: int


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture with at least one label that can be used.

    Attributes:
        path: file.
        sha256: of its bytes.
        rbc_diameter_px: red-cell diameter that the export names, or None.
        cells: its labels.
    """

    path: Path
    sha256: str
    rbc_diameter_px: float | None
    cells: tuple[LabelledCell, ...]


@dataclass(frozen=True, slots=True)
class LabelFolder:
    """What a site has labelled.

    Attributes:
        images: in the order of their hashes; a picture that is named twice stands here once.
        left_out: reason -> annotations that cannot be learned from.
        sites: name of the site, where the export says it.
        sha256: of `annotations.json`.
    """

    images: tuple[LabelledImage, ...]
    left_out: Mapping[str, int]
    sites: tuple[str, ...]
    sha256: str

    @property
    def cells(self) -> int:
        """Number of labels that can be used."""
        return sum(len(image.cells) for image in self.images)


def read_labels(folder: Path) -> LabelFolder:
    """Read and check a folder of labels.

    Raises:
        LabelsError: which entry is wrong and how.
    """
    path = folder / ANNOTATIONS_NAME
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_DATASET_BYTES + 1)
    except OSError as exc:
        raise LabelsError(f"{path}: cannot be read ({exc.strerror}); give the folder of an exported data set") from exc
    if len(data) > MAX_DATASET_BYTES:
        raise LabelsError(f"{path} has more than {MAX_DATASET_BYTES} bytes")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise LabelsError(f"{path}: cannot be read as JSON: {exc}") from exc
    try:
        schema = (raw.get("info") or {}).get("schema", DATASET_SCHEMA)
        if schema != DATASET_SCHEMA:
            raise LabelsError(
                f"{path} follows {schema!r}, this program reads {DATASET_SCHEMA!r}; update one of the two"
            )
        return _folder(folder, raw, hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise LabelsError(f"{path}: an entry is missing or of the wrong type: {exc!r}") from exc


def _folder(folder: Path, raw: dict[str, Any], sha256: str) -> LabelFolder:
    entries = {image["id"]: image for image in raw["images"]}
    left_out: Counter[str] = Counter()
    by_image: dict[str, list[LabelledCell]] = {}
    chosen: dict[str, dict[str, Any]] = {}
    for annotation in raw["annotations"]:
        entry = entries.get(annotation["image_id"])
        if entry is None:
            raise LabelsError(f"annotation {annotation['id']} names a picture that is not in the list")
        kind = str((annotation.get("attributes") or {}).get("cell_type") or "without a type")
        if kind not in TYPE_INDEX:
            left_out[kind] += 1
            continue
        own = str(entry["sha256"])
        chosen.setdefault(own, entry)
        by_image.setdefault(own, []).append(LabelledCell(_box(annotation), TYPE_INDEX[kind]))
    images = []
    for own in sorted(by_image):
        cells = _undisputed(by_image[own], left_out)
        if cells:
            images.append(_image(folder, chosen[own], own, cells))
    site = (raw.get("info") or {}).get("site")
    return LabelFolder(tuple(images), dict(left_out), () if site is None else (str(site),), sha256)


def _box(annotation: Mapping[str, Any]) -> Box:
    x, y, width, height = (float(v) for v in annotation["bbox"])
    if not all(math.isfinite(v) for v in (x, y, width, height)) or width <= 0 or height <= 0:
        raise LabelsError(f"annotation {annotation['id']} has the box {annotation['bbox']}, which holds nothing")
    return x, y, x + width, y + height


def _undisputed(cells: list[LabelledCell], left_out: Counter[str]) -> tuple[LabelledCell, ...]:
    """Each cell once; one that two labels name differently is left out."""
    overlap = iou_matrix([c.box for c in cells], [c.box for c in cells]) >= SAME_CELL_IOU
    kept = []
    for i, cell in enumerate(cells):
        same = np.nonzero(overlap[i])[0]
        if len({cells[j].label for j in same}) > 1:
            left_out["disputed"] += 1
        elif (same < i).any():
            left_out["named twice"] += 1
        else:
            kept.append(cell)
    return tuple(kept)


def _image(folder: Path, entry: Mapping[str, Any], sha256: str, cells: tuple[LabelledCell, ...]) -> LabelledImage:
    name = PurePosixPath(str(entry["file_name"]))
    path = folder / IMAGES_NAME / name
    if name.is_absolute() or ".." in name.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise LabelsError(f"{str(name)!r} does not lie inside the folder of the labels")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_IMAGE_BYTES + 1)
    except OSError as exc:
        raise LabelsError(f"{path}: cannot be read ({exc.strerror}); export the pictures too") from exc
    if hashlib.sha256(data).hexdigest() != sha256:
        raise LabelsError(f"{path} is not the picture that was labelled: its hash differs; export it again")
    diameter = entry.get("rbc_diameter_px")
    return LabelledImage(path, sha256, None if diameter is None else float(diameter), cells)
