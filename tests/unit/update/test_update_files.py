"""What the update keeps on the disk: record, chunks, slots. Real files, real bundles, damage and full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import pytest

from edge_agent.errors import StoreFault
from edge_agent.update.chunks_files import Arrival, ChunkStore
from edge_agent.update.errors import ArchiveRefused, NoSpace, TrustRefused
from edge_agent.update.record import Model, UpdateRecord
from edge_agent.update.record_file import RecordFile
from edge_agent.update.slots_files import Slots
from fleet.contract.messages import UpdateState
from fleet.contract.release import ReleaseTarget, UpdateCode
from fleet.release.chunks import pieces
from tests.fakes.releases import ReleaseDesk
from tests.unit.update.update_bench import model


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> ReleaseDesk:
    return ReleaseDesk(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def one(desk: ReleaseDesk) -> tuple[ReleaseTarget, bytes]:
    offered = desk.offer(desk.trust, head=b"head one")
    return offered.target, offered.archive


@pytest.fixture(scope="module")
def two(desk: ReleaseDesk) -> tuple[ReleaseTarget, bytes]:
    offered = desk.offer(desk.trust, head=b"head two, another one")
    return offered.target, offered.archive


def accept(target: ReleaseTarget, path: Path) -> None:
    """Stands for the check of the signed hash."""


def writer(data: bytes) -> Callable[[BinaryIO], bool]:
    def write(file: BinaryIO) -> bool:
        file.write(data)
        return True

    return write


# --- record ---------------------------------------------------------------------------------------------------------


def record(**more: Any) -> UpdateRecord:
    return UpdateRecord(confirmed=model(1), journal="journal-1", **more)


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "update")
    assert file.load() is None
    saved = record(previous=model(2), state=UpdateState.FAILED, code=UpdateCode.SLOW, attempts=2)
    file.save(saved)
    assert file.load() == saved


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 500, b'{"schema": "ahs.update-record/9"}'])
def test_a_damaged_record_is_set_aside_and_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    file = RecordFile(tmp_path)
    file.save(record())
    (tmp_path / "record.json").write_bytes(damage)
    assert file.load() is None
    assert (tmp_path / "record.damaged.json").read_bytes() == damage
    file.save(record())
    assert file.load() == record()


def test_a_half_written_record_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordFile(tmp_path)
    file.save(record())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFault, match="free some disk space"):
        file.save(record(attempts=3))
    monkeypatch.undo()
    assert file.load() == record()


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_a_release_is_put_together_from_chunks_that_come_in_any_order(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes]
) -> None:
    target, archive = one
    store = ChunkStore(tmp_path / "chunks")
    missing = store.prepare(target, [])
    assert missing == {chunk.sha256 for chunk in target.chunks}
    for chunk, data in reversed(list(pieces(archive, target.chunks))):
        arrival = store.put(chunk.sha256, data)
        assert arrival in (Arrival.STORED, Arrival.KNOWN)
    assert store.prepare(target, []) == frozenset()
    with (tmp_path / "whole").open("wb") as file:
        assert store.assemble(target, file) == frozenset()
    assert (tmp_path / "whole").read_bytes() == archive


def test_what_is_here_after_a_cut_is_not_missing(tmp_path: Path, one: tuple[ReleaseTarget, bytes]) -> None:
    target, archive = one
    store = ChunkStore(tmp_path / "chunks")
    store.prepare(target, [])
    chunk, data = next(pieces(archive, target.chunks))
    store.put(chunk.sha256, data)
    again = ChunkStore(tmp_path / "chunks")
    assert chunk.sha256 not in again.prepare(target, [])


def test_bytes_that_are_false_foreign_or_known_change_nothing(tmp_path: Path, one: tuple[ReleaseTarget, bytes]) -> None:
    target, archive = one
    store = ChunkStore(tmp_path / "chunks")
    store.prepare(target, [])
    chunk, data = next(pieces(archive, target.chunks))
    flipped = bytes([data[0] ^ 1]) + data[1:]
    for false in (flipped, data[:-1], data + b"x", b""):
        assert store.put(chunk.sha256, false) is Arrival.FALSE
    foreign = hashlib.sha256(b"other").hexdigest()
    assert store.put(foreign, b"other") is Arrival.FOREIGN
    assert store.put("../../etc/passwd", b"other") is Arrival.FOREIGN
    assert list((tmp_path / "chunks").iterdir()) == []
    assert store.put(chunk.sha256, data) is Arrival.STORED
    assert store.put(chunk.sha256, data) is Arrival.KNOWN


def test_bytes_of_installed_archives_are_used_again_where_they_are_what_was_signed(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes], two: tuple[ReleaseTarget, bytes]
) -> None:
    installed = tmp_path / "one.zip"
    installed.write_bytes(one[1])
    store = ChunkStore(tmp_path / "chunks")
    missing = store.prepare(two[0], [(one[0], installed)])
    shared = {chunk.sha256 for chunk in one[0].chunks} & {chunk.sha256 for chunk in two[0].chunks}
    assert missing == {chunk.sha256 for chunk in two[0].chunks} - shared
    sizes = {chunk.sha256: chunk.size_bytes for chunk in two[0].chunks}
    assert sum(sizes[name] for name in missing) < two[0].size_bytes / 10, "the detector did not change"
    for chunk, data in pieces(two[1], two[0].chunks):
        store.put(chunk.sha256, data)
    with (tmp_path / "whole").open("wb") as file:
        assert store.assemble(two[0], file) == frozenset()
    assert (tmp_path / "whole").read_bytes() == two[1]
    installed.write_bytes(b"\x00" * len(one[1]))
    assert store.prepare(two[0], [(one[0], installed)]) >= shared, "a damaged archive gives nothing"


def test_a_chunk_that_was_damaged_on_the_disk_is_found_and_forgotten(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes]
) -> None:
    target, archive = one
    store = ChunkStore(tmp_path / "chunks")
    store.prepare(target, [])
    for chunk, data in pieces(archive, target.chunks):
        store.put(chunk.sha256, data)
    bad = target.chunks[1]
    (tmp_path / "chunks" / bad.sha256).write_bytes(b"\x00" * bad.size_bytes)
    with (tmp_path / "whole").open("wb") as file:
        assert store.assemble(target, file) == {bad.sha256}
    assert store.prepare(target, []) == {bad.sha256}


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=one[0].size_bytes))
    with pytest.raises(NoSpace, match="MB are free"):
        ChunkStore(tmp_path / "chunks").prepare(one[0], [])


def test_a_chunk_that_cannot_be_written_is_no_room(tmp_path: Path, one: tuple[ReleaseTarget, bytes]) -> None:
    target, archive = one
    store = ChunkStore(tmp_path / "chunks")
    store.prepare(target, [])
    shutil.rmtree(tmp_path / "chunks")
    chunk, data = next(pieces(archive, target.chunks))
    with pytest.raises(NoSpace):
        store.put(chunk.sha256, data)


# --- slots ----------------------------------------------------------------------------------------------------------


def test_a_release_is_in_its_slot_whole_or_not_at_all(tmp_path: Path, one: tuple[ReleaseTarget, bytes]) -> None:
    slots = Slots(tmp_path)
    target, archive = one

    def refuse(target: ReleaseTarget, path: Path) -> None:
        raise TrustRefused(UpdateCode.HASH, "not what was signed")

    with pytest.raises(TrustRefused):
        slots.install(target, writer(archive), refuse)
    assert not slots.install(target, lambda file: False, accept)
    assert (slots.installed(), list(tmp_path.iterdir())) == ([], [])
    assert slots.install(target, writer(archive), accept)
    (slot,) = slots.installed()
    assert (slot.release, slot.confirmed) == (target, 0)
    assert slot.archive.read_bytes() == archive


def test_what_is_signed_and_no_bundle_of_that_digest_is_refused(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes], two: tuple[ReleaseTarget, bytes]
) -> None:
    slots = Slots(tmp_path)
    escaping = BytesIO(one[1])
    with ZipFile(escaping, "a") as opened:
        opened.writestr("../../evil.py", b"print('out')")
    cases = ((b"no zip at all", UpdateCode.LOAD), (two[1], UpdateCode.HASH), (escaping.getvalue(), UpdateCode.PATH))
    for data, code in cases:
        with pytest.raises(ArchiveRefused) as caught:
            slots.install(one[0], writer(data), accept)
        assert caught.value.code is code
    assert list(tmp_path.iterdir()) == []


def test_collecting_takes_everything_but_what_is_kept(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes], two: tuple[ReleaseTarget, bytes]
) -> None:
    slots = Slots(tmp_path)
    second = two[0].model_copy(update={"counter": two[0].counter + 1})
    slots.install(one[0], writer(one[1]), accept)
    slots.install(second, writer(two[1]), accept)
    (tmp_path / ".new-left-by-a-kill").mkdir()
    assert slots.collect([Model.of(one[0])]) == 2
    assert [slot.release for slot in slots.installed()] == [one[0]]


def test_confirmed_slots_stand_in_the_order_of_their_confirmation(
    tmp_path: Path, one: tuple[ReleaseTarget, bytes], two: tuple[ReleaseTarget, bytes]
) -> None:
    slots = Slots(tmp_path)
    second = two[0].model_copy(update={"counter": two[0].counter + 1})
    slots.install(one[0], writer(one[1]), accept)
    slots.install(second, writer(two[1]), accept)
    slots.mark_confirmed(Model.of(one[0]))
    slots.mark_confirmed(Model.of(second))
    assert [slot.model.counter for slot in slots.installed()] == [second.counter, one[0].counter]
    slots.mark_confirmed(Model.of(one[0]))
    slots.mark_confirmed(Model.of(one[0]))
    assert [(slot.model.counter, slot.confirmed) for slot in slots.installed()] == [
        (one[0].counter, 3),
        (second.counter, 2),
    ]


def test_a_slot_whose_description_is_damaged_is_not_there(tmp_path: Path, one: tuple[ReleaseTarget, bytes]) -> None:
    slots = Slots(tmp_path)
    slots.install(one[0], writer(one[1]), accept)
    next(tmp_path.glob("*/release.json")).write_bytes(b"{")
    assert slots.installed() == []
