"""Data sets in the layout of AHS_DATA_DIR, made of generated fields: small, and with known answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle.manifest import CellClass, WhiteCellType
from models.runtime.imaging import encode_png
from training.data.generated import FieldExample, generated_example

EDGE_BUNDLE = Path("models/zoo/edge-1.0.0")
FIRST_SEED = 960_000
TYPES = [kind.value for kind in WhiteCellType]
WHITE = list(CellClass).index(CellClass.WBC)


def examples(count: int, *, first_seed: int = FIRST_SEED) -> list[FieldExample]:
    """Generated fields."""
    return [generated_example(seed, width_px=480, height_px=360) for seed in range(first_seed, first_seed + count)]


def write_sets(root: Path, fields: list[FieldExample]) -> Path:
    """A detection set with val, a single-cell set, a site set with slides and a set of outsiders."""
    _detection_set(root / "det_txl", fields)
    _single_cells(root / "wbc_pbc", fields)
    _site(root / "wbc_site_b", fields)
    outsiders = root / "wbc_ood_dev" / "erythroblast"
    outsiders.mkdir(parents=True)
    for number, field in enumerate(fields):
        (outsiders / f"ERB_{number}.png").write_bytes(encode_png(field.image))
    return root


def _detection_set(folder: Path, fields: list[FieldExample]) -> None:
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, field in enumerate(fields):
        name = f"images/{number}.png"
        (folder / name).write_bytes(encode_png(field.image))
        images.append(_image(number, name, field) | {"group": f"g{number // 2}", "source": "AB"[number % 2]})
        annotations += _boxes(field, number, len(annotations), range(len(field.labels)), field.labels + 1)
    whole = {"categories": [{"id": i + 1, "name": str(c)} for i, c in enumerate(CellClass)]}
    whole |= {"images": images, "annotations": annotations}
    for split in ("val", "test"):
        (folder / f"{split}.json").write_text(json.dumps(whole))
    (folder / "train.json").write_text(json.dumps(whole | {"images": images[:2], "annotations": []}))


def _image(number: int, name: str, field: FieldExample) -> dict[str, Any]:
    height, width = field.image.shape[:2]
    return {"id": number, "file_name": name, "width": width, "height": height}


def _boxes(field: FieldExample, image: int, first: int, which: Any, categories: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i in which:
        x1, y1, x2, y2 = field.boxes[i].tolist()
        rows.append(
            {
                "id": first + len(rows),
                "image_id": image,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "category_id": int(categories[i]),
            }
        )
    return rows


def _single_cells(folder: Path, fields: list[FieldExample]) -> None:
    folder.mkdir(parents=True)
    rows = []
    for number, field in enumerate(fields):
        for i, kind in enumerate(field.cell_types):
            if kind not in TYPES:
                continue
            x, y = (field.boxes[i, :2] + field.boxes[i, 2:]) / 2
            left, top = max(0, int(x) - 160), max(0, int(y) - 160)
            name = f"{number}-{i}.png"
            piece = np.ascontiguousarray(field.image[top : top + 320, left : left + 320])
            (folder / name).write_bytes(encode_png(piece))
            rows.append({"file": name, "split": "test", "class": kind, "group": name, "txl_det_split": ""})
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _site(folder: Path, fields: list[FieldExample]) -> None:
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, field in enumerate(fields):
        white = [i for i, kind in enumerate(field.cell_types) if kind in TYPES]
        name = f"{number}.png"
        (folder / name).write_bytes(encode_png(field.image))
        images.append(_image(number, name, field) | {"slide": f"S{number % 3}"})
        kinds = [TYPES.index(kind) if kind in TYPES else -1 for kind in field.cell_types]
        annotations += _boxes(field, number, len(annotations), white, kinds)
    categories = [{"id": i, "name": kind} for i, kind in enumerate(TYPES)]
    said = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(said))
