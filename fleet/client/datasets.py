"""Brings labelled images to a folder: `annotations.json` and `images/`. Broken off, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fleet.client.cloud import CloudClient
from fleet.client.errors import Damaged
from fleet.contract.dataset import DatasetExport, DatasetImage

ANNOTATIONS = "annotations.json"
IMAGES = "images"
_NAME = re.compile(r"^[0-9a-zA-Z_-]{1,64}\.(jpg|png)$")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What lies in the folder now.

    Attributes:
        folder: with `annotations.json` and `images/`.
        fetched, present: images that came now, and that were there.
    """

    folder: Path
    export: DatasetExport
    fetched: int
    present: int


def download_dataset(
    client: CloudClient,
    folder: Path,
    *,
    since: datetime | None = None,
    device: str | None = None,
    reader: str | None = None,
    partial: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Downloaded:
    """Asks for the export and fetches each image that is not there yet.

    1. the export is asked for;
    2. each image is fetched, checked against its SHA-256, and put in its place whole or not at all;
    3. `annotations.json` is put beside them last: where it lies, everything it names is there.

    Images of an earlier export stay; they are not named in `annotations.json`.

    Args:
        since, device, reader, partial: filters, see `CloudClient.export_dataset`.
        progress: called with (images done, images).

    Raises:
        LinkDown: broken off; call it again.
        Rejected: the cloud refuses.
        Damaged: the cloud gives an image that is not the one it names.
        OSError: the folder cannot be written to.
    """
    export = client.export_dataset(since=since, device=device, reader=reader, partial=partial)
    images = folder / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    fetched = 0
    for done, image in enumerate(export.images, start=1):
        path = images / _checked_name(image)
        if not _is_there(path, image.sha256):
            data = client.opinion_image(image.opinion)
            if hashlib.sha256(data).hexdigest() != image.sha256:
                raise Damaged(f"image {image.file_name} is not the one that the export names ({image.sha256})")
            _write(path, data)
            fetched += 1
        progress(done, len(export.images))
    document = export.model_dump(mode="json", by_alias=True)
    _write(folder / ANNOTATIONS, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    return Downloaded(folder, export, fetched, len(export.images) - fetched)


def _checked_name(image: DatasetImage) -> str:
    if not _NAME.fullmatch(image.file_name):
        raise Damaged(f"{image.file_name!r} is no name of an image")
    return image.file_name


def _is_there(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
