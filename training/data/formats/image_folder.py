"""ImageFolder: `SPLIT/CLASS/picture`, or `CLASS/picture`: the folder is the class of the whole picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.formats.annotated import AnnotatedSet, Faults, Picture
from training.data.formats.files import (
    SPLIT_NAMES,
    copy_picture,
    is_picture,
    pictures_below,
    relative_posix,
    size_of,
    target_names,
    with_table,
    write_table,
)


def split_folders(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) of each split; the whole folder under "" where there are none."""
    inner = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if inner and all(p.name.lower() in SPLIT_NAMES for p in inner):
        return [(SPLIT_NAMES[p.name.lower()], p) for p in inner]
    return [("", root)]


def read_image_folder(root: Path, faults: Faults) -> AnnotatedSet:
    """Read a folder whose folders are classes."""
    pictures: list[Picture] = []
    classes: dict[str, None] = {}
    for split, folder in split_folders(root):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                own = pictures_below(path)
                classes.setdefault(path.name)
                if not own:
                    faults.note(path, "holds no picture")
                for file in own:
                    if (size := size_of(file, faults)) is not None:
                        pictures.append(_picture(file, size, split, path.name))
            elif is_picture(path):
                faults.add(path, "lies in no folder of a class; move it into the folder of its class")
    return AnnotatedSet(tuple(sorted(classes)), tuple(with_table(root, pictures, faults)))


def _picture(path: Path, size: tuple[int, int], split: str, kind: str) -> Picture:
    return Picture(path, *size, boxes=np.zeros((0, 4)), names=(), split=split, kind=kind)


def write_image_folder(data: AnnotatedSet, out: Path, faults: Faults) -> None:
    """Write each picture into the folder of its class; nothing is lost."""
    rows = []
    for picture, name in zip(data.pictures, target_names(data.pictures), strict=True):
        target = out / picture.split / picture.kind / name
        copy_picture(picture.path, target)
        rows.append((relative_posix(target, out), picture))
    write_table(out, rows)
