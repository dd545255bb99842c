"""A store that an older agent has written is brought up to date whole, or stays as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest

from edge_agent.errors import StoreDamaged, StoreFault
from edge_agent.store.database_sqlite import Database
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.schema import MIGRATIONS, SCHEMA_VERSION
from edge_agent.store.spool_sqlite import asides
from edge_agent.store.store_sqlite import FILE_NAME, Store
from edge_agent.store.value import EVENT_PRIORITY, Priority
from edge_agent.version import agent_version
from fleet.contract.cells import Decision
from fleet.contract.messages import Event, SeqRange
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import AMPLE

VERSION_1 = Path(__file__).parent / "stored" / "version_1.sql"
"""What an agent of version 1 has written, and did not end cleanly."""
BOOT = 1_790_000_001


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript(VERSION_1.read_text(encoding="utf-8"))
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    return tmp_path


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path / FILE_NAME)) as connection:
        names = [str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names}


def ask(store: Store, query: str) -> list[tuple[object, ...]]:
    with store.database.reading() as connection:
        return [tuple(row) for row in connection.execute(query)]


def recounted(store: Store) -> bool:
    sums = "SELECT kind, priority, set_aside IS NOT NULL, COUNT(*), SUM(size_bytes) FROM spool GROUP BY 1, 2, 3"
    return ask(store, "SELECT * FROM spool_totals WHERE rows > 0 ORDER BY 1, 2, 3") == ask(store, sums)


def test_every_row_of_an_older_store_is_still_there_and_reads_as_before(old: Path) -> None:
    before = everything(old)
    with closing(Store(old, AMPLE)) as store:
        assert store.boot == BOOT + 1
        reads = Reads(store.database)
        assert [(slide.name, slide.fields) for slide in reads.slides()] == [("24-0187", 2), ("24-0187-2", 3)]
        assert len(list(reads.fields())) == 5
        assert reads.counters()[Counter.IMAGES_REFUSED] == 1
        assert reads.recall("note") == "kept"
        held = store.waiting()
        assert (held.events, held.images, held.image_bytes, held.aside) == (9, 2, 140, 1)
        with store.database.reading() as connection:
            assert asides(connection) == {5: "refused:invalid"}
        picture = store.next_image()
        assert picture is not None
        assert (picture.capture_id, picture.context.audit) == (f"bench-1/{BOOT}/3", False), "in doubt before audit"
    after = everything(old)
    for table, rows in before.items():
        if table not in ("meta", "sqlite_sequence"):
            assert [row[: len(rows[0])] for row in after[table]] == rows
    lost = dict(before["meta"]).items() - dict(after["meta"]).items()
    assert lost == {("boot", str(BOOT)), ("open", "1"), ("aside.5", "refused:invalid")}


def test_an_older_store_gets_what_can_be_told_of_its_rows(old: Path) -> None:
    with closing(Store(old, AMPLE)) as store:
        slides = ask(store, "SELECT name, specimen, number, kind, operator, closed_by FROM slides ORDER BY id")
        assert slides == [
            ("24-0187", "24-0187", 1, "specimen", None, "run"),
            ("24-0187-2", "24-0187-2", 1, "specimen", None, None),
        ]
        assert [row[0] for row in ask(store, "SELECT boot FROM fields ORDER BY id")] == [BOOT - 1] * 2 + [BOOT] * 3
        kinds = ask(store, "SELECT COALESCE(event_kind, capture_id), priority FROM spool ORDER BY id")
        assert set(kinds) == {
            ("field", Priority.RESULT),
            ("slide", Priority.RESULT),
            ("dropped", Priority.NOTE),
            ("alarm", Priority.NOTE),
            ("update", Priority.NOTE),
            (f"bench-1/{BOOT}/1", Priority.DOUBT),
            (f"bench-1/{BOOT}/2", Priority.AUDIT),
            (f"bench-1/{BOOT}/3", Priority.DOUBT),
        }
        assert recounted(store)


def test_an_older_store_goes_on_where_it_was(old: Path) -> None:
    with closing(Store(old, AMPLE)) as store:
        slide = store.open_slide("24-0187", target_white_cells=100, now=START)
        assert slide.name == "24-0187-2"
        again = new_field(1, slide_id=slide.slide_id, boot=store.boot)
        assert not store.record_field(again, now=START)
        assert store.record_field(new_field(9, slide_id=slide.slide_id, boot=store.boot, image_bytes=7), now=START)
        store.acknowledge((SeqRange(boot=BOOT, first=0, last=8),), ())
        assert store.waiting().events == 4
        assert store.waiting().image_bytes == 147
        assert recounted(store)


def test_a_kill_within_the_step_leaves_the_older_store_whole(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(old)
    for cut in (1, 5, 12, 20, MIGRATIONS[1].count(";") - 1):
        step = ";".join(MIGRATIONS[1].split(";")[:cut]) + ";as far as the kill;"
        with monkeypatch.context() as killed:
            killed.setattr("edge_agent.store.database_sqlite.MIGRATIONS", (MIGRATIONS[0], step))
            with pytest.raises(StoreFault):
                Store(old, AMPLE)
        assert everything(old) == before
    with closing(Store(old, AMPLE)) as store:
        assert store.waiting().events == 9


def test_a_damaged_older_store_is_found_before_a_step_touches_it(old: Path) -> None:
    path = old / FILE_NAME
    damaged = bytearray(path.read_bytes())
    # An index that has lost a row: every table can still be read, and every step would pass.
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'detections_of_field'").fetchone()[0]
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    cells = int.from_bytes(damaged[(root - 1) * page + 3 : (root - 1) * page + 5], "big")
    damaged[(root - 1) * page + 3 : (root - 1) * page + 5] = (cells - 1).to_bytes(2, "big")
    path.write_bytes(bytes(damaged))
    with pytest.raises(StoreDamaged):
        Database(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    with closing(Store(old, AMPLE)) as store:
        assert store.repaired is not None
        held = store.waiting()
        assert (held.events, held.images, held.aside) == (9, 2, 1), "repaired, and brought up to date with its rows"
        assert [slide.name for slide in Reads(store.database).slides()] == ["24-0187", "24-0187-2"]


def test_a_report_of_an_older_store_asks_for_a_start_of_the_agent(old: Path) -> None:
    with pytest.raises(StoreFault, match="start the agent once"):
        Database(old / FILE_NAME, read_only=True)
    assert everything(old)["fields"]


def test_a_new_store_has_the_tables_of_one_brought_up_to_date(
    old: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = tmp_path_factory.mktemp("new")
    query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    with closing(Store(old, AMPLE)) as brought, closing(Store(new, AMPLE)) as fresh:
        assert ask(brought, query) == ask(fresh, query)
        assert ask(fresh, "PRAGMA user_version") == [(SCHEMA_VERSION,)] == [(2,)]


def test_every_kind_of_event_has_its_place_in_the_order() -> None:
    kinds = {kind.model_fields["kind"].default for kind in get_args(get_args(Event)[0])}
    assert set(EVENT_PRIORITY) == kinds


def test_the_sums_follow_rows_that_change_their_place(tmp_path: Path) -> None:
    with closing(Store(tmp_path, AMPLE, first_boot=1)) as store:
        slide = store.open_slide("s", target_white_cells=100, now=START)
        for n in range(1, 6):
            store.record_field(new_field(n, slide_id=slide.slide_id, image_bytes=100 * n), now=START)
        with store.database.transaction() as connection:
            connection.execute("UPDATE spool SET set_aside = 'not_json' WHERE kind = 'event' AND seq < 4")
            connection.execute("UPDATE spool SET priority = 3, size_bytes = size_bytes + 1 WHERE capture_id LIKE '%/2'")
            connection.execute("DELETE FROM spool WHERE seq = 0")
        assert recounted(store)
        assert (store.waiting().events, store.waiting().image_bytes) == (3, 1501)


def test_what_is_new_of_a_field_and_a_slide_is_stored_with_them(tmp_path: Path) -> None:
    with closing(Store(tmp_path, AMPLE, first_boot=7)) as store:
        slide = store.open_slide("24-0187", target_white_cells=100, now=START)
        store.record_field(new_field(1, slide_id=slide.slide_id, boot=7, decision=Decision.UNCERTAIN), now=START)
        with store.database.transaction() as connection:
            connection.execute("UPDATE slides SET closed_at = '2026-03-01T08:00:00.000Z'")
        store.open_slide("24-0187", target_white_cells=100, now=START)
        assert ask(store, "SELECT boot FROM fields") == [(7,)]
        assert ask(store, "SELECT name, specimen, number FROM slides ORDER BY id") == [
            ("24-0187", "24-0187", 1),
            ("24-0187-2", "24-0187", 2),
        ]
        assert ask(store, "SELECT value FROM meta WHERE key = 'agent_version.7'") == [(agent_version(),)]
