"""From the archives of the public sets to the layout that training reads, every picture compared with its pin.

1. The archives are gone through once; a picture is taken if its content is pinned, a text if the set needs it.
2. No pinned picture may be missing, and the hash over all contents must be the pinned one.
3. The set is read in the source's own format, its boxes are cut to the frame and double ones left out, and the boxes of
   each picture are counted: they must be those that were counted here.
4. It is written, with groups, sources and splits, as COCO or as folders of types.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from models.bundle.manifest import CellClass, WhiteCellType
from models.runtime.errors import ImageError
from models.runtime.imaging import decode_image
from training.data.archives import git_blob
from training.data.formats.annotated import AnnotatedSet, Faults, Picture, mended
from training.data.formats.coco import coco_document, read_coco_file, write_coco_set
from training.data.formats.files import copy_picture, size_of
from training.data.formats.voc import read_voc_set
from training.data.formats.yolo import read_yolo_set
from training.data.pinned import KEY_DIGITS, Pin, Pins, listing_sha256, looks_alike
from training.errors import DataError

BOX_DECIMALS = 3
"""YOLO's six decimals of a field of 640 px are worth no more."""

_TXL = re.compile(r"(?:^|/)TXL_PBC/((images|labels)/(?:train|val|test)/[\w-]+\.(?:jpg|txt))$")
_BCCD = re.compile(r"(?:^|/)BCCD/((?:JPEGImages|Annotations)/\w+\.(?:jpg|xml)|ImageSets/Main/(?:train|val|test)\.txt)$")
_PBC = re.compile(r"(?:^|/)PBC_dataset_normal_DIB/(\w+/[\w.-]+\.jpg)$")
_WBCATT = re.compile(r"(?:^|/)submission/(pbc_attr_v1_(?:train|val|test)\.csv)$")
_SITE_B = re.compile(r"(?:^|/)WBC_Samples/(?:train|valid)/((?:images|labels)/[\w-]+\.(?:jpg|txt))$")
_SITE_B_ORDER = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
_ATTRIBUTES = (
    *("cell_size", "cell_shape", "nucleus_shape", "nuclear_cytoplasmic_ratio", "chromatin_density"),
    *("cytoplasm_vacuole", "cytoplasm_texture", "cytoplasm_colour", "granule_type", "granule_colour", "granularity"),
)

Members = Iterable[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Staged:
    """What was taken from the archives.

    Attributes:
        pins: path below the stage -> pin of each picture.
        blobs: path below the stage -> git blob id of each picture.
        texts: path below the stage -> each text.
    """

    pins: Mapping[str, Pin]
    blobs: Mapping[str, str]
    texts: Mapping[str, bytes]


def stage(archives: Members, pins: Pins, wanted: Iterable[re.Pattern[str]], folder: Path) -> Staged:
    """Take pinned pictures and wanted texts out of the archives.

    Raises:
        DataError: pinned pictures are missing, or the contents are others than the pinned ones.
    """
    patterns = tuple(wanted)
    found: dict[str, Pin] = {}
    blobs: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    taken: set[str] = set()
    for name, content in archives:
        match = next((m for p in patterns if (m := p.search(name))), None)
        if match is None:
            continue
        place = match.group(1)
        if not place.endswith(".jpg"):
            texts[place] = content
            continue
        blob = git_blob(content)
        key = PurePosixPath(place).stem if pins.by_look else blob[:KEY_DIGITS]
        pin = pins.by_key.get(key)
        if pin is None or key in taken or not _looks_like(content, pin):
            continue
        taken.add(key)
        found[place], blobs[place] = pin, blob
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if missing := sorted(set(pins.by_key) - taken):
        raise DataError(
            f"{pins.name}: {len(missing)} of {len(pins.by_key)} pinned pictures are not in the archive (the first: "
            f"{missing[0]}): the source has changed, or is another one; nothing was taken over"
        )
    if not pins.by_look and (have := listing_sha256(blobs.values())) != pins.sha256:
        raise DataError(
            f"{pins.name}: the pictures' contents are {have}, pinned are {pins.sha256}; nothing was taken over"
        )
    return Staged(found, blobs, texts)


def _looks_like(content: bytes, pin: Pin) -> bool:
    if pin.look is None:
        return True
    try:
        return looks_alike(decode_image(content), pin.look)
    except ImageError:
        return False


def build(name: str, archives: Members, pins: Pins, work: Path, out: Path) -> Faults:
    """Make a public set.

    Args:
        name: one of `BUILDERS`.
        archives: members of its archives, one archive after the other.
        pins: its pictures.
        work: empty folder for what is taken out.
        out: empty folder of the set.

    Returns:
        what was repaired, as notes.

    Raises:
        DataError: what the archives hold is not what was pinned, or cannot be read.
    """
    return _BUILDERS[name](archives, pins, work, out)


def _txl(archives: Members, pins: Pins, work: Path, out: Path) -> Faults:
    staged = stage(archives, pins, [_TXL], work)
    stems = {PurePosixPath(p).stem for p in staged.pins}
    _write_texts(work, {p: t for p, t in staged.texts.items() if PurePosixPath(p).stem in stems})
    _describe(work, ["WBC", "RBC", "Platelets"], {s: f"images/{s}" for s in ("train", "val", "test")})
    faults = Faults()
    data = _finished(read_yolo_set(work, faults), staged, work, faults)
    data = AnnotatedSet(data.classes, tuple(replace(p, source=_pin_of(staged, p, work).remark) for p in data.pictures))
    write_coco_set(data, out, faults)
    _write_clean(out)
    return faults


def _bccd(archives: Members, pins: Pins, work: Path, out: Path) -> Faults:
    staged = stage(archives, pins, [_BCCD], work)
    stems = {PurePosixPath(p).stem for p in staged.pins}
    texts = {p: t for p, t in staged.texts.items() if PurePosixPath(p).stem in stems}
    for place, content in staged.texts.items():
        if place.startswith("ImageSets/"):
            lines = [line for line in content.decode("utf-8", "replace").splitlines() if line.split()[:1]]
            texts[place] = "".join(f"{n}\n" for line in lines if (n := line.split()[0]) in stems).encode()
    _write_texts(work, texts)
    faults = Faults()
    data = _finished(read_voc_set(work, faults), staged, work, faults)
    pictures = []
    for picture in data.pictures:
        copies = _pin_of(staged, picture, work).remark
        extra = {**picture.extra, "txl_copy_in": copies.split("+") if copies else []}
        pictures.append(replace(picture, source="BCCD", extra=extra, marks=()))
    write_coco_set(AnnotatedSet(data.classes, tuple(pictures)), out, faults)
    return faults


def _site_b(archives: Members, pins: Pins, work: Path, out: Path) -> Faults:
    staged = stage(archives, pins, [_SITE_B], work)
    stems = {PurePosixPath(p).stem for p in staged.pins}
    _write_texts(work, {p: t for p, t in staged.texts.items() if PurePosixPath(p).stem in stems})
    _describe(work, list(_SITE_B_ORDER), {"test": "images"})
    faults = Faults()
    data = _finished(read_yolo_set(work, faults), staged, work, faults)
    pictures = [
        replace(
            p, split="annotations", source="singgihbekti/WBC_Dataset", extra={"slide": _pin_of(staged, p, work).remark}
        )
        for p in data.pictures
    ]
    write_coco_set(AnnotatedSet(_SITE_B_ORDER, tuple(pictures)), out, faults)
    return faults


def _pbc(archives: Members, pins: Pins, work: Path, out: Path) -> Faults:
    staged = stage(archives, pins, [_PBC, _WBCATT], work)
    said: dict[str, dict[str, str]] = {}
    for place, text in staged.texts.items():
        split = place.removeprefix("pbc_attr_v1_").removesuffix(".csv")
        for row in csv.DictReader(text.decode("utf-8").splitlines()):
            said[row["img_name"]] = {**row, "split": split}
    faults, rows = Faults(), []
    for place, pin in sorted(staged.pins.items()):
        file = PurePosixPath(place).name
        row = said.get(file, {"label": ""})
        size = size_of(work / place, faults)
        if row["label"].lower() not in {t.value for t in WhiteCellType} or size is None:
            faults.add(place, "has no label among the five types; the labels have changed")
            continue
        cls, split = row["label"].lower(), row["split"]
        target = f"{split}/{cls}/{file}"
        copy_picture(work / place, out / target)
        what = (target, split, cls, *size, pin.group, pin.remark, staged.blobs[place])
        rows.append((*what, *(row.get(a, "") for a in _ATTRIBUTES)))
    faults.refuse()
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        head = ("file", "split", "class", "width", "height", "group", "txl_det_split", "git_blob", *_ATTRIBUTES)
        writer.writerow(head)
        writer.writerows(sorted(rows))
    return faults


def _erythroblasts(archives: Members, pins: Pins, work: Path, out: Path) -> Faults:
    staged = stage(archives, pins, [_PBC], work)
    for place in staged.pins:
        copy_picture(work / place, out / "erythroblast" / PurePosixPath(place).name)
    return Faults()


_BUILDERS = {"det_txl": _txl, "det_bccd": _bccd, "wbc_pbc": _pbc, "wbc_ood_dev": _erythroblasts, "wbc_site_b": _site_b}
BUILDERS = frozenset(_BUILDERS)


def _pin_of(staged: Staged, picture: Picture, work: Path) -> Pin:
    return staged.pins[picture.path.relative_to(work).as_posix()]


def _write_texts(work: Path, texts: Mapping[str, bytes]) -> None:
    for place, content in texts.items():
        path = work / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _describe(work: Path, names: list[str], folders: Mapping[str, str]) -> None:
    (work / "data.yaml").write_text(yaml.safe_dump({"names": names, **folders}), encoding="utf-8")


def _finished(data: AnnotatedSet, staged: Staged, work: Path, faults: Faults) -> AnnotatedSet:
    """Boxes repaired, rounded and counted; groups as pinned."""
    pictures = []
    for picture in data.pictures:
        pin = _pin_of(staged, picture, work)
        done = mended(picture, faults)
        done = replace(done, boxes=np.asarray(done.boxes.round(BOX_DECIMALS)), group=pin.group)
        counts = tuple(_counts(done, len(pin.counts)))
        if counts != pin.counts:
            faults.add(picture.path, f"has {counts} boxes, pinned are {pin.counts}: the labels have changed")
        blob = staged.blobs[picture.path.relative_to(work).as_posix()]
        pictures.append(replace(done, extra={"official_split": done.split, "git_blob": blob}))
    faults.refuse()
    return AnnotatedSet(tuple(sorted(data.classes)), tuple(pictures))


def _counts(picture: Picture, kinds: int) -> Iterator[int]:
    if kinds == 1:
        yield len(picture.names)
    else:
        yield from (picture.names.count(c.value) for c in CellClass)


def _write_clean(out: Path) -> None:
    """`test_clean.json`: the fields of test without a near-copy in train or val."""
    faults = Faults()
    parts = {split: read_coco_file(out / f"{split}.json", faults) for split in ("train", "val", "test")}
    faults.refuse()
    taken = {p.group for split in ("train", "val") for p in parts[split].pictures}
    kept = [p for p in parts["test"].pictures if p.group not in taken]
    document = coco_document(parts["test"], kept, [p.path.relative_to(out).as_posix() for p in kept])
    (out / "test_clean.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
