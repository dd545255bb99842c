"""The one byte form of a manifest, its digest, and which paths may stand in it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import ValidationError

from models.bundle.errors import BundleCorruptError, BundleEscapeError, BundleIncompatibleError
from models.bundle.manifest import (
    CARD_NAME,
    DETECTOR_NAME,
    EMBEDDER_NAME,
    HEAD_NAME,
    MANIFEST_NAME,
    SCHEMA,
    BundleManifest,
    FileEntry,
)

MAX_MANIFEST_BYTES = 1024 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_BUNDLE_BYTES = 1024 * 1024 * 1024
MAX_FILES = 256

REQUIRED_FILES = (DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME, CARD_NAME)
"""Without these a bundle cannot be used. Golden inputs are asked for by the self-test."""


def manifest_bytes(manifest: BundleManifest) -> bytes:
    """The manifest as UTF-8 JSON: sorted keys, two spaces, one newline at the end."""
    return _dumps(manifest.model_dump(mode="json", by_alias=True))


def digest_of(manifest: bytes) -> str:
    """`sha256:<hex>` of the manifest's bytes: the bundle's identity."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def parse_manifest(data: bytes) -> BundleManifest:
    """Read and check a manifest.

    Raises:
        BundleCorruptError: not JSON, not in canonical form, or its file list is unsafe or incomplete.
        BundleIncompatibleError: another schema, or fields that do not follow this one.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleCorruptError(f"{MANIFEST_NAME} has {len(data)} bytes, more than {MAX_MANIFEST_BYTES} allowed")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BundleCorruptError(f"{MANIFEST_NAME} is not JSON; fetch the bundle again") from exc
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise BundleIncompatibleError(
            f"the bundle's schema is {schema!r}, this program reads {SCHEMA!r}; update the program"
        )
    if _dumps(raw) != data:
        raise BundleCorruptError(f"{MANIFEST_NAME} is not in canonical form; it was edited by hand, pack it again")
    try:
        manifest = BundleManifest.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleIncompatibleError(
            f"{MANIFEST_NAME}: {place}: {first['msg']}; update the program or pack again"
        ) from exc
    check_files(manifest.files)
    return manifest


def check_files(entries: Iterable[FileEntry]) -> None:
    """Refuse a file list that is unsafe, doubled, too large or incomplete.

    Raises:
        BundleCorruptError: which entry and why.
    """
    seen: set[str] = set()
    total_bytes = 0
    for entry in entries:
        check_path(entry.path)
        # Case-folded: two names that differ only in case are one file on some file systems.
        if entry.path.casefold() in seen:
            raise BundleCorruptError(f"{entry.path!r} is listed twice")
        seen.add(entry.path.casefold())
        if entry.size_bytes > MAX_FILE_BYTES:
            raise BundleCorruptError(f"{entry.path!r} has {entry.size_bytes} bytes, more than {MAX_FILE_BYTES} allowed")
        total_bytes += entry.size_bytes
    if len(seen) > MAX_FILES or total_bytes > MAX_BUNDLE_BYTES:
        raise BundleCorruptError(f"{len(seen)} files with {total_bytes} bytes are more than a bundle may hold")
    missing = [name for name in REQUIRED_FILES if name not in seen]
    if missing:
        raise BundleCorruptError(f"the bundle lacks {', '.join(missing)}")


def check_path(path: str) -> None:
    """Refuse a path that is absolute, escapes the bundle's root or is not in its plain form.

    Raises:
        BundleEscapeError: it leads out of the bundle.
        BundleCorruptError: the path must not be used.
    """
    check_inside(path)
    if str(PurePosixPath(path)) != path or path in (".", MANIFEST_NAME):
        raise BundleCorruptError(f"{path!r} is not a safe path inside a bundle")


def check_inside(path: str) -> None:
    """Refuse a path that leads out of the bundle's root, on whatever system it is read.

    Raises:
        BundleEscapeError: it does.
    """
    for plain in (PurePosixPath(path), PureWindowsPath(path)):
        if plain.anchor or ".." in plain.parts:
            raise BundleEscapeError(f"{path!r} is not a safe path inside a bundle: it reaches out of it")


def check_content(entry: FileEntry, data: bytes) -> None:
    """Compare a file's bytes with its entry.

    Raises:
        BundleCorruptError: size or hash differ.
    """
    if len(data) != entry.size_bytes:
        raise BundleCorruptError(
            f"{entry.path} has {len(data)} bytes, the manifest says {entry.size_bytes}; fetch the bundle again"
        )
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleCorruptError(f"{entry.path} is not the file the manifest names; fetch the bundle again")


def entries_of(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """The manifest's file list of some files, sorted by path."""
    return tuple(
        FileEntry(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in sorted(files.items())
    )


def _dumps(raw: Any) -> bytes:
    return (json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
