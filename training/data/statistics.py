"""What a data set looks like in numbers: cells, their sizes, light and stain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.runtime.imaging import read_image
from models.runtime.results import FloatArray, ImageRGB
from training.data.check import Progress, no_progress
from training.data.formats.annotated import AnnotatedSet, Picture

LOOK_PX = 160
"""Longest side at which light and stain are measured."""
BACKGROUND_PERCENTILE = 95.0
"""Brightness of the empty glass, as a percentile of each channel."""
STAINED_OD = 0.12
"""Optical density of green from which a pixel counts as stained."""


@dataclass(frozen=True, slots=True)
class Look:
    """Light and stain of one picture.

    Attributes:
        brightness: mean grey, 0..255.
        warmth: log2 of red over blue of the empty glass: above 0 is yellowish, below 0 bluish.
        od_red, od_green: mean optical density of the stained pixels: nuclei take red away, red cells green.
        sharpness: mean absolute difference of neighbouring grey levels.
    """

    brightness: float
    warmth: float
    od_red: float
    od_green: float
    sharpness: float


def look_of(image: ImageRGB) -> Look:
    """Measure an (H, W, 3) uint8 RGB picture."""
    height, width = image.shape[:2]
    ratio = min(1.0, LOOK_PX / max(height, width))
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)
    glass = np.maximum(np.percentile(small, BACKGROUND_PERCENTILE, axis=(0, 1)), 1.0)
    density = np.maximum(0.0, -np.log10(np.maximum(small, 1.0) / glass))
    stained = density[density[..., 1] > STAINED_OD]
    grey = small.mean(axis=2)
    steps = np.abs(np.diff(grey, axis=1))
    return Look(
        brightness=float(grey.mean()),
        warmth=float(np.log2(glass[0] / glass[2])),
        od_red=float(stained[:, 0].mean()) if len(stained) else 0.0,
        od_green=float(stained[:, 1].mean()) if len(stained) else 0.0,
        sharpness=float(steps.mean()) if steps.size else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Statistics:
    """A data set in numbers.

    Attributes:
        pictures: split -> number of pictures.
        cells: split -> class -> number of boxes, or of pictures in a set without boxes.
        by_source: source -> class -> number.
        sizes: source -> number of pictures by width and height.
        per_field: boxes of each picture.
        longest_px: class -> longest side of each box.
        source_median_px: source -> class -> median of the longest sides.
        looks: source -> light and stain of each picture.
    """

    pictures: Mapping[str, int]
    cells: Mapping[str, Mapping[str, int]]
    by_source: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, Mapping[tuple[int, int], int]]
    per_field: NDArray[np.int64]
    longest_px: Mapping[str, FloatArray]
    source_median_px: Mapping[str, Mapping[str, float]]
    looks: Mapping[str, tuple[Look, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that occur, the most frequent first."""
        total = sum((Counter(own) for own in self.cells.values()), Counter[str]())
        return tuple(name for name, _ in total.most_common())


def source_of(picture: Picture) -> str:
    """What a picture is grouped by: its source, its slide's own class, or its split."""
    return picture.source or picture.kind or picture.split or "all"


def statistics_of(data: AnnotatedSet, *, progress: Progress = no_progress) -> Statistics:
    """Measure a data set; every picture is decoded.

    Raises:
        ImageError: a picture that cannot be decoded; `data check` lists them all.
    """
    pictures = dict.fromkeys(data.splits, 0)
    cells: dict[str, Counter[str]] = {split: Counter() for split in data.splits}
    by_source: dict[str, Counter[str]] = {}
    sizes: dict[str, Counter[tuple[int, int]]] = {}
    longest: dict[str, list[float]] = {}
    by_both: dict[str, dict[str, list[float]]] = {}
    looks: dict[str, list[Look]] = {}
    for number, picture in enumerate(data.pictures, 1):
        source = source_of(picture)
        names = [*picture.names, *([picture.kind] if picture.kind else [])]
        pictures[picture.split] += 1
        cells[picture.split].update(names)
        by_source.setdefault(source, Counter()).update(names)
        sizes.setdefault(source, Counter())[(picture.width_px, picture.height_px)] += 1
        sides = (picture.boxes[:, 2:] - picture.boxes[:, :2]).max(axis=1, initial=0.0)
        for name, side in zip(picture.names, sides.tolist(), strict=True):
            longest.setdefault(name, []).append(side)
            by_both.setdefault(source, {}).setdefault(name, []).append(side)
        looks.setdefault(source, []).append(look_of(read_image(picture.path)))
        progress(number, len(data.pictures))
    return Statistics(
        pictures=pictures,
        cells=cells,
        by_source=by_source,
        sizes=sizes,
        per_field=np.array([len(p.names) for p in data.pictures], np.int64),
        longest_px={name: np.array(values, np.float32) for name, values in longest.items()},
        source_median_px={s: {n: float(np.median(v)) for n, v in own.items()} for s, own in by_both.items()},
        looks={source: tuple(own) for source, own in looks.items()},
    )
