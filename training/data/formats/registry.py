"""Which format a folder has, and reading and writing by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.data.formats.annotated import AnnotatedSet, Faults
from training.data.formats.coco import read_coco_set, write_coco_set
from training.data.formats.files import fresh_folder, is_picture
from training.data.formats.image_folder import read_image_folder, split_folders, write_image_folder
from training.data.formats.voc import ANNOTATIONS, read_voc_set, write_voc_set
from training.data.formats.yolo import DESCRIPTION, read_yolo_set, write_yolo_set
from training.errors import DataError


class Format(StrEnum):
    """Names as the command line takes them."""

    COCO = "coco"
    VOC = "voc"
    YOLO = "yolo"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class _Codec:
    read: Callable[[Path, Faults], AnnotatedSet]
    write: Callable[[AnnotatedSet, Path, Faults], None]


_CODECS = {
    Format.COCO: _Codec(read_coco_set, write_coco_set),
    Format.VOC: _Codec(read_voc_set, write_voc_set),
    Format.YOLO: _Codec(read_yolo_set, write_yolo_set),
    Format.FOLDER: _Codec(read_image_folder, write_image_folder),
}


def format_of(path: Path) -> Format:
    """The format of a folder or a JSON file, by what lies in it.

    Raises:
        DataError: it is not there, or looks like none of them.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such folder; `ahs-train data list` shows what is there")
    if path.is_file():
        if path.suffix.lower() == ".json":
            return Format.COCO
        raise DataError(f"{path}: is neither a folder nor a COCO file (.json)")
    if (path / DESCRIPTION).is_file():
        return Format.YOLO
    if (path / ANNOTATIONS).is_dir():
        return Format.VOC
    if any(path.glob("*.json")):
        return Format.COCO
    for _, folder in split_folders(path):
        if any(p.is_dir() and any(is_picture(f) for f in p.rglob("*")) for p in folder.iterdir()):
            return Format.FOLDER
    raise DataError(
        f"{path}: looks like none of the formats: COCO (a .json file), VOC (a folder {ANNOTATIONS}/), "
        f"YOLO ({DESCRIPTION}), ImageFolder (a folder a class); say which with --from"
    )


def read_set(path: Path, faults: Faults, form: Format | None = None) -> AnnotatedSet:
    """Read a data set; what cannot be read is a fault.

    Raises:
        DataError: there is nothing of that format.
    """
    form = form or format_of(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such folder")
    data = _CODECS[form].read(path, faults)
    if not data.pictures and not faults.grave:
        faults.add(path, f"holds no picture that {form} names; is the data set complete?")
    return data


def write_set(data: AnnotatedSet, out: Path, form: Format, faults: Faults) -> None:
    """Write a data set into a new folder; what the format cannot hold is a note.

    Raises:
        DataError: the folder is not empty, or the format cannot hold such a set at all.
    """
    if form is not Format.FOLDER and not data.has_boxes:
        raise DataError(f"{form} holds boxes, and this set has one class a picture; ImageFolder (folder) holds that")
    if form is Format.FOLDER and data.has_boxes:
        raise DataError("ImageFolder holds one class a picture and no boxes; convert this set to coco, voc or yolo")
    _CODECS[form].write(data, fresh_folder(out), faults)
