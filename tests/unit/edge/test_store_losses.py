"""What was given up over the quotas is told in full, and the telling does not fill the spool itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.store.handed import Handed
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from fleet.contract.messages import SeqRange
from tests.unit.edge.edge_builders import START, new_field

TINY = Quotas(rows=5, image_bytes=10**6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path, TINY, first_boot=1)) as store:
        yield store


def fill(store: Store, numbers: range) -> None:
    slide = store.open_slide("s", target_white_cells=1000, now=START).slide_id
    for number in numbers:
        assert store.record_field(new_field(number, slide_id=slide, boot=store.boot), now=START)


def rows(store: Store) -> list[tuple[int, int, str, int]]:
    """(boot, seq, kind, results) of each row, read past the uplink."""
    with store.database.reading() as connection:
        found = connection.execute("SELECT boot, seq, payload FROM spool WHERE kind = 'event' ORDER BY id").fetchall()
    events = [(row["boot"], row["seq"], json.loads(row["payload"])) for row in found]
    assert all((boot, seq) == (event["boot"], event["seq"]) for boot, seq, event in events)
    return [(boot, seq, event["kind"], event.get("results", 0)) for boot, seq, event in events]


def losses(store: Store) -> list[tuple[int, int, int]]:
    return [(boot, seq, results) for boot, seq, kind, results in rows(store) if kind == "dropped"]


def dropped(store: Store) -> int:
    return Reads(store.database).counters()[Counter.RESULTS_DROPPED]


def test_losses_that_have_not_left_are_one_row_and_the_fields_keep_their_room(store: Store) -> None:
    fill(store, range(1, 60))
    ((_, _, told),) = losses(store)
    assert told == dropped(store)
    assert len(rows(store)) - 1 >= TINY.rows - 2, "fields fill what one notice leaves"


def test_a_loss_that_was_handed_on_stays_as_it_is_and_the_next_one_has_its_own_row(store: Store) -> None:
    fill(store, range(1, 10))
    (handed,) = losses(store)
    store.take_events(limit=100)
    fill(store, range(10, 60))
    first, second = losses(store)
    assert first == handed, "number and content of what may be in the air, or committed, never change"
    assert first[2] + second[2] == dropped(store)
    assert second[1] > first[1]
    store.acknowledge((SeqRange(boot=1, first=first[1], last=first[1]),), ())
    assert losses(store) == [second]


def test_a_loss_of_an_earlier_run_may_have_left_in_it_and_stays(tmp_path: Path) -> None:
    with closing(Store(tmp_path, TINY, first_boot=1)) as store:
        fill(store, range(1, 10))
        (before,) = losses(store)
    with closing(Store(tmp_path, TINY)) as store:
        fill(store, range(10, 30))
        assert losses(store)[0] == before
        assert sum(results for _, _, results in losses(store)) == dropped(store)


def test_a_merge_that_is_rolled_back_leaves_loss_and_numbers_as_they_were(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(1, 10))
    before = rows(store)
    hold = store._handed.hold

    def killed() -> int:
        hold()
        raise KeyboardInterrupt

    with monkeypatch.context() as kill:
        kill.setattr(store._handed, "hold", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(store, range(10, 30))
    assert losses(store) == [row[:2] + row[3:] for row in before if row[2] == "dropped"]
    fill(store, range(30, 40))
    assert len({row[:2] for row in rows(store)}) == len(rows(store))
    assert store.take_events(limit=100), "the uplink is not held off for ever"


def test_the_uplink_reads_nothing_between_a_merge_and_its_commit() -> None:
    handed, read = Handed(), threading.Event()

    def take() -> None:
        with handed.taking():
            handed.took(7)
            read.set()

    assert handed.hold() == 0
    assert handed.hold() == 0, "twice in one transaction"
    uplink = threading.Thread(target=take)
    uplink.start()
    assert not read.wait(0.2)
    handed.let_go()
    assert read.wait(20.0)
    uplink.join(20.0)
    assert handed.hold() == 7
    handed.let_go()


def test_beside_an_uplink_that_takes_all_the_time_each_loss_is_told_exactly_once(store: Store) -> None:
    stop, sent = threading.Event(), dict[tuple[int, int], str]()

    def uplink() -> None:
        while not stop.is_set():
            for row in store.take_events(limit=100):
                assert sent.setdefault((row.boot, row.seq), row.payload) == row.payload

    thread = threading.Thread(target=uplink)
    thread.start()
    try:
        fill(store, range(1, 150))
    finally:
        stop.set()
        thread.join(30.0)
    told = {key: json.loads(payload) for key, payload in sent.items()}
    told |= {(boot, seq): {"kind": kind, "results": results} for boot, seq, kind, results in rows(store)}
    assert sum(event["results"] for event in told.values() if event["kind"] == "dropped") == dropped(store) > 0
