"""The uplink core, stepped by hand: results fly in batches, until each is acknowledged."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.store.value import Priority
from edge_agent.uplink.flight import ranges_of
from edge_agent.uplink.link import LinkState
from edge_agent.uplink.traffic import (
    Acknowledge,
    BusConnected,
    BusFailed,
    Connect,
    NoteCode,
    Publish,
    SpoolGrew,
    TakeRows,
    Tuning,
)
from fleet.contract.messages import (
    SeqRange,
)
from tests.unit.edge.uplink_bench import Bench, notes, of, seqs


def test_bulk_waits_until_the_host_is_there_and_stops_when_it_goes() -> None:
    bench = Bench(rows=3)
    assert seqs(bench.connect(host=None)) == []
    assert seqs(bench.host(False)) == []
    assert seqs(bench.wait(1000)) == []
    assert seqs(bench.host(True)) == [[0, 1, 2]]
    bench.host(False)
    bench.grow(3)
    assert seqs(bench.tell(SpoolGrew())) == []
    assert seqs(bench.wait(1000)) == []
    back = bench.host(True)
    assert seqs(back) == [[3, 4, 5]]
    assert [m.kind for m in of(Publish, back)][:2] == ["birth", "reported"]
    assert seqs(bench.wait(0)) == [[0, 1, 2]], "what was in the air is sent again at once"


def test_where_no_host_speaks_one_batch_is_a_probe_and_its_acknowledgement_opens_the_way() -> None:
    bench = Bench(rows=9)
    bench.connect(host=None)
    assert seqs(bench.wait(29)) == []
    assert seqs(bench.wait(2)) == [[0, 1, 2]]
    assert seqs(bench.wait(15)) == []
    assert seqs(bench.wait(16)) == [[0, 1, 2]]
    found = bench.ack(0, 1, 2)
    assert bench.core.state is LinkState.FLOWING
    assert seqs(found) == [[3, 4, 5], [6, 7, 8]]


def test_only_so_many_batches_are_in_the_air() -> None:
    bench = Bench(rows=20)
    assert seqs(bench.connect()) == [[0, 1, 2], [3, 4, 5]]
    assert seqs(bench.ack(1)) == []
    assert seqs(bench.ack(0, 2)) == [[6, 7, 8]]
    assert (4, 0) not in bench.spool


def test_an_unacknowledged_batch_is_sent_again_ever_more_rarely_without_what_was_acknowledged() -> None:
    bench = Bench(rows=3)
    bench.connect()
    bench.ack(1)
    assert seqs(bench.wait(9)) == []
    again = bench.wait(1)
    assert seqs(again) == [[0, 2]]
    assert NoteCode.RESENT in notes(again)
    assert seqs(bench.wait(19)) == []
    assert seqs(bench.wait(1)) == [[0, 2]]


def test_a_result_that_comes_late_flies_before_the_notes_that_still_wait() -> None:
    bench = Bench(rows=12, tuning=Tuning(batch_rows=2, window_batches=2, ack_timeout_s=5.0, telemetry_s=1e9))
    for key, row in bench.spool.items():
        bench.spool[key] = replace(row, priority=Priority.NOTE)
    assert seqs(bench.connect()) == [[0, 1], [2, 3]]
    bench.grow(1)
    assert seqs(bench.tell(SpoolGrew())) == []
    assert seqs(bench.ack(0, 1)) == [[12, 4]]
    bench.tell(BusFailed(bench.session, "cable"))
    bench.at_s += 60
    assert seqs(bench.connect())[0] == [12, 2]


def test_an_acknowledgement_of_what_is_not_in_the_air_deletes_nothing() -> None:
    bench = Bench(rows=20)
    bench.connect()
    found = bench.ack(15)
    assert of(Acknowledge, found) == []
    assert NoteCode.ACK_UNKNOWN in notes(found)
    assert len(bench.spool) == 20


def test_a_dead_lettered_result_goes_and_is_noted() -> None:
    bench = Bench(rows=3)
    bench.connect()
    found = bench.ack(0, rejected=(1,))
    assert of(Acknowledge, found)[0].rejected == (SeqRange(boot=4, first=1, last=1),)
    assert NoteCode.RESULT_REJECTED in notes(found)
    assert list(bench.spool) == [(4, 2)]


def test_rows_that_could_not_be_read_are_read_again_ever_more_rarely_without_a_new_result() -> None:
    bench = Bench(rows=2)
    bench.unreadable = True
    found = bench.connect()
    assert len(of(TakeRows, found)) == 1, "the fault is not hammered"
    assert NoteCode.SPOOL_NOT_READ in notes(found)
    assert of(TakeRows, bench.wait(0.5) + bench.tell(SpoolGrew())) == []
    pauses = []
    for _ in range(3):
        waited = 1
        while not of(TakeRows, bench.wait(1)):
            waited += 1
        pauses.append(waited)
    assert pauses == [1, 2, 4]
    bench.unreadable = False
    assert seqs(bench.wait(8)) == [[0, 1]]
    assert of(TakeRows, bench.wait(0)) == [], "now it is known that there are no more"


def test_ranges_are_as_few_as_possible() -> None:
    assert ranges_of([(1, 3), (1, 1), (1, 2), (2, 4), (1, 9)]) == (
        SeqRange(boot=1, first=1, last=3),
        SeqRange(boot=1, first=9, last=9),
        SeqRange(boot=2, first=4, last=4),
    )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 8)),
        st.tuples(st.just("wait"), st.integers(0, 70)),
        st.tuples(st.just("deliver"), st.integers(0, 3)),
        st.tuples(st.just("host"), st.integers(0, 1)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("replay"), st.integers(0, 5)),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(STEPS)
def test_nothing_is_lost_and_nothing_acknowledged_is_ever_sent_again(steps: list[tuple[str, int]]) -> None:
    bench, told, known = Bench(), list[list[int]](), 0
    acked: set[int] = set()
    bench.session = ""
    total = 0

    def look() -> None:
        nonlocal known
        for batch in seqs(bench.done[known:]):
            assert not acked & set(batch), "sent again after its acknowledgement"
            told.append(batch)
        for connect in of(Connect, bench.done[known:]):
            bench.session = connect.session
            known = len(bench.done)
            bench.tell(BusConnected(connect.session))
            bench.host(True)
            look()
        known = len(bench.done)

    for step, number in [*steps, ("wait", 100), ("host", 1)]:
        if step == "grow":
            total += number
            bench.grow(number)
            bench.tell(SpoolGrew())
        elif step == "wait":
            bench.wait(float(number))
        elif step == "lose" and bench.session:
            bench.tell(BusFailed(bench.session, "lost"))
        elif step == "host" and bench.core.state in (LinkState.HELD, LinkState.FLOWING):
            bench.host(bool(number))
        elif step in ("deliver", "replay") and bench.core.state is LinkState.FLOWING and told:
            batch = told[-1 - number % len(told)]
            before = set(bench.spool)
            bench.ack(*batch)
            acked |= {seq for boot, seq in before - set(bench.spool)}
        look()
    for _ in range(total + 5):
        pending = {seq for _, seq in bench.spool}
        if not pending:
            break
        bench.wait(301.0)
        look()
        for batch in list(told):
            if pending & set(batch):
                before = set(bench.spool)
                bench.ack(*batch)
                acked |= {seq for boot, seq in before - set(bench.spool)}
                look()
    assert not bench.spool
    assert acked == set(range(total))
