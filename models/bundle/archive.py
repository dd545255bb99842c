"""Bundles on disk: a directory, or the same files in one zip. Every byte is checked before anyone sees it."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pydantic import ValidationError

from models.bundle.canonical import (
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    check_content,
    check_files,
    check_inside,
    digest_of,
    entries_of,
    manifest_bytes,
    parse_manifest,
)
from models.bundle.errors import BundleCorruptError, BundleError, BundleMissingError, BundleWriteError
from models.bundle.manifest import MANIFEST_NAME, SCHEMA, BundleManifest

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_ZIP_MODE = (stat.S_IFREG | 0o644) << 16


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle in memory, every file verified.

    Attributes:
        manifest: what the bundle says of itself.
        digest: `sha256:<hex>` of the manifest's bytes.
        files: path -> bytes, without the manifest; read-only.
        path: where it was read from.
    """

    manifest: BundleManifest
    digest: str
    files: Mapping[str, bytes]
    path: Path


class _Container(Protocol):
    """A directory or a zip, seen as named files."""

    def names(self) -> set[str]: ...

    def read(self, name: str, limit_bytes: int) -> bytes: ...


def read_bundle(path: Path) -> Bundle:
    """Read a bundle from a directory or a `.zip` and verify it.

    1. the container holds only plain files (no link, no device, no odd name);
    2. the manifest is canonical, of a known schema, and its file list is safe;
    3. the files present are exactly the files listed;
    4. each file's size and SHA-256 match.

    Raises:
        BundleMissingError: nothing there, or no manifest in it.
        BundleCorruptError: one of the checks failed.
        BundleIncompatibleError: a schema this program does not know.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read(_Directory(path), path)
        if path.is_file():
            with _opened(path) as archive:
                return _read(_Zip(archive), path)
    except OSError as exc:
        raise BundleMissingError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except BundleError as exc:
        raise type(exc)(f"{path}: {exc}") from exc
    raise BundleMissingError(f"{path}: there is no bundle; give the path of a bundle's folder or .zip")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise BundleCorruptError("not a readable zip; fetch the bundle again") from exc


def _read(container: _Container, path: Path) -> Bundle:
    names = container.names()
    if MANIFEST_NAME not in names:
        raise BundleMissingError(f"there is no {MANIFEST_NAME}, so this is no bundle")
    raw = container.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(raw)
    listed = {entry.path for entry in manifest.files}
    if extra := sorted(names - listed - {MANIFEST_NAME}):
        raise BundleCorruptError(f"{extra[0]!r} is not listed in the manifest; remove it or pack the bundle again")
    if absent := sorted(listed - names):
        raise BundleCorruptError(f"{absent[0]!r} is listed in the manifest but absent; fetch the bundle again")
    files: dict[str, bytes] = {}
    for entry in manifest.files:
        data = container.read(entry.path, entry.size_bytes)
        check_content(entry, data)
        files[entry.path] = data
    return Bundle(manifest, digest_of(raw), MappingProxyType(files), path)


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> set[str]:
        found: set[str] = set()
        pending = [self._root]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        raise BundleCorruptError(f"{entry.name!r} is a link; a bundle holds only plain files")
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        found.add(Path(entry.path).relative_to(self._root).as_posix())
                    else:
                        raise BundleCorruptError(f"{entry.name!r} is no plain file")
                    _check_count(len(found) + len(pending))
        return found

    def read(self, name: str, limit_bytes: int) -> bytes:
        # O_NOFOLLOW: a file swapped for a link after `names()` looked is refused, not followed.
        descriptor = os.open(self._root / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            return _bounded(name, file.read(limit_bytes + 1), limit_bytes)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def names(self) -> set[str]:
        found: set[str] = set()
        for info in self._archive.infolist():
            check_inside(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG) or info.flag_bits & 0x1:
                raise BundleCorruptError(f"{info.filename!r} is no plain file; a bundle holds only plain files")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BundleCorruptError(f"{info.filename!r} is packed in another way than a bundle's files are")
            if info.filename in found:
                raise BundleCorruptError(f"{info.filename!r} is in the zip twice")
            found.add(info.filename)
            _check_count(len(found))
        return found

    def read(self, name: str, limit_bytes: int) -> bytes:
        try:
            with self._archive.open(name) as file:
                return _bounded(name, file.read(limit_bytes + 1), limit_bytes)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as exc:
            raise BundleCorruptError(f"{name} cannot be read from the zip; fetch the bundle again") from exc


def _bounded(name: str, data: bytes, limit_bytes: int) -> bytes:
    if len(data) > limit_bytes:
        raise BundleCorruptError(f"{name} has more than the {limit_bytes} bytes expected; fetch the bundle again")
    return data


def _check_count(count: int) -> None:
    if count > MAX_FILES + 1:
        raise BundleCorruptError(f"more than {MAX_FILES} files; this is no bundle")


def write_bundle(directory: Path, manifest_fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle as a directory, atomically; an older bundle in its place is replaced.

    Args:
        directory: where it goes; absent, empty, or an older bundle.
        manifest_fields: the manifest's fields without `schema` and `files`.
        files: relative POSIX path -> bytes, without the manifest.

    Returns:
        The bundle as read back from disk.

    Raises:
        BundleWriteError: fields or files that no reader would accept, or a directory that holds something else.
    """
    directory = Path(directory)
    try:
        manifest = BundleManifest.model_validate({**manifest_fields, "schema": SCHEMA, "files": entries_of(files)})
        check_files(manifest.files)
    except ValidationError as exc:
        raise BundleWriteError(f"the manifest would not be valid: {exc}") from exc
    except BundleError as exc:
        raise BundleWriteError(str(exc)) from exc
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not (directory / MANIFEST_NAME).is_file():
        raise BundleWriteError(f"{directory} holds something that is no bundle; choose another place")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        fresh = Path(scratch) / "new"
        for name, data in {MANIFEST_NAME: manifest_bytes(manifest), **files}.items():
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if directory.exists():
            directory.rename(Path(scratch) / "old")
        fresh.rename(directory)
        shutil.rmtree(Path(scratch) / "old", ignore_errors=True)
    return read_bundle(directory)


def pack_zip(bundle: Bundle, target: Path) -> None:
    """Write a bundle as one zip: the same bundle always gives the same bytes.

    Stored, not compressed: the compressor's output differs between its versions, and int8 weights hardly shrink.
    """
    content = {MANIFEST_NAME: manifest_bytes(bundle.manifest), **dict(sorted(bundle.files.items()))}
    scratch = target.with_name(f".{target.name}.part")
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            info = zipfile.ZipInfo(name, _ZIP_EPOCH)
            info.create_system, info.external_attr = 3, _ZIP_MODE
            archive.writestr(info, data)
    scratch.replace(target)
