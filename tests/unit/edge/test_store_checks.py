"""The file itself: damage is found, a newer agent's is refused, readers and writers do not wait."""

from __future__ import annotations

import contextlib
import threading
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.errors import StoreDamaged, StoreFault
from edge_agent.store.database_sqlite import Database
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.schema import MIGRATIONS, SCHEMA_VERSION
from edge_agent.store.store_sqlite import FILE_NAME, Store
from tests.unit.edge.damaged_stores import as_after_a_power_cut, damage
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import AMPLE, ack, slide


def filled(folder: Path, fields: int = 59) -> Store:
    store = Store(folder, AMPLE)
    number = slide(store)
    for n in range(1, fields + 1):
        store.record_field(new_field(n, slide_id=number, image_bytes=3000), now=START)
    return store


def test_damage_to_what_everything_needs_is_found_at_the_next_start(tmp_path: Path) -> None:
    damage(path := as_after_a_power_cut(filled(tmp_path)), "counters")
    with pytest.raises(StoreDamaged, match="start the agent again"):
        Database(path)


def test_damage_to_the_rest_is_found_by_the_check_that_runs_beside_the_work(tmp_path: Path) -> None:
    damage(path := as_after_a_power_cut(filled(tmp_path)), "detections")
    for _ in range(2):
        with closing(Database(path)) as database:
            assert database.unchecked, "as long as it was not found sound, each start checks again"
            with pytest.raises(StoreDamaged, match="start the agent again"):
                database.check()


def test_a_sound_store_is_checked_once_after_an_unclean_end(tmp_path: Path) -> None:
    as_after_a_power_cut(filled(tmp_path))
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.database.unchecked
        store.database.check()
    with closing(Store(tmp_path, AMPLE)) as store:
        assert not store.database.unchecked


def test_a_first_start_that_was_killed_between_two_steps_of_the_schema_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr("edge_agent.store.database_sqlite.MIGRATIONS", (*MIGRATIONS, "as far as the kill;"))
        killed.setattr("edge_agent.store.database_sqlite.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        with pytest.raises(StoreFault):
            Store(tmp_path, AMPLE)
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.record_field(new_field(1, slide_id=slide(store)), now=START)


def test_a_store_of_a_newer_agent_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, AMPLE).close()
    database = Database(tmp_path / FILE_NAME)
    database._connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreDamaged, match="newer agent"):
        Store(tmp_path, AMPLE)


def test_a_report_can_be_read_beside_a_running_agent_and_writes_nothing(tmp_path: Path, store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store)), now=START)
    with closing(Database(tmp_path / FILE_NAME, read_only=True)) as beside:
        assert len(list(Reads(beside).fields())) == 1
        with pytest.raises(StoreFault), beside.transaction() as connection:
            connection.execute("DELETE FROM fields")
    with pytest.raises(StoreFault, match="has the agent ever run"):
        Database(tmp_path / "elsewhere.sqlite3", read_only=True)


def test_who_reads_does_not_wait_for_who_writes_nor_the_other_way_round(store: Store) -> None:
    number = slide(store)
    store.record_field(new_field(1, slide_id=number), now=START)
    reads, seen = Reads(store.database), list[int]()

    def look() -> None:
        seen.append(len(reads.cells(None, 10)))

    with store.database.transaction() as connection:
        connection.execute("DELETE FROM detections")
        beside = threading.Thread(target=look, daemon=True)
        beside.start()
        beside.join(30)
        assert seen == [1], "the reader waits for the writer, or sees what is not committed"
    assert reads.cells(None, 10) == []
    with store.database.reading() as connection:
        before = connection.execute("SELECT COUNT(*) FROM fields").fetchone()[0]
        beside = threading.Thread(
            target=lambda: store.record_field(new_field(2, slide_id=number), now=START), daemon=True
        )
        beside.start()
        beside.join(30)
        assert not beside.is_alive(), "the writer waits for the reader"
        assert connection.execute("SELECT COUNT(*) FROM fields").fetchone()[0] == before, "one state for one reading"
    assert reads.slide(number).fields == 2


def test_readers_are_kept_few_and_write_nothing(store: Store) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(store.database.reading())
    assert len(store.database._readers) <= 3
    with pytest.raises(StoreFault), store.database.reading() as connection:
        connection.execute("DELETE FROM counters")


def test_no_question_asked_while_fields_are_read_walks_through_a_table(store: Store) -> None:
    filled = slide(store)
    for n in range(1, 30):
        store.record_field(new_field(n, slide_id=filled, image_bytes=10), now=START)
    asked: list[str] = []
    reads = Reads(store.database)
    with store.database.reading() as reader:
        reader.set_trace_callback(asked.append)
    store.database._connection.set_trace_callback(asked.append)
    reads.cells(None, 50)
    reads.cells("s", 50)
    reads.known_refs("folder", ["a", "b"], slide_id=None)
    reads.known_refs("folder", ["a", "b"], slide_id=filled)
    reads.last_ref("folder", slide_id=filled)
    reads.slide(filled)
    reads.waiting_copy("bench-1/1/1")
    store.waiting()
    store.take_events(limit=10)
    store.acknowledge(ack(0), ())
    store.record_field(new_field(90, slide_id=filled, image_bytes=10), now=START)
    queries = {text for text in asked if text.lstrip().upper().startswith(("SELECT", "DELETE", "UPDATE"))}
    assert len(queries) > 10
    small = {"meta", "counters", "spool_totals", "slides", "slide_white_cells"}
    with store.database.reading() as connection:
        for query in queries:
            for step in connection.execute(f"EXPLAIN QUERY PLAN {query}"):
                words = str(step["detail"]).split()
                assert words[0] != "SCAN" or words[1] in small, (query, step["detail"])
