"""A site whose smears are stained too strongly: drawn, read by a bundle, labelled by the truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.bundle import CellClass
from models.runtime import Pipeline, match_detections
from models.runtime.imaging import encode_png
from models.synthetic import Optics, SlideSpec, generate_field

OVERSTAINED = {
    "stain": "may_gruenwald_giemsa",
    "stain_intensity_ratio": 2.0,
    "stain_tint": (1.6, 0.7, 0.7),
    "wbc_per_field_mean": 2.2,
    "differential": dict.fromkeys(("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"), 0.2),
}


def write_labels(folder: Path, pipeline: Pipeline, *, seeds: range) -> None:
    """Write `annotations.json` and its pictures.

    Args:
        folder: new.
        pipeline: finds the cells, as the device and the cloud would.
        seeds: one field each.
    """
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for seed in seeds:
        field = generate_field(seed, um_per_px=0.083, spec=SlideSpec(seed=seed, **OVERSTAINED), optics=Optics())
        found = pipeline.analyse(field.image).counted(CellClass.WBC)
        true = [cell for cell in field.cells if cell.cls == "WBC"]
        pairs = match_detections(
            boxes=[d.box for d in found],
            scores=[d.score for d in found],
            classes=[0] * len(found),
            true_boxes=[cell.box for cell in true],
            true_classes=[0] * len(true),
        ).pairs
        png = encode_png(field.image)
        sha256 = hashlib.sha256(png).hexdigest()
        name = f"{sha256}.png"
        (folder / "images" / name).write_bytes(png)
        entry = {
            "id": len(images) + 1,
            "file_name": name,
            "width": 640,
            "height": 480,
            "sha256": sha256,
        }
        images.append(entry)
        for mine, theirs in pairs:
            x1, y1, x2, y2 = found[mine].box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry["id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "attributes": {"cell_type": true[theirs].cell_type},
                }
            )
    document = {
        "info": {"schema": "ahs.coco/1", "site": "north"},
        "images": images,
        "annotations": annotations,
        "categories": [],
    }
    write_document(folder, document)


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    """Write `annotations.json`."""
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
