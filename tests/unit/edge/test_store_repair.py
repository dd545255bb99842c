"""A damaged store is replaced by what can be read of it, and nothing of that is hidden."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.composition import STORE_REPAIRED, repair_told
from edge_agent.errors import StoreDamaged, StoreFull, StoreOfNewerAgent
from edge_agent.store import repair_sqlite
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.repair_sqlite import Repaired
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import FILE_NAME, Store
from fleet.contract.messages import SeqRange
from tests.unit.edge.damaged_stores import alter, as_after_a_power_cut, damage, empty_index, page_of
from tests.unit.edge.edge_builders import START, new_field

AMPLE = Quotas(rows=10_000, image_bytes=100_000_000)
BOOT = 1_790_000_000
FIELDS = 120


def filled(folder: Path) -> Path:
    """A closed slide, an open one, opinions asked for, and a power cut."""
    store = Store(folder, AMPLE, first_boot=BOOT)
    number = store.open_slide("24-0187", target_white_cells=100, now=START).slide_id
    for n in range(1, FIELDS + 1):
        image = 3000 if n % 3 == 0 else None
        store.record_field(new_field(n, slide_id=number, image_bytes=image, boot=store.boot), now=START)
    store.acknowledge((SeqRange(boot=BOOT, first=0, last=20),), ())
    store.remember("note", "kept")
    return as_after_a_power_cut(store)


def salt_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()[0])


def opened(folder: Path) -> tuple[Store, Repaired | None]:
    """The first start that finds the store sound, as a supervisor would come to it, and what was repaired before."""
    repaired: Repaired | None = None
    for _ in range(4):
        store = Store(folder, AMPLE)
        repaired = store.repaired or repaired
        try:
            store.database.check()
            list(Reads(store.database).fields())
        except StoreDamaged:
            store.close()
        else:
            return store, repaired
    raise AssertionError("each start finds damage again")


def test_damage_found_beside_the_work_is_repaired_at_the_next_start(tmp_path: Path) -> None:
    damage(path := filled(tmp_path), "detections")
    before = salt_of(path)
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        assert repaired.saved["fields"] == FIELDS
        assert "fields" not in repaired.lost
        assert (repaired.salt_lost, salt_of(path)) == (False, before)
        reads = Reads(store.database)
        assert (reads.slide(1).fields, reads.slide(1).rbc) == (FIELDS, 2 * FIELDS)
        assert reads.recall("note") == "kept"
        assert reads.counters()[Counter.RESULTS_SENT] > 0
        assert reads.counters()[Counter.STORE_REPAIRS] == 1
        assert store.boot > BOOT + 1 or store.boot == BOOT + 2
        assert repaired.kept_as.exists()
        problem = repair_told(repaired)
        assert (problem.code, repaired.kept_as.name in problem.what_to_do) == (STORE_REPAIRED, True)
        number = store.open_slide("24-0187", target_white_cells=100, now=START).slide_id
        assert store.record_field(new_field(999, slide_id=number, boot=store.boot), now=START)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_pages_are_spoiled_the_agent_starts_and_says_what_is_missing(tmp_path: Path, seed: int) -> None:
    path = filled(tmp_path)
    salt = salt_of(path)
    chance = random.Random(seed)
    page, _ = page_of(path, "spool")
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(0 if seed == 0 else 1, len(data) // page) * page
        if seed % 2:
            data[at : at + page] = bytes(page)
        else:
            data[at : at + page] = chance.randbytes(page)
    path.write_bytes(bytes(data))
    store, repaired = opened(tmp_path)
    with closing(store):
        reads = Reads(store.database)
        fields = [field.capture_id for field in reads.fields()]
        assert len(fields) == len(set(fields)) <= FIELDS
        assert store.boot > BOOT, "no number is used again"
        if repaired is None:
            return
        assert repaired.salt_lost or salt_of(path) == salt
        if "fields" in repaired.saved:
            assert len(fields) == repaired.saved["fields"]
        rows = store.take_events(limit=10_000)
        assert all(json.loads(row.payload)["seq"] == row.seq for row in rows)
        assert all(reads.slide(slide.slide_id) for slide in reads.slides())
        with store.database.reading() as connection:
            sums = connection.execute("SELECT SUM(rows) FROM spool_totals").fetchone()[0] or 0
            assert sums == connection.execute("SELECT COUNT(*) FROM spool").fetchone()[0]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_rows_that_an_index_has_lost_are_found_beside_the_work_and_wait_again(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT COUNT(*) FROM spool WHERE kind = 'event'").fetchone()[0]
    empty_index(path, "spool_by_priority")
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        assert repaired.lost == {}
        assert len(store.take_events(limit=10_000)) == rows > 0


def test_a_store_whose_index_contradicts_its_table_is_repaired_once_and_not_met_again(tmp_path: Path) -> None:
    store = Store(tmp_path, AMPLE, first_boot=BOOT)
    number = store.open_slide("24-0187", target_white_cells=100, now=START).slide_id
    for n in range(1, 5):
        store.record_field(new_field(n, slide_id=number, boot=BOOT), now=START)
    store.close()
    empty_index(tmp_path / FILE_NAME, "spool_by_priority")
    everything = (SeqRange(boot=BOOT, first=0, last=100),)
    with closing(Store(tmp_path, AMPLE)) as store, pytest.raises(StoreDamaged):
        store.acknowledge(everything, ())
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.repaired is not None
        store.acknowledge(everything, ())
        assert store.take_events(limit=100) == []


def test_a_stretch_that_cannot_be_read_costs_only_what_stood_there(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        leaves = [
            row[0]
            for row in connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'fields' AND pagetype = 'leaf' ORDER BY pageno"
            )
        ] if _has_dbstat(connection) else []  # fmt: skip
    if not leaves:
        pytest.skip("this SQLite has no dbstat")
    page, _ = page_of(path, "fields")
    data = bytearray(path.read_bytes())
    at = (leaves[len(leaves) // 2] - 1) * page
    data[at : at + page] = bytes(page)
    path.write_bytes(bytes(data))
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        assert 0 < repaired.lost["fields"] < FIELDS / 2
        assert repaired.saved["fields"] + repaired.lost["fields"] == FIELDS


def _has_dbstat(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1 FROM dbstat LIMIT 1").fetchall()
    except sqlite3.OperationalError:
        return False
    return True


def test_a_row_that_nobody_could_read_back_is_left_out_of_the_new_store(tmp_path: Path) -> None:
    path = filled(tmp_path)
    alter(
        path,
        "UPDATE fields SET captured_at = '2026-03-01T08:xx' WHERE id = 5",
        "UPDATE fields SET counts = '{' WHERE id = 6",
        "UPDATE detections SET cls = CAST(x'fffe' AS TEXT) WHERE id = 40",
    )
    damage(path, "counters")
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        assert repaired.lost["fields"] == 2
        assert len(list(Reads(store.database).fields())) == FIELDS - 2


def test_a_file_that_is_no_database_is_kept_and_replaced_by_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 400)
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.repaired is not None
        assert store.repaired.salt_lost
        assert store.repaired.kept_as.read_bytes().startswith(b"no database")
        assert store.boot > BOOT, "by the clock"
        number = store.open_slide("s", target_white_cells=1, now=START).slide_id
        assert store.record_field(new_field(1, slide_id=number), now=START)


def test_a_slide_that_is_lost_is_made_again_for_its_fields(tmp_path: Path) -> None:
    path = filled(tmp_path)
    alter(path, "DELETE FROM slides")
    damage(path, "detections")
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        (slide,) = Reads(store.database).slides()
        assert slide.name.startswith("recovered-1")
        assert (slide.fields, slide.rbc, slide.white_cells) == (FIELDS, 2 * FIELDS, {"neutrophil": FIELDS})


@pytest.mark.parametrize("at", [".repaired", ".damaged-1", ""])
def test_a_repair_that_is_killed_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    damage(filled(tmp_path), "counters")
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == FILE_NAME + at:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as kill:
        kill.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path, AMPLE)
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        assert Reads(store.database).slide(1).fields == FIELDS
        names = {entry.name for entry in tmp_path.iterdir()}
        assert f"{FILE_NAME}.damaged-1" in names
        assert not {name for name in names if name.endswith((".new", ".repaired", ".suspect"))}


def test_a_full_disk_leaves_the_damaged_store_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(path := filled(tmp_path), "counters")

    def full(*_: object) -> None:
        exc = sqlite3.OperationalError("database or disk is full")
        exc.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise exc

    with monkeypatch.context() as no_room:
        no_room.setattr(repair_sqlite, "_settle_meta", full)
        with pytest.raises(StoreFull, match="free as much disk space"):
            Store(tmp_path, AMPLE)
    assert path.exists()
    store, repaired = opened(tmp_path)
    with closing(store):
        assert repaired is not None
        assert Reads(store.database).slide(1).fields == FIELDS


def test_a_sound_store_that_was_suspected_is_used_as_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path)
    repair_sqlite.suspect(path)
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.repaired is None
    assert [entry.name for entry in tmp_path.iterdir() if "suspect" in entry.name] == []


def test_a_store_of_a_newer_agent_is_never_repaired(tmp_path: Path) -> None:
    path = filled(tmp_path)
    alter(path, "PRAGMA user_version = 99")
    with pytest.raises(StoreOfNewerAgent):
        Store(tmp_path, AMPLE)
    assert [entry.name for entry in tmp_path.iterdir() if "damaged" in entry.name] == []
