"""A release's archive cut into chunks, so that what did not change is not sent again.

The archive is a zip of stored, not compressed, members. Each member (its local header with its data) and the central
directory at the end begin a chunk of their own, and what is longer than `MAX_CHUNK_BYTES` is cut further. A file that
two releases share therefore gives the same chunks in both, wherever it lies in the archive.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from itertools import pairwise

from fleet.contract.release import MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_RELEASE_BYTES, ChunkRef
from fleet.release.errors import BundleRefused


def cut(archive: bytes) -> list[ChunkRef]:
    """The chunks of an archive in order; chunk i begins where chunk i - 1 ends. The same bytes give the same chunks.

    Raises:
        BundleRefused: no zip, or more than a release may hold.
    """
    if not 0 < len(archive) <= MAX_RELEASE_BYTES:
        raise BundleRefused(f"the archive has {len(archive)} bytes; a release has 1 to {MAX_RELEASE_BYTES}")
    sizes = [stop - start for start, stop in pairwise(_cuts(archive))]
    if len(sizes) > MAX_CHUNKS:
        raise BundleRefused(f"the archive gives {len(sizes)} chunks, more than {MAX_CHUNKS}; make the bundle smaller")
    offset = 0
    chunks = []
    for size_bytes in sizes:
        piece = archive[offset : offset + size_bytes]
        chunks.append(ChunkRef(sha256=hashlib.sha256(piece).hexdigest(), size_bytes=size_bytes))
        offset += size_bytes
    return chunks


def pieces(archive: bytes, chunks: Iterable[ChunkRef]) -> Iterator[tuple[ChunkRef, bytes]]:
    """Each chunk with its bytes, in order, of an archive that these chunks were cut from."""
    offset = 0
    for chunk in chunks:
        yield chunk, archive[offset : offset + chunk.size_bytes]
        offset += chunk.size_bytes


def _cuts(archive: bytes) -> list[int]:
    """Where chunks begin, and the end."""
    begins = [*_members(archive), len(archive)]
    return sorted(
        {offset for start, stop in pairwise(begins) for offset in (*range(start, stop, MAX_CHUNK_BYTES), stop)}
    )


def _members(archive: bytes) -> list[int]:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            begins = {0, opened.start_dir, *(info.header_offset for info in opened.infolist())}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise BundleRefused(f"the archive is no zip ({exc}); pack the bundle again") from exc
    if min(begins) < 0 or max(begins) >= len(archive):
        raise BundleRefused("the archive's directory points outside of it; pack the bundle again")
    return sorted(begins)
