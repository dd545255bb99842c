"""Cutting: whole, bounded, the same for the same bytes, and a changed file changes its own chunks alone."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.contract.release import MAX_CHUNK_BYTES
from fleet.release.chunks import cut, pieces
from fleet.release.errors import BundleRefused

MEMBERS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=8), st.binary(max_size=300) | st.just(b"x" * 140_000), max_size=6
)


def packed(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return target.getvalue()


@given(MEMBERS)
def test_the_chunks_are_the_archive_in_order(members: dict[str, bytes]) -> None:
    archive = packed(members)
    chunks = cut(archive)
    parts = list(pieces(archive, chunks))
    assert b"".join(data for _, data in parts) == archive
    assert all(0 < chunk.size_bytes == len(data) <= MAX_CHUNK_BYTES for chunk, data in parts)
    assert all(chunk.sha256 == hashlib.sha256(data).hexdigest() for chunk, data in parts)
    assert cut(archive) == chunks


@given(MEMBERS, st.binary(min_size=1, max_size=200_000))
def test_a_changed_member_leaves_the_others_chunks(members: dict[str, bytes], changed: bytes) -> None:
    before = packed({"a0": b"first", **members, "z0": b"last"})
    after = packed({"a0": changed, **members, "z0": b"last"})
    lost = {chunk.sha256 for chunk in cut(before)} - {chunk.sha256 for chunk in cut(after)}
    assert len(lost) <= 2  # the first member's own, and the directory's


def test_a_directory_longer_than_a_chunk_is_cut_too() -> None:
    archive = packed({f"{'n' * 60}{number}": b"" for number in range(900)})
    assert max(chunk.size_bytes for chunk in cut(archive)) <= MAX_CHUNK_BYTES


@pytest.mark.parametrize("archive", [b"", b"no zip", b"PK\x05\x06" + b"\xff" * 18, packed({"a": b"b"})[:-5]])
def test_what_is_no_zip_is_refused(archive: bytes) -> None:
    with pytest.raises(BundleRefused):
        cut(archive)


@given(st.data())
def test_a_damaged_zip_is_cut_whole_or_refused(data: st.DataObject) -> None:
    archive = bytearray(packed({"a": b"b" * 50, "c": b"d" * 70}))
    for place in data.draw(st.lists(st.integers(0, len(archive) - 1), min_size=1, max_size=4)):
        archive[place] = data.draw(st.integers(0, 255))
    try:
        chunks = cut(bytes(archive))
    except BundleRefused:
        return
    assert b"".join(part for _, part in pieces(bytes(archive), chunks)) == bytes(archive)
