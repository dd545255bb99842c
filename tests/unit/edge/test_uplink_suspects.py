"""The uplink core, stepped by hand: a row that is never acknowledged holds no other up."""

from __future__ import annotations

import pytest

from edge_agent.uplink.traffic import (
    BusFailed,
    GiveUp,
    NoteCode,
    SpoolGrew,
    Tick,
    Tuning,
)
from fleet.contract.messages import (
    SeqRange,
)
from tests.unit.edge.uplink_bench import Bench, notes, of, seqs


def deliver_all_but(bench: Bench, poison: set[int], *, seconds: int) -> tuple[set[int], int]:
    """A cloud that answers each batch at once unless one of these rows is in it. What was set aside, and the sends."""
    aside: set[int] = set()
    sends = 0
    batches = seqs(bench.connect())
    for _ in range(seconds):
        while batches:
            batch = batches.pop()
            sends += 1
            if not poison & set(batch):
                batches += seqs(bench.ack(*batch))
        found = bench.wait(1)
        aside |= {
            seq for given in of(GiveUp, found) for part in given.ranges for seq in range(part.first, part.last + 1)
        }
        batches = seqs(found)
    return aside, sends


def test_a_row_that_the_cloud_never_acknowledges_is_found_out_and_its_neighbours_land() -> None:
    bench = Bench(rows=200, tuning=Tuning(batch_rows=50, window_batches=2, ack_timeout_s=5.0, telemetry_s=1e9))
    aside, sends = deliver_all_but(bench, {77}, seconds=2000)
    assert aside == {77}
    assert list(bench.spool) == [(4, 77)]
    assert sends < 60, "found by halving, not one by one"
    assert NoteCode.GIVEN_UP in notes(bench.done)
    bench.grow(1)
    assert seqs(bench.tell(SpoolGrew())) == [[200]]


def test_as_many_such_rows_as_batches_may_fly_hold_nothing_up_either() -> None:
    bench = Bench(rows=30, tuning=Tuning(batch_rows=3, window_batches=2, ack_timeout_s=5.0, telemetry_s=1e9))
    aside, _ = deliver_all_but(bench, {0, 1, 4, 5, 29}, seconds=4000)
    assert aside == {0, 1, 4, 5, 29}
    assert {seq for _, seq in bench.spool} == aside


def test_where_nothing_is_acknowledged_at_all_no_row_is_at_fault() -> None:
    bench = Bench(rows=30, tuning=Tuning(batch_rows=3, window_batches=2, ack_timeout_s=5.0, telemetry_s=1e9))
    aside, _ = deliver_all_but(bench, set(range(30)), seconds=6000)
    assert aside == set()
    assert seqs(bench.tell(Tick())) == []
    assert bench.core.in_flight == 9, "one batch in parts, and as many as may fly beside it"


def test_a_row_that_is_late_but_acknowledged_is_not_sent_again_in_parts() -> None:
    bench = Bench(rows=3)
    bench.connect()
    for _ in range(200):
        bench.wait(1)
    bench.ack(0, 1, 2)
    assert seqs(bench.wait(1000)) == []
    assert bench.core.in_flight == 0


def test_a_row_that_ends_the_connection_each_time_is_found_out_and_the_others_land() -> None:
    bench = Bench(rows=40, tuning=Tuning(batch_rows=8, window_batches=2, ack_timeout_s=5.0, telemetry_s=1e9))
    connections = 0
    while not of(GiveUp, bench.done) and connections < 200:
        bench.at_s += 61
        batches = seqs(bench.connect())
        connections += 1
        while batches and not any(13 in batch for batch in batches):
            batches += seqs(bench.ack(*batches.pop(0)))
        bench.tell(BusFailed(bench.session, "packet too large" if batches else "a cable"))
        bench.wait(0)
    assert list(bench.spool) == [(4, 13)]
    assert of(GiveUp, bench.done) == [GiveUp((SeqRange(boot=4, first=13, last=13),))]
    assert connections < 40


@pytest.mark.parametrize("failures", [12, 20])
def test_a_row_that_was_passed_over_is_sent_in_the_connection_in_which_others_land(failures: int) -> None:
    bench = Bench(rows=6)
    for _ in range(failures):
        bench.at_s += 61
        passed_over = bench.connect()
        bench.tell(BusFailed(bench.session, "cable"))
    assert seqs(passed_over) != [[0]]
    bench.at_s += 61
    batches = seqs(bench.connect())
    while batches:
        batches += seqs(bench.ack(*batches.pop(0)))
    assert bench.spool == {}
    assert of(GiveUp, bench.done) == []


def test_a_network_that_breaks_down_often_makes_no_row_suspect() -> None:
    bench = Bench(rows=6)
    for _ in range(30):
        bench.at_s += 61
        assert seqs(bench.connect())
        bench.tell(BusFailed(bench.session, "cable"))
    for _ in range(3):
        bench.at_s += 61
        batches = seqs(bench.connect())
        while batches:
            batches += seqs(bench.ack(*batches.pop(0)))
        bench.tell(BusFailed(bench.session, "cable"))
    assert of(GiveUp, bench.done) == []
    assert bench.spool == {}
