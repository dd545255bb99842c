"""Generated fields as training data: rendered once, kept as PNG, keyed by the generator's own source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import models.synthetic as synthetic
from models.runtime.imaging import decode_image, encode_png
from models.runtime.results import FloatArray, ImageRGB
from training.config import GeneratedFields
from training.data.coco import CLASS_INDEX

MIN_VISIBLE_RATIO = 0.3
"""A generated cell less visible than this (cut by the frame) is not asked for, as in the annotated sets."""


@dataclass(frozen=True, slots=True, eq=False)
class FieldExample:
    """A field in memory.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32, x1 y1 x2 y2, pixels of the image.
        labels: (N,) int64, index into `CellClass`.
        cell_types: white-cell type per box, "" where there is none or it is not known.
        group: name of the near-duplicate group.
    """

    image: ImageRGB
    boxes: FloatArray
    labels: NDArray[np.int64]
    cell_types: tuple[str, ...]
    group: str


def generator_fingerprint() -> str:
    """Short hash of the generator's source: another generator never reads this one's cache."""
    folder = Path(synthetic.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def generated_example(seed: int, *, width_px: int = 640, height_px: int = 480) -> FieldExample:
    """Render one generated field with its truth; see `models.synthetic.generate_field`."""
    truth = synthetic.generate_field(seed, width_px=width_px, height_px=height_px)
    cells = [c for c in truth.cells if c.visible_ratio >= MIN_VISIBLE_RATIO]
    boxes = np.array([c.box for c in cells], np.float32).reshape(-1, 4)
    labels = np.array([CLASS_INDEX[c.cls] for c in cells], np.int64)
    types = tuple(c.cell_type or "" for c in cells)
    return FieldExample(truth.image, boxes, labels, types, f"generated-{seed}")


def generated_examples(config: GeneratedFields, cache: Path) -> list[FieldExample]:
    """Every field of the configuration, from the cache where it holds them."""
    if config.count == 0:
        return []
    folder = cache / f"generated-{generator_fingerprint()}-{config.width_px}x{config.height_px}"
    folder.mkdir(parents=True, exist_ok=True)
    return [_cached(folder, seed, config) for seed in range(config.first_seed, config.first_seed + config.count)]


def _cached(folder: Path, seed: int, config: GeneratedFields) -> FieldExample:
    picture, truth = folder / f"{seed}.png", folder / f"{seed}.json"
    if truth.is_file():
        said = json.loads(truth.read_text(encoding="utf-8"))
        boxes = np.array(said["boxes"], np.float32).reshape(-1, 4)
        labels = np.array(said["labels"], np.int64)
        types = tuple(said["cell_types"])
        return FieldExample(decode_image(picture.read_bytes()), boxes, labels, types, f"generated-{seed}")
    made = generated_example(seed, width_px=config.width_px, height_px=config.height_px)
    picture.write_bytes(encode_png(made.image))
    said = {"boxes": made.boxes.tolist(), "labels": made.labels.tolist(), "cell_types": list(made.cell_types)}
    partial = truth.with_suffix(".partial")  # The truth comes last and at once: it says that the pair is whole.
    partial.write_text(json.dumps(said), encoding="utf-8")
    partial.rename(truth)
    return made
