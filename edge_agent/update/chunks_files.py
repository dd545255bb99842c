"""Chunks on the disk, named by their hash, and releases put together from them and from what is installed already.

A chunk is checked when it arrives and again when it is used, so that neither the network nor the disk can slip one in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from edge_agent.update.errors import NoSpace
from fleet.contract.release import ReleaseTarget

MARGIN_BYTES = 16 * 1024 * 1024
"""Room that is left to others beside what a release needs."""


class Arrival(StrEnum):
    """What became of a chunk that arrived."""

    STORED = "stored"
    KNOWN = "known"
    """It is here already."""
    FOREIGN = "foreign"
    """It belongs to no release that is wanted."""
    FALSE = "false"
    """It is not what its name says."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where the bytes of a chunk lie inside an installed archive."""

    archive: Path
    offset: int
    size_bytes: int


class ChunkStore:
    """Chunks of one release at a time.

    Args:
        folder: for chunks alone; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self._parts: dict[str, Part] = {}

    def prepare(self, release: ReleaseTarget, installed: Iterable[tuple[ReleaseTarget, Path]]) -> frozenset[str]:
        """Makes ready for a release and says which of its chunks are missing.

        Args:
            release: what is wanted.
            installed: releases whose archives lie on this disk; their bytes are used again.

        Raises:
            NoSpace: the rest of the release and its archive do not fit.
        """
        with _told():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sizes = {chunk.sha256: chunk.size_bytes for chunk in release.chunks}
            on_disk = {name for name in self._sizes if self._has(name)}
            self._parts = {}
            for other, archive in installed:
                self._parts |= _shared(self._sizes.keys() - on_disk - self._parts.keys(), other, archive)
            missing = frozenset(self._sizes.keys() - on_disk - self._parts.keys())
            needed = sum(self._sizes[name] for name in missing) + release.size_bytes + MARGIN_BYTES
            free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise NoSpace(f"{needed / 2**20:.0f} MB are needed, {free / 2**20:.0f} MB are free")
        return missing

    def put(self, sha256: str, data: bytes) -> Arrival:
        """Takes bytes that arrived under the name of a chunk.

        Raises:
            NoSpace: they could not be written.
        """
        size_bytes = self._sizes.get(sha256)
        if size_bytes is None:
            return Arrival.FOREIGN
        if sha256 in self._parts or self._has(sha256):
            return Arrival.KNOWN
        if len(data) != size_bytes or hashlib.sha256(data).hexdigest() != sha256:
            return Arrival.FALSE
        scratch = self._folder / f".{sha256}"
        with _told():
            scratch.write_bytes(data)
            scratch.replace(self._folder / sha256)
        return Arrival.STORED

    def assemble(self, release: ReleaseTarget, file: BinaryIO) -> frozenset[str]:
        """Writes the archive, each chunk checked once more.

        Returns:
            Chunks that are missing or damaged, which are forgotten; the archive is then of no use.

        Raises:
            NoSpace: it could not be written.
        """
        bad = set()
        with _told():
            for chunk in release.chunks:
                data = self._read(chunk.sha256, chunk.size_bytes)
                if hashlib.sha256(data).hexdigest() != chunk.sha256:
                    bad.add(chunk.sha256)
                    self._parts.pop(chunk.sha256, None)
                    (self._folder / chunk.sha256).unlink(missing_ok=True)
                elif not bad:
                    file.write(data)
        return frozenset(bad)

    def clear(self) -> None:
        """Deletes every chunk."""
        self._sizes, self._parts = {}, {}
        with _told():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _has(self, sha256: str) -> bool:
        try:
            return (self._folder / sha256).stat().st_size == self._sizes[sha256]
        except OSError:
            return False

    def _read(self, sha256: str, size_bytes: int) -> bytes:
        part = self._parts.get(sha256)
        try:
            if part is None:
                with (self._folder / sha256).open("rb") as file:
                    return file.read(size_bytes + 1)
            with part.archive.open("rb") as file:
                file.seek(part.offset)
                return file.read(part.size_bytes)
        except OSError:
            return b""


def _shared(wanted: Iterable[str], other: ReleaseTarget, archive: Path) -> dict[str, Part]:
    """Wanted chunks that an installed archive holds, its bytes verified."""
    names = set(wanted)
    offsets = accumulate((chunk.size_bytes for chunk in other.chunks), initial=0)
    found: dict[str, Part] = {}
    try:
        with archive.open("rb") as file:
            for chunk, offset in zip(other.chunks, offsets, strict=False):
                if chunk.sha256 in names and chunk.sha256 not in found:
                    file.seek(offset)
                    if hashlib.sha256(file.read(chunk.size_bytes)).hexdigest() == chunk.sha256:
                        found[chunk.sha256] = Part(archive, offset, chunk.size_bytes)
    except OSError:
        return found
    return found


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise NoSpace(f"the disk does not take the update: {exc.strerror or os.strerror(exc.errno or 0)}") from exc
