"""Everything that is wrong with a data set, in one go: its files, its boxes, and every picture decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

from models.runtime.errors import ImageError
from models.runtime.imaging import decode_image
from training.data.formats.annotated import KNOWN_CLASSES, AnnotatedSet, Faults, Picture, judge, judge_classes

Progress = Callable[[int, int], None]


def no_progress(done: int, of: int) -> None:
    """Says nothing."""


def check_set(
    data: AnnotatedSet, faults: Faults, *, known: Collection[str] = KNOWN_CLASSES, progress: Progress = no_progress
) -> None:
    """Add to `faults` whatever is wrong.

    1. boxes and classes (`judge_classes`, `judge`);
    2. each picture decodes as it would on the device, to the size that its annotation names;
    3. no picture stands in two splits, byte for byte; twice in one split is a note.
    """
    seen: dict[str, Picture] = {}
    judge_classes(data, faults, known=known)
    for number, picture in enumerate(data.pictures, 1):
        judge(picture, faults)
        if (content := _content(picture.path, faults)) is not None:
            _decodes(picture, content, faults)
            _only_once(picture, hashlib.sha256(content).hexdigest(), seen, faults)
        progress(number, len(data.pictures))


def _content(path: Path, faults: Faults) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as exc:
        faults.add(path, f"cannot be read ({exc.strerror}); copy the picture again")
        return None


def _decodes(picture: Picture, content: bytes, faults: Faults) -> None:
    try:
        height, width = decode_image(content).shape[:2]
    except ImageError as exc:
        faults.add(picture.path, f"{exc}; take the picture again or leave it out")
        return
    if (width, height) == (picture.width_px, picture.height_px):
        return
    said = f"{picture.width_px}x{picture.height_px}"
    if (height, width) == (picture.width_px, picture.height_px):
        faults.add(
            picture.path,
            f"its EXIF turns it to {width}x{height} px, and it was annotated unturned as {said}: save the picture "
            "without EXIF orientation, or annotate it again upright",
        )
    else:
        faults.add(
            picture.path, f"has {width}x{height} px, its annotation says {said}; annotate the picture that is there"
        )


def _only_once(picture: Picture, digest: str, seen: dict[str, Picture], faults: Faults) -> None:
    first = seen.setdefault(digest, picture)
    if first is picture:
        return
    if first.split != picture.split:
        faults.add(
            picture.path,
            f"is the same file as {first.path} of {first.split or 'no split'}; split anew by group (data split)",
        )
    elif first.kind != picture.kind:
        faults.add(
            picture.path, f"is the same file as {first.path}, which is called {first.kind}; decide for one class"
        )
    else:
        faults.note(picture.path, f"is the same file as {first.path}")
