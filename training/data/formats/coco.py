"""COCO: one JSON file a split, `bbox` as x y width height; pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.data.formats.annotated import AnnotatedSet, Faults, Marks, Picture
from training.data.formats.files import copy_picture, inside, target_names, text_of

_IMAGE_KEYS = {"id", "file_name", "width", "height", "group", "source"}
_BOX_KEYS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
_MEANS_NOTHING: tuple[object, ...] = (None, [], {})


def read_coco_set(path: Path, faults: Faults) -> AnnotatedSet:
    """Read a JSON file, or every JSON file of a folder as a split of its name.

    `val_clean.json` beside `val.json` is a choice of the same pictures and is not read twice.
    """
    if path.is_file():
        return read_coco_file(path, faults)
    files = sorted(p for p in path.glob("*.json") if not p.name.startswith("."))
    stems = {p.stem for p in files}
    files = [p for p in files if p.stem.removesuffix("_clean") == p.stem or p.stem.removesuffix("_clean") not in stems]
    parts = [read_coco_file(p, faults) for p in files]
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    return AnnotatedSet(classes, tuple(picture for part in parts for picture in part.pictures))


def read_coco_file(path: Path, faults: Faults) -> AnnotatedSet:
    """Read one JSON file; its name is the split's."""
    text = text_of(path, faults)
    if text is None:
        return AnnotatedSet((), ())
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as exc:
        faults.add(path, f"cannot be read as JSON: {exc}")
        return AnnotatedSet((), ())
    lists: dict[str, list[Any]] = {}
    for key in ("categories", "images", "annotations"):
        value = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(value, list):
            faults.add(path, f"is no COCO file: the list {key!r} is missing")
            value = []
        lists[key] = value
    names = _categories(path, lists["categories"], faults)
    entries = _images(path, lists["images"], faults)
    boxes = _annotations(path, lists["annotations"], names, entries, faults)
    pictures = []
    for image, entry in entries.items():
        if (picture := _picture(path, entry, boxes[image], faults)) is not None:
            pictures.append(picture)
    return AnnotatedSet(tuple(dict.fromkeys(names.values())), tuple(pictures))


def _categories(path: Path, raw: list[Any], faults: Faults) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, entry in enumerate(raw):
        where = f"{path}, categories[{number}]"
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("id"), int)
            or not isinstance(entry.get("name"), str)
        ):
            faults.add(where, "needs a whole number 'id' and a text 'name'")
        elif entry["id"] in names:
            faults.add(where, f"id {entry['id']} stands there twice; number the categories anew")
        else:
            names[entry["id"]] = entry["name"]
    return names


def _images(path: Path, raw: list[Any], faults: Faults) -> dict[object, dict[str, Any]]:
    entries: dict[object, dict[str, Any]] = {}
    files: set[str] = set()
    for number, entry in enumerate(raw):
        where = f"{path}, images[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            faults.add(where, "needs an 'id'")
        elif not isinstance(entry.get("file_name"), str):
            faults.add(where, "needs a text 'file_name'")
        elif not all(isinstance(entry.get(k), int) and entry[k] > 0 for k in ("width", "height")):
            faults.add(where, f"{entry['file_name']}: 'width' and 'height' must be whole numbers above 0")
        elif entry["id"] in entries:
            faults.add(where, f"id {entry['id']} stands there twice; its boxes cannot be told apart")
        elif entry["file_name"] in files:
            faults.add(where, f"{entry['file_name']} stands there twice; merge the two entries")
        else:
            files.add(entry["file_name"])
            entries[entry["id"]] = entry
    return entries


_Box = tuple[list[float], str, Marks]


def _annotations(
    path: Path, raw: list[Any], names: Mapping[int, str], entries: Mapping[object, Any], faults: Faults
) -> dict[object, list[_Box]]:
    boxes: dict[object, list[_Box]] = {key: [] for key in entries}
    for number, entry in enumerate(raw):
        where = f"{path}, annotations[{number}]"
        if not isinstance(entry, dict):
            faults.add(where, "is no object")
            continue
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(v) in (int, float) for v in bbox):
            faults.add(where, f"'bbox' must be four numbers x, y, width, height; it is {bbox!r}")
        elif not isinstance(entry.get("image_id"), int | str) or entry["image_id"] not in boxes:
            faults.add(
                where, f"'image_id' {entry.get('image_id')!r} is no picture of the list; add it or remove the box"
            )
        elif entry.get("category_id") not in names:
            faults.add(where, f"'category_id' {entry.get('category_id')!r} is none of the categories")
        elif entry.get("iscrowd"):
            faults.add(where, "'iscrowd' marks a crowd, not a cell; give each cell its box or remove it")
        else:
            x, y, width, height = (float(v) for v in bbox)
            marks = {k: v for k, v in entry.items() if k not in _BOX_KEYS and v not in _MEANS_NOTHING}
            boxes[entry["image_id"]].append(([x, y, x + width, y + height], names[entry["category_id"]], marks))
    return boxes


def _picture(path: Path, entry: Mapping[str, Any], boxes: Sequence[_Box], faults: Faults) -> Picture | None:
    file = inside(path.parent, entry["file_name"])
    if file is None:
        faults.add(path, f"{entry['file_name']!r} does not lie beside the annotations; move the picture there")
        return None
    if not file.is_file():
        faults.add(file, f"named in {path.name} but not there; copy the picture there or remove the entry")
        return None
    return Picture(
        path=file,
        width_px=entry["width"],
        height_px=entry["height"],
        boxes=np.array([box for box, _, _ in boxes], np.float64).reshape(-1, 4),
        names=tuple(name for _, name, _ in boxes),
        split=path.stem,
        group=str(entry.get("group") or ""),
        source=str(entry.get("source") or ""),
        extra={k: v for k, v in entry.items() if k not in _IMAGE_KEYS},
        marks=tuple(marks for _, _, marks in boxes),
    )


def coco_document(data: AnnotatedSet, pictures: Sequence[Picture], files: Sequence[str]) -> dict[str, Any]:
    """A split as COCO; `files` names each picture relative to the JSON file."""
    used = dict.fromkeys([*data.classes, *(n for p in data.pictures for n in p.names)])
    numbers = {name: number for number, name in enumerate(used, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (picture, file) in enumerate(zip(pictures, files, strict=True), 1):
        entry: dict[str, Any] = {
            "id": number,
            "file_name": file,
            "width": picture.width_px,
            "height": picture.height_px,
        }
        entry |= {k: v for k, v in (("group", picture.group), ("source", picture.source)) if v}
        images.append(entry | {k: v for k, v in picture.extra.items() if k not in entry})
        for index, ((x1, y1, x2, y2), name) in enumerate(zip(picture.boxes.tolist(), picture.names, strict=True)):
            width, height = x2 - x1, y2 - y1
            box = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[name]}
            shape = {"bbox": [x1, y1, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({**box, **shape, **picture.mark(index)})
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}


def write_coco_set(data: AnnotatedSet, out: Path, faults: Faults) -> None:
    """Write `SPLIT.json` and `images/SPLIT/`; nothing is lost."""
    names = target_names(data.pictures)
    for split in data.splits:
        own = [(p, n) for p, n in zip(data.pictures, names, strict=True) if p.split == split]
        files = ["/".join(part for part in ("images", split, name) if part) for _, name in own]
        for (picture, _), file in zip(own, files, strict=True):
            copy_picture(picture.path, out / file)
        document = coco_document(data, [p for p, _ in own], files)
        (out / f"{split or 'all'}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
