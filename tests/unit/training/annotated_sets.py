"""Small annotated sets for tests, with pictures that were never in front of a microscope."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.runtime.imaging import encode_png
from training.data.formats.annotated import AnnotatedSet, Faults, Marks, Picture
from training.data.formats.registry import Format, read_set, write_set

CLASSES = ("RBC", "WBC", "Platelets")
Box = tuple[float, float, float, float]


def picture_file(path: Path, *, width_px: int = 64, height_px: int = 48, seed: int = 0) -> Path:
    """A picture of noise: no two seeds have the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    path.write_bytes(encode_png(noise))
    return path


def annotated(
    path: Path,
    boxes: Sequence[Box] = (),
    names: Sequence[str] = (),
    *,
    size: tuple[int, int] = (64, 48),
    split: str = "train",
    group: str = "",
    source: str = "",
    kind: str = "",
    marks: tuple[Marks, ...] = (),
) -> Picture:
    """A picture with its boxes."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return Picture(
        path, *size, boxes=corners, names=tuple(names), split=split, group=group, source=source, kind=kind, marks=marks
    )


def there_and_back(data: AnnotatedSet, folder: Path, form: Format) -> tuple[AnnotatedSet, Faults]:
    """Written in a format and read again; `Faults` are those of both."""
    faults = Faults()
    write_set(data, folder, form, faults)
    return read_set(folder, faults, form), faults


def as_told(data: AnnotatedSet, decimals: int | None = None) -> set[tuple[object, ...]]:
    """What a set says, without the order of its pictures and where they lie."""
    told: set[tuple[object, ...]] = set()
    for p in data.pictures:
        rounded = p.boxes if decimals is None else p.boxes.round(decimals) + 0.0
        boxes = tuple(zip(p.names, map(tuple, rounded.tolist()), strict=True))
        what = (p.width_px, p.height_px, p.split, p.group, p.source, p.kind, tuple(sorted(p.extra.items())))
        told.add((p.path.read_bytes(), *what, boxes))
    return told
