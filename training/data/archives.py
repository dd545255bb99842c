"""Members of a downloaded archive, one after the other, in memory: nothing is unpacked under a name it chose itself."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from models.runtime.imaging import MAX_IMAGE_BYTES
from training.errors import DataError

MAX_MEMBERS = 500_000
MAX_NESTED_BYTES = 2 * 1024**3


def git_blob(content: bytes) -> str:
    """The id that git gives a file of this content, 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a tar or zip, and in zips inside it; members over 64 MB are passed over.

    Raises:
        DataError: no archive, or a damaged one.
    """
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                yield from _zip(stream, nested=True)
        else:
            yield from _tar(path)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as exc:
        raise DataError(f"{path}: cannot be read as an archive ({exc}); delete it and fetch again") from exc


def _tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for number, member in enumerate(archive):
            _bounded(path, number)
            if member.isfile() and member.size <= MAX_IMAGE_BYTES and (stream := archive.extractfile(member)):
                yield member.name, stream.read()


def _zip(stream: IO[bytes], *, nested: bool) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(stream) as archive:
        for number, info in enumerate(archive.infolist()):
            _bounded(Path(info.filename), number)
            if nested and info.filename.lower().endswith(".zip") and info.file_size <= MAX_NESTED_BYTES:
                yield from _zip(io.BytesIO(archive.read(info)), nested=False)
            elif not info.is_dir() and info.file_size <= MAX_IMAGE_BYTES:
                yield info.filename, archive.read(info)


def _bounded(path: Path, number: int) -> None:
    if number >= MAX_MEMBERS:
        raise DataError(f"{path}: has more than {MAX_MEMBERS} members")
