"""What the pictures of the public sets are, by content: lists in `manifests/`, made from the data that was used here.

One line a picture: key, boxes by class, near-duplicate group, remark. The key is the beginning of the picture's git
blob id; the ids in full are hashed into the head of the list, so that what was fetched is compared in every bit. The
fields of `wbc_site_b` were re-encoded here, so that their key is the name and the perceptual hash of the original's
copy: the same picture, not the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.bundle.manifest import CellClass
from models.runtime.imaging import read_image
from models.runtime.results import ImageRGB
from training.data.archives import git_blob
from training.data.near_copies import fingerprint
from training.errors import DataError

FOLDER = Path(__file__).resolve().parent / "manifests"
KEY_DIGITS, GROUP_DIGITS = 16, 12
OWN_GROUP, NOTHING = "=", "-"
SAME_PICTURE_BITS = 6
"""Bits in which the hashes of a picture and its re-encoded copy may differ."""
_COUNTED = tuple(c.value for c in CellClass)


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned picture.

    Attributes:
        counts: boxes by class, in the order of `CellClass`, or all of them; () where the set has no boxes.
        group: near-duplicate group.
        remark: what the set says beside it, "" for nothing.
        look: perceptual hash, where the bytes are not pinned.
    """

    counts: tuple[int, ...]
    group: str
    remark: str
    look: int | None = None


@dataclass(frozen=True, slots=True)
class Pins:
    """The pinned pictures of a set.

    Attributes:
        name: the set's.
        sha256: of the sorted git blob ids, a line each; "" where looks are pinned.
        by_key: beginning of the git blob id, or name -> pin.
    """

    name: str
    sha256: str
    by_key: Mapping[str, Pin]

    @property
    def by_look(self) -> bool:
        """Whether pictures are known by their look instead of their bytes."""
        return not self.sha256


def load_pins(name: str) -> Pins:
    """The list of a public set.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = FOLDER / f"{name}.txt"
    try:
        head, *lines = path.read_text(encoding="ascii").splitlines()
        return Pins(name, head.partition("sha256=")[2].split()[0] if "sha256=" in head else "", dict(map(_pin, lines)))
    except (OSError, ValueError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}; install the program again") from exc


def _pin(line: str) -> tuple[str, Pin]:
    key, counts, group, remark = line.split(" ")
    name, _, look = key.partition(":")
    numbers = tuple(int(n) for n in counts.split(".")) if counts != NOTHING else ()
    return name, Pin(
        numbers,
        name[:GROUP_DIGITS] if group == OWN_GROUP else group,
        "" if remark == NOTHING else remark,
        int(look, 16) if look else None,
    )


def listing_sha256(blobs: Iterable[str]) -> str:
    """One hash over the contents of all pictures, whatever they are called."""
    return hashlib.sha256("".join(f"{blob}\n" for blob in sorted(blobs)).encode("ascii")).hexdigest()


def as_pinned(pins: Pins, paths: Iterable[Path]) -> tuple[int, int]:
    """How many pinned pictures are among these files, and how many files are not pinned.

    Raises:
        ImageError: a picture that is known by its look cannot be decoded.
    """
    seen: set[str] = set()
    others = 0
    for path in paths:
        key = path.stem if pins.by_look else git_blob(path.read_bytes())[:KEY_DIGITS]
        pin = pins.by_key.get(key)
        if pin is None or (pin.look is not None and not looks_alike(read_image(path), pin.look)):
            others += 1
        else:
            seen.add(key)
    return len(seen), others


def looks_alike(image: ImageRGB, look: int) -> bool:
    """Whether a picture is the one that was pinned by its look, however it is encoded."""
    return (int(fingerprint(image).hashes[0]) ^ look).bit_count() <= SAME_PICTURE_BITS


def manifest_text(name: str, folder: Path) -> str:
    """The list of a set as it lies in a folder: how the lists here were made, and what compares them with a folder."""
    rows = {"wbc_pbc": _labelled, "wbc_ood_dev": _plain, "wbc_site_b": _typed}.get(name, _boxed)(folder)
    blobs = [blob for blob, *_ in rows if blob]
    head = f"# {name}: {len(rows)} pictures" + (f", sha256={listing_sha256(blobs)}" if blobs else "")
    lines = sorted(" ".join((key or blob[:KEY_DIGITS], *rest)) for blob, key, *rest in rows)
    return "\n".join([head, *lines]) + "\n"


def _group(group: str, blob: str) -> str:
    return OWN_GROUP if group == blob[:GROUP_DIGITS] else group


_Row = tuple[str, str, str, str, str]


def _boxed(folder: Path) -> list[_Row]:
    rows: list[_Row] = []
    for split in ("train", "val", "test"):
        raw = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        names = {c["id"]: c["name"] for c in raw["categories"]}
        boxes: dict[int, list[str]] = {image["id"]: [] for image in raw["images"]}
        for annotation in raw["annotations"]:
            boxes[annotation["image_id"]].append(names[annotation["category_id"]])
        for image in raw["images"]:
            blob = git_blob((folder / image["file_name"]).read_bytes())
            counts = ".".join(str(boxes[image["id"]].count(name)) for name in _COUNTED)
            copies = image.get("txl_copy_in")
            remark = "+".join(copies) if copies is not None else image.get("source", "")
            rows.append((blob, "", counts, _group(image.get("group", ""), blob), remark or NOTHING))
    return rows


def _labelled(folder: Path) -> list[_Row]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    blobs = [git_blob((folder / row["file"]).read_bytes()) for row in table]
    return [
        (blob, "", NOTHING, _group(row["group"], blob), row["txl_det_split"] or NOTHING)
        for blob, row in zip(blobs, table, strict=True)
    ]


def _plain(folder: Path) -> list[_Row]:
    return [(git_blob(p.read_bytes()), "", NOTHING, OWN_GROUP, NOTHING) for p in sorted(folder.rglob("*.jpg"))]


def _typed(folder: Path) -> list[_Row]:
    raw = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    boxes: dict[int, int] = dict.fromkeys((image["id"] for image in raw["images"]), 0)
    for annotation in raw["annotations"]:
        boxes[annotation["image_id"]] += 1
    rows: list[_Row] = []
    for image in raw["images"]:
        path = folder / image["file_name"]
        look = int(fingerprint(read_image(path)).hashes[0])
        rows.append(("", f"{path.stem}:{look:016x}", str(boxes[image["id"]]), NOTHING, image["slide"]))
    return rows
