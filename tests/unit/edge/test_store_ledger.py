"""No number is used twice, and each one used is waiting, or its end is known."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.spool_rows_sqlite import SpoolRows
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from fleet.contract.messages import (
    SeqRange,
    UpdateState,
    UpdateStep,
)
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import AMPLE, a_note, slide, spoil


def test_every_opening_is_a_new_boot_and_starts_its_numbers_anew(tmp_path: Path) -> None:
    rows = []
    for boot in (1, 2, 3):
        with closing(Store(tmp_path, AMPLE, first_boot=1)) as store:
            assert store.boot == boot
            store.record_field(new_field(boot, slide_id=slide(store), boot=boot), now=START)
            rows = [(row.boot, row.seq) for row in store.take_events(limit=10)]
    assert rows == [(1, 0), (2, 0), (3, 0)]


def test_a_store_that_replaces_a_lost_one_never_uses_a_boot_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.store.store_sqlite.time.time", lambda: 1_790_000_000.7)
    boots = []
    for _ in range(3):
        with closing(Store(tmp_path / "lost", AMPLE)) as store:
            boots.append(store.boot)
    monkeypatch.setattr("edge_agent.store.store_sqlite.time.time", lambda: 1_790_003_600.0)
    with closing(Store(tmp_path / "new", AMPLE)) as store:
        boots.append(store.boot)
    assert boots == [1_790_000_000, 1_790_000_001, 1_790_000_002, 1_790_003_600]


def test_a_step_of_the_update_is_stored_once_by_its_number_in_its_journal(tmp_path: Path) -> None:
    step = UpdateStep(
        boot=0, seq=0, happened_at=START, before=UpdateState.IDLE, after=UpdateState.DOWNLOADING, counter=2
    )
    with closing(Store(tmp_path, AMPLE)) as store:
        told = [store.append_step(step, journal="journal-1", number=n, now=START) for n in (1, 2, 1, 2, 3)]
        assert told == [True, True, False, False, True]
    with closing(Store(tmp_path, AMPLE)) as store:
        assert not store.append_step(step, journal="journal-1", number=3, now=START)
        assert store.append_step(step, journal="journal-2", number=1, now=START), "a record made anew begins at one"
        assert store.waiting().events == 4


STEPS = st.lists(
    st.one_of(
        st.just(("field",)),
        st.tuples(st.just("ack"), st.integers(0, 30), st.integers(0, 5)),
        st.just(("reopen",)),
        st.just(("crash",)),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(STEPS)
def test_whatever_happens_each_result_is_waiting_or_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    store = Store(folder, AMPLE)
    expected: set[tuple[int, int]] = set()
    seqs: dict[int, int] = {}
    number = 0
    try:
        for step in steps:
            if step[0] == "field":
                number += 1
                store.record_field(new_field(number, slide_id=slide(store), boot=store.boot), now=START)
                seq = seqs.get(store.boot, 0)
                seqs[store.boot] = seq + 1
                expected.add((store.boot, seq))
            elif step[0] == "ack":
                first, more = int(str(step[1])), int(str(step[2]))
                store.acknowledge((SeqRange(boot=store.boot, first=first, last=first + more),), ())
                expected -= {(store.boot, n) for n in range(first, first + more + 1)}
            else:
                store.close() if step[0] == "reopen" else store.database._connection.close()
                store = Store(folder, AMPLE)
            found = {(row.boot, row.seq) for row in store.take_events(limit=1000)}
            assert found == expected
    finally:
        store.close()


SPOOL_STEPS = st.lists(
    st.one_of(
        st.just(("field", 0)),
        st.just(("note", 0)),
        st.tuples(st.just("ack"), st.integers(0, 40)),
        st.tuples(st.just("reject"), st.integers(0, 40)),
        st.tuples(st.just("spoil"), st.integers(0, 40)),
        st.just(("retry", 0)),
        st.just(("take", 0)),
        st.just(("reopen", 0)),
        st.just(("crash", 0)),
    ),
    max_size=60,
)


@settings(max_examples=25)
@given(SPOOL_STEPS)
def test_whatever_happens_each_number_is_waiting_sent_refused_given_up_or_set_aside(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    quotas = Quotas(rows=12, image_bytes=1)
    store = Store(folder, quotas)
    used = number = 0
    try:
        for step, at in steps:
            waiting = [row.row_id for row in store.take_events(limit=1000)]
            if step == "field":
                number += 1
                store.record_field(new_field(number, slide_id=slide(store), boot=store.boot), now=START)
            elif step == "note":
                a_note(store)
            elif step == "ack":
                store.acknowledge((SeqRange(boot=store.boot, first=at, last=at + 1),), ())
            elif step == "reject":
                store.acknowledge((), (SeqRange(boot=store.boot, first=at, last=at),))
            elif step == "spoil" and waiting:
                spoil(store, waiting[at % len(waiting)], b"rubbish")
            elif step == "retry":
                with closing(SpoolRows(folder, write=True)) as rows:
                    rows.retry(None)
            elif step in ("reopen", "crash"):
                used += store._numbering.seq
                store.close() if step == "reopen" else store.database._connection.close()
                store = Store(folder, quotas)
            sound = store.take_events(limit=1000)
            held, counters = store.waiting(), Reads(store.database).counters()
            ended = sum(
                counters[name] for name in (Counter.RESULTS_SENT, Counter.RESULTS_REJECTED, Counter.RESULTS_DROPPED)
            )
            assert len(sound) == held.events, "what is listed as waiting can be sent"
            assert held.events + held.aside + ended == used + store._numbering.seq
    finally:
        store.close()
