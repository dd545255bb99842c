"""VOC: one XML file a picture in `Annotations/`, pictures in `JPEGImages/`, splits in `ImageSets/Main/`.

Corners are taken as pixel edges, as most tools write them today; the original VOC counted pixels from 1, inclusive.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.data.formats.annotated import NO_MARKS, AnnotatedSet, Faults, Marks, Picture
from training.data.formats.files import (
    copy_picture,
    is_picture,
    size_of,
    target_names,
    text_of,
    with_table,
    write_table,
)

ANNOTATIONS, IMAGES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MARKS = ("pose", "truncated", "difficult", "occluded")
_UNSAID = {"pose": "Unspecified", "truncated": "0", "difficult": "0", "occluded": "0"}


def read_voc_set(root: Path, faults: Faults) -> AnnotatedSet:
    """Read a folder of VOC annotations."""
    split_of = _splits(root, faults)
    by_stem = {p.stem: p for p in sorted((root / IMAGES).glob("*")) if is_picture(p)}
    pictures, used = [], set()
    stems = {p.stem for p in (root / ANNOTATIONS).glob("*.xml")}
    for stem in sorted(stems):
        path = root / ANNOTATIONS / f"{stem}.xml"
        found = by_stem.get(stem)
        if found is None:
            faults.add(path, f"no picture of that name in {IMAGES}/; copy it there or remove the annotation")
            continue
        used.add(stem)
        picture = _picture(path, found, split_of.get(stem, ""), faults)
        if picture is not None:
            pictures.append(picture)
    for stem in sorted(set(by_stem) - used):
        faults.add(
            by_stem[stem], f"has no {ANNOTATIONS}/{stem}.xml; annotate it, empty if it holds no cell, or remove it"
        )
    for stem in sorted(set(split_of) - stems):
        faults.add(root / SPLITS / f"{split_of[stem]}.txt", f"names {stem}, which has no annotation")
    pictures = with_table(root, pictures, faults)
    return AnnotatedSet(tuple(dict.fromkeys(n for p in pictures for n in p.names)), tuple(pictures))


def _splits(root: Path, faults: Faults) -> dict[str, str]:
    """Picture -> split; `trainval` is no split of its own."""
    split_of: dict[str, str] = {}
    for path in sorted((root / SPLITS).glob("*.txt")):
        if path.stem == "trainval":
            continue
        for number, line in enumerate((text_of(path, faults) or "").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if split_of.get(words[0], path.stem) != path.stem:
                faults.add(f"{path}, line {number}", f"{words[0]} stands in {split_of[words[0]]}.txt too; remove one")
            split_of[words[0]] = path.stem
    return split_of


def _picture(path: Path, file: Path, split: str, faults: Faults) -> Picture | None:
    text = text_of(path, faults)
    if text is None:
        return None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        faults.add(path, "declares entities, which an annotation does not need; save it without")
        return None
    try:
        tree = ET.fromstring(text)
    except ET.ParseError as exc:
        faults.add(path, f"is no XML: {exc}")
        return None
    size = size_of(file, faults)
    if size is None:
        return None
    said = tuple(tree.findtext(f"size/{side}") for side in ("width", "height"))
    if any(v and v.strip() != "0" for v in said) and said != tuple(str(v) for v in size):
        faults.add(path, f"<size> says {said[0]}x{said[1]}, the picture has {size[0]}x{size[1]} px; annotate it again")
    boxes, names, marks = [], [], []
    for number, entry in enumerate(tree.iter("object"), 1):
        where = f"{path}, object {number}"
        name = (entry.findtext("name") or "").strip()
        if not name:
            faults.add(where, "has no <name>")
            continue
        try:
            box = [float(entry.findtext(f"bndbox/{corner}") or "nothing") for corner in _CORNERS]
        except ValueError:
            faults.add(where, f"({name}) needs numbers in <bndbox>: {', '.join(_CORNERS)}")
            continue
        boxes.append(box)
        names.append(name)
        marks.append(_marks(entry))
    return Picture(
        path=file,
        width_px=size[0],
        height_px=size[1],
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        names=tuple(names),
        split=split,
        marks=tuple(marks) if any(marks) else (),
    )


def _marks(entry: ET.Element) -> Marks:
    found = {key: (entry.findtext(key) or "").strip() for key in _MARKS}
    kept = {key: value for key, value in found.items() if value and value != _UNSAID[key]}
    return kept or NO_MARKS


def write_voc_set(data: AnnotatedSet, out: Path, faults: Faults) -> None:
    """Write annotations, pictures and splits; marks that VOC does not know are named as lost."""
    names = target_names([_without_split(p) for p in data.pictures])
    (out / ANNOTATIONS).mkdir(parents=True)
    (out / IMAGES).mkdir(parents=True)
    lost: dict[str, int] = {}
    lines: dict[str, list[str]] = {}
    for picture, name in zip(data.pictures, names, strict=True):
        copy_picture(picture.path, out / IMAGES / name)
        stem = Path(name).stem
        lines.setdefault(picture.split, []).append(stem)
        _write_xml(picture, name, out / ANNOTATIONS / f"{stem}.xml")
        for index in range(len(picture.names)):
            for key in set(picture.mark(index)) - set(_MARKS):
                lost[key] = lost.get(key, 0) + 1
    for split, stems in lines.items():
        if split:
            (out / SPLITS).mkdir(parents=True, exist_ok=True)
            (out / SPLITS / f"{split}.txt").write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")
    for key, count in sorted(lost.items()):
        faults.note(out, f"VOC has no place for {key!r} of {count} boxes; COCO keeps it")
    write_table(out, ((f"{IMAGES}/{name}", p) for p, name in zip(data.pictures, names, strict=True)))


def _without_split(picture: Picture) -> Picture:
    """All pictures of VOC lie in one folder, so that names are told apart over all splits."""
    return Picture(picture.path, picture.width_px, picture.height_px, picture.boxes, picture.names)


def _write_xml(picture: Picture, name: str, path: Path) -> None:
    top = ET.Element("annotation")
    _texts(top, {"folder": IMAGES, "filename": name})
    if picture.source:
        _texts(ET.SubElement(top, "source"), {"database": picture.source})
    _texts(ET.SubElement(top, "size"), {"width": picture.width_px, "height": picture.height_px, "depth": 3})
    for index, (box, cls) in enumerate(zip(picture.boxes.tolist(), picture.names, strict=True)):
        entry = ET.SubElement(top, "object")
        marks = {key: picture.mark(index).get(key, _UNSAID[key]) for key in ("pose", "truncated", "difficult")}
        if "occluded" in picture.mark(index):
            marks["occluded"] = picture.mark(index)["occluded"]
        _texts(entry, {"name": cls, **marks})
        corners = {k: int(v) if float(v).is_integer() else v for k, v in zip(_CORNERS, box, strict=True)}
        _texts(ET.SubElement(entry, "bndbox"), corners)
    ET.indent(top)
    path.write_bytes(ET.tostring(top, encoding="utf-8"))


def _texts(parent: ET.Element, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        ET.SubElement(parent, key).text = repr(value) if isinstance(value, float) else str(value)
