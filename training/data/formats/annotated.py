"""What every format is read into and written from, and what is wrong with it: data alone, no files.

A reader parses and says where it could not; `judge` says what is wrong with what was parsed; `mended` repairs what can
be repaired without a person. All of them collect faults instead of stopping at the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass, WhiteCellType
from training.errors import DataError

KNOWN_CLASSES: tuple[str, ...] = (*(c.value for c in CellClass), *(t.value for t in WhiteCellType))
"""Classes that training knows: what the detector finds, and the types of white cells."""
OUTSIDE_PX = 1.0
"""A box may stand out of its picture by this much: rounding, not a fault."""
SHOWN = 20
"""Faults that an error message names; `ahs-train data check` names all."""

_USUAL_SPLITS = ("train", "val", "test")

Marks = Mapping[str, Any]
NO_MARKS: Marks = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One annotated picture.

    Attributes:
        path: file.
        width_px, height_px: as decoded (upright, where EXIF turns it).
        boxes: (N, 4) float64, x1 y1 x2 y2, pixels of the picture; pixel edges, so that x2 - x1 is the width.
        names: class of each box.
        split: `train`, `val`, ...; "" where there is none.
        group: name of its near-duplicate group, "" where it is not known.
        source: laboratory or set that it comes from, "" where it is not known.
        kind: class of the whole picture, in a set without boxes; else "".
        extra: what else the picture's entry says.
        marks: what else each box's entry says, one mapping a box.
    """

    path: Path
    width_px: int
    height_px: int
    boxes: NDArray[np.float64]
    names: tuple[str, ...]
    split: str = ""
    group: str = ""
    source: str = ""
    kind: str = ""
    extra: Marks = field(default_factory=lambda: NO_MARKS)
    marks: tuple[Marks, ...] = ()

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.names), 4):
            raise ValueError(f"{len(self.names)} names for boxes of the shape {self.boxes.shape}")
        if self.marks and len(self.marks) != len(self.names):
            raise ValueError(f"{len(self.marks)} marks for {len(self.names)} boxes")

    def mark(self, index: int) -> Marks:
        """What else is said of a box."""
        return self.marks[index] if self.marks else NO_MARKS

    def keeping(self, kept: Iterable[int], boxes: NDArray[np.float64] | None = None) -> Picture:
        """The same picture with some of its boxes, in that order."""
        order = list(kept)
        return replace(
            self,
            boxes=(self.boxes if boxes is None else boxes)[order].reshape(-1, 4),
            names=tuple(self.names[i] for i in order),
            marks=tuple(self.marks[i] for i in order) if self.marks else (),
        )


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedSet:
    """Pictures and the classes that their format declares, in its order."""

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]

    @property
    def has_boxes(self) -> bool:
        """Whether it is about cells in fields; otherwise each picture is of one class."""
        return not any(p.kind for p in self.pictures)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, val and test first, then in the order in which they first appear."""
        found = dict.fromkeys(p.split for p in self.pictures)
        return tuple(sorted(found, key=lambda s: _USUAL_SPLITS.index(s) if s in _USUAL_SPLITS else len(_USUAL_SPLITS)))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        where: file, and line or field in it.
        text: what is wrong and what to do.
        grave: the set cannot be used like this; otherwise it is worth knowing.
    """

    where: str
    text: str
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(slots=True)
class Faults:
    """Collects what is wrong with a set."""

    found: list[Fault] = field(default_factory=list)

    def add(self, where: object, text: str) -> None:
        """Something that must be corrected."""
        self.found.append(Fault(str(where), text))

    def note(self, where: object, text: str) -> None:
        """Something that is worth knowing."""
        self.found.append(Fault(str(where), text, grave=False))

    @property
    def grave(self) -> list[Fault]:
        """What must be corrected."""
        return [fault for fault in self.found if fault.grave]

    def refuse(self) -> None:
        """Raise when anything must be corrected.

        Raises:
            DataError: the first faults, one a line, and how many more there are.
        """
        grave = self.grave
        if not grave:
            return
        lines = [str(fault) for fault in grave[:SHOWN]]
        if len(grave) > SHOWN:
            lines.append(f"and {len(grave) - SHOWN} more; `ahs-train data check` lists them all")
        raise DataError("\n".join(lines))


def judge_classes(data: AnnotatedSet, faults: Faults, *, known: Collection[str] = KNOWN_CLASSES) -> None:
    """Say which classes are none that training knows, each once, with where it is first used."""
    first: dict[str, Picture] = {}
    count: Counter[str] = Counter()
    for picture in data.pictures:
        for name in (*picture.names, picture.kind) if picture.kind else picture.names:
            first.setdefault(name, picture)
            count[name] += 1
    for name in dict.fromkeys([*data.classes, *first]):
        if name in known:
            continue
        used = f"used {count[name]} times, first in {first[name].path}" if name in first else "declared, but never used"
        faults.add(
            f"class {name!r}",
            f"{used}; it is none of {', '.join(known)}: rename it (--rename {name}=CLASS), or say that it belongs here "
            f"(--allow {name})",
        )


def judge(picture: Picture, faults: Faults) -> None:
    """Say what is wrong with a picture's boxes."""
    where = picture.path
    for index, (box, name) in enumerate(zip(picture.boxes.tolist(), picture.names, strict=True)):
        _judge_box(picture, f"{where}, box {index + 1} ({name})", box, faults)
    if not picture.names and not picture.kind:
        faults.note(where, "has no boxes: read as a field without cells; remove it if it was only not annotated")
    if twice := len(picture.names) - len(_once(picture)):
        faults.note(where, f"{twice} box(es) stand there twice; --repair keeps each once")


def _judge_box(picture: Picture, where: str, box: list[float], faults: Faults) -> None:
    x1, y1, x2, y2 = box
    shown = f"x {x1:g}..{x2:g}, y {y1:g}..{y2:g}"
    width, height = picture.width_px, picture.height_px
    if not np.isfinite(box).all():
        faults.add(where, f"{shown}: a coordinate is no number; correct the annotation")
    elif x2 <= x1 or y2 <= y1:
        faults.add(where, f"{shown}: the box holds nothing; correct it, or let --repair leave it out")
    elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        faults.add(where, f"{shown}: lies outside the picture ({width}x{height} px); let --repair leave it out")
    elif x1 < -OUTSIDE_PX or y1 < -OUTSIDE_PX or x2 > width + OUTSIDE_PX or y2 > height + OUTSIDE_PX:
        faults.add(where, f"{shown}: stands out of the picture ({width}x{height} px); let --repair cut it")


def _once(picture: Picture) -> list[int]:
    """Indices of the boxes without exact copies of earlier ones."""
    seen: dict[tuple[object, ...], int] = {}
    for index, (box, name) in enumerate(zip(picture.boxes.tolist(), picture.names, strict=True)):
        seen.setdefault((name, *box), index)
    return sorted(seen.values())


def mended(picture: Picture, faults: Faults) -> Picture:
    """Boxes cut to the frame, each once, without those that hold nothing; every change is a note."""
    frame = [picture.width_px, picture.height_px] * 2
    finite = np.asarray(np.isfinite(picture.boxes).all(axis=1))
    cut = np.where(finite[:, None], np.clip(picture.boxes, 0, frame), picture.boxes)
    whole = finite & (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    once = set(_once(picture))
    for index, name in enumerate(picture.names):
        where = f"{picture.path}, box {index + 1} ({name})"
        if not whole[index]:
            faults.note(where, "left out: nothing of it lies in the picture")
        elif index not in once:
            faults.note(where, "left out: it stands there twice")
        elif np.abs(cut[index] - picture.boxes[index]).max() > OUTSIDE_PX:
            faults.note(where, "cut to the frame of the picture")
    return picture.keeping((i for i in range(len(picture.names)) if whole[i] and i in once), cut)


def renamed(data: AnnotatedSet, names: Mapping[str, str]) -> AnnotatedSet:
    """The same set with other class names.

    Raises:
        DataError: a name that the set does not have.
    """
    have = {*data.classes, *(n for p in data.pictures for n in (*p.names, p.kind) if n)}
    if unknown := sorted(set(names) - have):
        raise DataError(
            f"--rename {unknown[0]}=...: the set has no class {unknown[0]!r}, only {', '.join(sorted(have))}"
        )
    pictures = tuple(
        replace(p, names=tuple(names.get(n, n) for n in p.names), kind=names.get(p.kind, p.kind)) for p in data.pictures
    )
    return AnnotatedSet(tuple(dict.fromkeys(names.get(c, c) for c in data.classes)), pictures)
