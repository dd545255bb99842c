"""Files of a data set: pictures found, measured and copied, and the table of what a format cannot say."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from models.runtime.errors import ImageError
from models.runtime.image_header import read_header
from models.runtime.imaging import decode_image
from training.data.formats.annotated import Faults, Picture
from training.errors import DataError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
TABLE_NAME = "pictures.csv"
"""Beside VOC, YOLO and ImageFolder: near-duplicate group, source and whatever else the format has no place for."""
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_EXIF = (b"Exif\0\0", b"eXIf", b"EXIF")


def is_picture(path: Path) -> bool:
    """Whether its name is that of a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def pictures_below(folder: Path) -> list[Path]:
    """Pictures of a folder and the folders in it, in the order of their paths."""
    return sorted(p for p in folder.rglob("*") if is_picture(p) and p.is_file())


def inside(root: Path, name: str) -> Path | None:
    """The path that a data set names, or None where it points out of the data set."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if not name or pure.is_absolute() or ".." in pure.parts:
        return None
    return root / pure


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height as decoded. Decodes only where EXIF may turn the picture.

    Raises:
        ImageError: no usable picture.
    """
    header = read_header(data)
    if any(mark in data for mark in _EXIF):
        height, width = decode_image(data).shape[:2]
        return width, height
    return header.width_px, header.height_px


def size_of(path: Path, faults: Faults) -> tuple[int, int] | None:
    """Width and height of a picture file as decoded; None, and a fault, where there are none."""
    try:
        return upright_size(path.read_bytes())
    except ImageError as exc:
        faults.add(path, f"{exc}; take the picture again or leave it out")
    except OSError as exc:
        faults.add(path, f"cannot be read ({exc.strerror}); copy the picture again")
    return None


def text_of(path: Path, faults: Faults) -> str | None:
    """A text file; None, and a fault, where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        faults.add(path, "there is no such file; is the data set complete?")
    except OSError as exc:
        faults.add(path, f"cannot be read ({exc.strerror})")
    except UnicodeDecodeError:
        faults.add(path, "is not UTF-8 text; save it as UTF-8")
    return None


def fresh_folder(out: Path) -> Path:
    """An empty folder to write a set into.

    Raises:
        DataError: there is something in it already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty; give a new folder, so that nothing is overwritten")
    out.mkdir(parents=True, exist_ok=True)
    return out


def target_names(pictures: Sequence[Picture]) -> list[str]:
    """A file name for each picture, told apart within its split and class where two folders have the same."""
    taken: Counter[tuple[str, str, str]] = Counter()
    names = []
    for picture in pictures:
        place = (picture.split, picture.kind, picture.path.stem.lower())
        taken[place] += 1
        again = f"-{taken[place]}" if taken[place] > 1 else ""
        name = f"{picture.path.stem}{again}{picture.path.suffix.lower()}"
        if again:
            taken[(picture.split, picture.kind, Path(name).stem.lower())] += 1
        names.append(name)
    return names


def copy_picture(source: Path, target: Path) -> None:
    """Copy a picture byte for byte.

    Raises:
        DataError: it cannot be read or written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as exc:
        raise DataError(f"{source} cannot be copied to {target}: {exc.strerror}") from exc


def write_table(root: Path, rows: Iterable[tuple[str, Picture]]) -> None:
    """Write what the format has no place for: one line a picture, its file relative to `root`."""
    lines = [(name, p.group, p.source, json.dumps(dict(p.extra), sort_keys=True)) for name, p in rows]
    if not any(group or source or extra != "{}" for _, group, source, extra in lines):
        return
    with (root / TABLE_NAME).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "group", "source", "extra"))
        writer.writerows(lines)


def with_table(root: Path, pictures: Iterable[Picture], faults: Faults) -> list[Picture]:
    """The pictures with group, source and the rest from the table beside them, if there is one."""
    path = root / TABLE_NAME
    if not path.is_file():
        return list(pictures)
    rows: dict[str, dict[str, str]] = {}
    text = text_of(path, faults) or ""
    for number, row in enumerate(csv.DictReader(text.splitlines()), 2):
        if not row.get("file"):
            faults.add(f"{path}, line {number}", "names no file; the columns are file, group, source, extra")
            continue
        rows[str(row["file"])] = {key: value or "" for key, value in row.items() if key}
    found = []
    for picture in pictures:
        row = rows.pop(picture.path.relative_to(root).as_posix(), {})
        found.append(_from_row(picture, row, path, faults) if row else picture)
    for name in rows:
        faults.add(path, f"names {name}, which is not in the set; copy it there or remove the line")
    return found


def _from_row(picture: Picture, row: Mapping[str, str], path: Path, faults: Faults) -> Picture:
    try:
        extra = json.loads(row.get("extra") or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        faults.add(path, f"the column extra of {row['file']} is no JSON object; empty it")
        extra = {}
    return replace(picture, group=row.get("group", ""), source=row.get("source", ""), extra=extra)


def relative_posix(path: Path, root: Path) -> str:
    """A path as a data set writes it."""
    return Path(os.path.relpath(path, root)).as_posix()
