"""YOLO: `data.yaml` with the classes, `images/SPLIT/` and `labels/SPLIT/`, one line a box: class cx cy w h in 0..1."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from training.data.formats.annotated import AnnotatedSet, Faults, Picture
from training.data.formats.files import (
    SPLIT_NAMES,
    copy_picture,
    is_picture,
    pictures_below,
    relative_posix,
    size_of,
    target_names,
    text_of,
    with_table,
    write_table,
)

DESCRIPTION = "data.yaml"


def read_yolo_set(root: Path, faults: Faults) -> AnnotatedSet:
    """Read a folder with `data.yaml`."""
    description = root / DESCRIPTION
    raw = _description(description, faults)
    classes = _classes(description, raw.get("names"), faults)
    pictures: list[Picture] = []
    folders: dict[Path, str] = {}
    for key, split in SPLIT_NAMES.items():
        value = raw.get(key)
        for entry in value if isinstance(value, list) else [value] if value else []:
            folder = _folder(root, str(entry))
            if folder is None:
                faults.add(f"{description}, {key}", f"there is no folder {entry}; correct the path or remove the line")
            else:
                folders.setdefault(folder, split)
    if not folders and raw:
        faults.add(description, "names no folder of pictures under train, val or test")
    for folder, split in folders.items():
        pictures += _split(folder, split, classes, faults)
    return AnnotatedSet(classes, tuple(with_table(root, pictures, faults)))


def _description(path: Path, faults: Faults) -> dict[str, Any]:
    text = text_of(path, faults)
    if text is None:
        return {}
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        faults.add(path, f"is no YAML: {exc}")
        return {}
    if not isinstance(raw, dict):
        faults.add(path, "holds no mapping with 'names', 'train', 'val' and 'test'")
        return {}
    return raw


def _classes(path: Path, names: object, faults: Faults) -> tuple[str, ...]:
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        faults.add(f"{path}, names", "must list the class names in the order of their numbers")
        return ()
    return tuple(names)


def _folder(root: Path, entry: str) -> Path | None:
    for candidate in (root / entry, root / entry / "images"):
        # A path that was right where the set was made often begins one folder too high.
        inner = candidate.resolve()
        if inner.is_dir() and inner.is_relative_to(root.resolve()) and any(is_picture(p) for p in inner.iterdir()):
            return root.joinpath(inner.relative_to(root.resolve()))
    return None


def _labels_folder(folder: Path) -> Path:
    """`.../images/train` -> `.../labels/train`: the last folder named `images` counts."""
    parts = list(folder.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts)
    return folder


def _split(folder: Path, split: str, classes: tuple[str, ...], faults: Faults) -> list[Picture]:
    labels = _labels_folder(folder)
    used, found = set(), []
    for path in pictures_below(folder):
        text_file = (labels / path.relative_to(folder)).with_suffix(".txt")
        used.add(text_file)
        size = size_of(path, faults)
        if size is None:
            continue
        rows: list[tuple[str, list[float]]] = []
        if text_file.is_file():
            rows = _rows(text_file, text_of(text_file, faults) or "", classes, size, faults)
        found.append(
            Picture(
                path=path,
                width_px=size[0],
                height_px=size[1],
                boxes=np.array([box for _, box in rows], np.float64).reshape(-1, 4),
                names=tuple(name for name, _ in rows),
                split=split,
            )
        )
    for path in sorted(labels.rglob("*.txt")) if labels != folder else []:
        if path not in used:
            faults.add(path, f"has no picture in {folder}; copy it there or remove the labels")
    return found


def _rows(
    path: Path, text: str, classes: tuple[str, ...], size: tuple[int, int], faults: Faults
) -> list[tuple[str, list[float]]]:
    rows = []
    width, height = size
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}, line {number}"
        words = line.split()
        if not words:
            continue
        if len(words) != 5:
            what = "a confidence: these are predictions, no labels" if len(words) == 6 else "an outline, not a box"
            reason = f"has {len(words)} columns" + (f" ({what})" if len(words) > 5 else "")
            faults.add(where, f"{reason}; a line is: class cx cy w h")
            continue
        try:
            index = int(words[0])
            cx, cy, w, h = (float(v) for v in words[1:])
        except ValueError:
            faults.add(where, f"{line.strip()!r} are no numbers; a line is: class cx cy w h")
            continue
        if not 0 <= index < len(classes):
            faults.add(
                where, f"class {index} is not in {DESCRIPTION}, which names {len(classes)} (0..{len(classes) - 1})"
            )
            continue
        if max(cx, cy, w, h) > 2:
            faults.add(where, f"{line.strip()!r}: the box is in pixels; YOLO's is a share of the picture, 0..1")
            continue
        if not all(math.isfinite(v) for v in (cx, cy, w, h)):
            faults.add(where, f"{line.strip()!r}: a coordinate is no number; correct the annotation")
            continue
        box = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        rows.append((classes[index], box))
    return rows


def write_yolo_set(data: AnnotatedSet, out: Path, faults: Faults) -> None:
    """Write `data.yaml`, pictures and labels; marks of boxes are named as lost."""
    classes = tuple(dict.fromkeys([*data.classes, *(n for p in data.pictures for n in p.names)]))
    numbers = {name: number for number, name in enumerate(classes)}
    rows, lost = [], 0
    for picture, name in zip(data.pictures, target_names(data.pictures), strict=True):
        split = picture.split or "train"
        target = out / "images" / split / name
        copy_picture(picture.path, target)
        rows.append((relative_posix(target, out), picture))
        labels = (out / "labels" / split / name).with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(_line(picture, i, numbers) for i in range(len(picture.names))), encoding="utf-8")
        lost += sum(1 for i in range(len(picture.names)) if picture.mark(i))
    document: dict[str, Any] = {s or "train": f"images/{s or 'train'}" for s in data.splits}
    document |= {"nc": len(classes), "names": list(classes)}
    (out / DESCRIPTION).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    if lost:
        faults.note(out, f"YOLO has no place for what else is said of {lost} boxes; COCO keeps it")
    if "" in data.splits:
        faults.note(out, "the set has no splits: all of it is written as train")
    write_table(out, rows)


def _line(picture: Picture, index: int, numbers: dict[str, int]) -> str:
    x1, y1, x2, y2 = picture.boxes[index].tolist()
    width, height = picture.width_px, picture.height_px
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{numbers[picture.names[index]]} " + " ".join(f"{v:.10f}" for v in values) + "\n"
