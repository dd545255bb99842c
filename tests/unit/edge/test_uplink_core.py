"""The uplink core, stepped by hand: no thread, no clock, no socket."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.moment import Moment
from edge_agent.store.value import Priority
from edge_agent.uplink.flight import ranges_of
from edge_agent.uplink.link import LinkState
from edge_agent.uplink.traffic import (
    Acknowledge,
    Announce,
    BusConnected,
    BusFailed,
    BusMessage,
    BusPublishRefused,
    BusRefused,
    CatchUp,
    ChunksMissing,
    ChunksWanted,
    Connect,
    CredentialsChanged,
    DeviceReport,
    Disconnect,
    GaugesRead,
    GiveUp,
    HandOn,
    NoteCode,
    Publish,
    ReadGauges,
    ReportChanged,
    SpoolGrew,
    Stop,
    Subscribe,
    TakeRows,
    Tick,
    Tuning,
    Unsubscribe,
    UpdateReport,
    UpdateTopic,
)
from fleet.contract.base import ClockQuality
from fleet.contract.codec import decode, encode
from fleet.contract.messages import (
    Birth,
    Need,
    OperationUpdate,
    OpinionReady,
    OpinionState,
    Presence,
    Reported,
    SeqRange,
    Status,
    Telemetry,
    UpdateState,
)
from tests.unit.edge.edge_builders import DEVICE, MODEL, START, moment
from tests.unit.edge.uplink_bench import TUNING, Bench, notes, of, seqs


def test_connecting_says_who_is_there_and_asks_for_what_was_missed() -> None:
    bench = Bench()
    found = bench.connect(host=None)
    (connect,) = of(Connect, bench.done)
    will = decode(Status, connect.will_payload)
    assert (will.presence, will.session) == (Presence.OFFLINE, bench.session)
    assert of(Subscribe, found)[0].topics == (f"ahs/1/d/{DEVICE}/down/#", "ahs/1/host/state")
    status, birth, reported = of(Publish, found)
    assert (status.retain, decode(Status, status.payload).session) == (True, bench.session)
    assert decode(Birth, birth.payload).reported.active == MODEL
    assert (reported.retain, decode(Reported, reported.payload).boot) == (True, 4)
    assert of(CatchUp, found)


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


def test_a_lost_connection_is_tried_again_with_growing_pauses_and_sends_everything_anew() -> None:
    bench = Bench(rows=2)
    bench.connect()
    bench.tell(BusFailed(bench.session, "cable"))
    assert (bench.core.state, "cable" in bench.core.text) == (LinkState.AWAY, True)
    pauses = []
    for _ in range(8):
        waited = 0
        while not (found := of(Connect, bench.wait(1))):
            waited += 1
        pauses.append(waited + 1)
        bench.tell(BusFailed(found[0].session, "still"))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    bench.at_s += 60
    assert seqs(bench.connect()) == [[0, 1]]


def test_a_broker_that_never_answers_is_given_up() -> None:
    bench = Bench()
    bench.tell(Tick())
    assert of(Disconnect, bench.wait(TUNING.connect_deadline_s))
    assert bench.core.state is LinkState.AWAY


def test_a_refusal_is_not_hammered_but_a_new_token_is_tried_at_once() -> None:
    bench = Bench()
    (connect,) = of(Connect, bench.tell(Tick()))
    bench.tell(BusRefused(connect.session, 135, "Not authorized"))
    assert bench.core.state is LinkState.REFUSED
    assert "renew its token" in bench.core.text
    assert of(Connect, bench.wait(200)) == []
    bench.tell(CredentialsChanged())
    assert len(of(Connect, bench.wait(0))) == 1


def test_what_an_older_connection_says_is_ignored() -> None:
    bench = Bench(rows=1)
    bench.connect()
    for event in (BusConnected("old-session"), BusFailed("old-session", ""), BusMessage("old-session", "x", b"")):
        assert notes(bench.tell(event)) == [NoteCode.LATE_BUS_EVENT]
    assert bench.core.state is LinkState.FLOWING


def test_the_late_will_of_a_deposed_worker_does_not_close_the_way() -> None:
    bench = Bench()
    bench.connect(host=None)
    bench.host(True, epoch=7)
    assert NoteCode.MESSAGE_EXPIRED in notes(bench.host(False, epoch=6))
    assert bench.core.state is LinkState.FLOWING
    bench.host(False, epoch=7)
    assert bench.core.state is LinkState.HELD  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("topic", "data", "code"),
    [
        (f"ahs/1/d/{DEVICE}/down/ack", b"{", NoteCode.MESSAGE_UNREADABLE),
        (f"ahs/1/d/{DEVICE}/down/ack", b'{"ranges": [{"boot": -1}]}', NoteCode.MESSAGE_UNREADABLE),
        (f"ahs/1/d/{DEVICE}/down/ack", b" " * 300_000, NoteCode.MESSAGE_UNREADABLE),
        (f"ahs/1/d/{DEVICE}/down/desired", b"{}", NoteCode.DESIRED_IGNORED),
        (f"ahs/1/d/{DEVICE}/down/whatever", b"{}", NoteCode.MESSAGE_UNKNOWN),
        ("ahs/1/d/other-1/down/ack", b"{}", NoteCode.MESSAGE_FOREIGN),
        ("something/else", b"{}", NoteCode.MESSAGE_UNKNOWN),
        ("ahs/1/host/state", b"\xff", NoteCode.MESSAGE_UNREADABLE),
    ],
)
def test_what_cannot_be_read_or_is_not_known_is_noted_and_nothing_else(topic: str, data: bytes, code: NoteCode) -> None:
    bench = Bench(rows=1)
    bench.connect()
    assert bench.message(topic, data) == [bench.done[-1]]
    assert notes(bench.done[-1:]) == [code]


def opinion(number: int = 1, *, expired: bool = False) -> OpinionReady:
    not_after = START + timedelta(hours=-1 if expired else 1)
    return OpinionReady(
        opinion=f"opinion-{number}", capture_id="bench-1/1/1", state=OpinionState.ANSWERED, source="reader",
        not_after=not_after,
    )  # fmt: skip


def test_an_opinion_is_announced_and_an_expired_one_is_asked_for_instead() -> None:
    bench = Bench()
    bench.connect()
    topic = f"ahs/1/d/{DEVICE}/down/opinion/opinion-1"
    assert of(Announce, bench.message(topic, encode(opinion()))) == [Announce(opinion())]
    assert of(CatchUp, bench.message(topic, encode(opinion(expired=True))))
    assert notes(bench.message(topic, encode(opinion(2)))) == [NoteCode.MESSAGE_UNREADABLE]
    unset = Moment(moment().monotonic_s, START, ClockQuality.UNSYNCED)
    found = bench.tell(BusMessage(bench.session, topic, encode(opinion(expired=True))), now=unset)
    assert of(Announce, found), "a clock that was never set cannot tell what is over"


def operation(kind: str, *, expired: bool = False) -> bytes:
    not_after = (START + timedelta(hours=-1 if expired else 1)).isoformat()
    return json.dumps({"operation": f"operation-{kind}", "kind": kind, "not_after": not_after}).encode()


@pytest.mark.parametrize(
    ("kind", "expired", "answer"),
    [
        ("rebirth", False, ("done", None)),
        ("rebirth", True, ("rejected", "expired")),
        ("capture", False, ("rejected", "unsupported")),
        ("something_new", False, ("rejected", "unsupported")),
    ],
)
def test_a_command_gets_one_terminal_answer_and_a_duplicate_gets_it_again(
    kind: str, expired: bool, answer: tuple[str, str | None]
) -> None:
    bench = Bench()
    bench.connect()
    topic = f"ahs/1/d/{DEVICE}/down/op/operation-{kind}"
    first = bench.message(topic, operation(kind, expired=expired))
    again = bench.message(topic, operation(kind, expired=expired))
    for found in (first, again):
        update = decode(OperationUpdate, of(Publish, found)[-1].payload)
        assert (update.state.value, update.code) == answer
    births = [message for message in of(Publish, first) if message.kind == "birth"]
    assert len(births) == (answer[0] == "done")
    assert [message.kind for message in of(Publish, again)] == ["op"]


def test_a_changed_report_is_told_once() -> None:
    bench = Bench()
    bench.connect()
    worse = DeviceReport(MODEL, degraded=("disk_full",))
    (told,) = of(Publish, bench.tell(ReportChanged(worse)))
    assert decode(Reported, told.payload).degraded == ("disk_full",)
    assert bench.tell(ReportChanged(worse)) == []


CHUNK = "c" * 64
CHUNKS = ("ahs/1/chunk/+",)


def test_trust_is_received_only_by_a_device_that_takes_models_and_chunks_only_while_they_are_wanted() -> None:
    bench = Bench(updates=True)
    found = bench.connect()
    (subscribed,) = of(Subscribe, found)
    assert subscribed.topics == (f"ahs/1/d/{DEVICE}/down/#", "ahs/1/host/state", "ahs/1/trust")
    assert of(Unsubscribe, found) == [Unsubscribe(CHUNKS)], "also from a session that a kill has left behind"
    assert bench.tell(ChunksWanted(True)) == [Subscribe(CHUNKS, qos=0)]
    assert bench.tell(ChunksWanted(True)) == []
    bench.tell(BusFailed(bench.session, "cable"))
    bench.at_s += 60
    assert Subscribe(CHUNKS, qos=0) in bench.connect()
    assert bench.tell(ChunksWanted(False)) == [Unsubscribe(CHUNKS)]


def test_what_is_for_the_model_update_is_handed_on_unread() -> None:
    bench = Bench(updates=True)
    bench.connect()
    for topic, handed in (
        ("ahs/1/trust", HandOn(UpdateTopic.TRUST, "", b"{")),
        (f"ahs/1/d/{DEVICE}/down/desired", HandOn(UpdateTopic.DESIRED, "", b"{")),
        (f"ahs/1/chunk/{CHUNK}", HandOn(UpdateTopic.CHUNK, CHUNK, b"{")),
    ):
        assert bench.message(topic, b"{") == [handed]
    for topic in ("ahs/1/chunk/short", "ahs/1/d/other-1/down/desired"):
        assert of(HandOn, bench.message(topic, b"{")) == []


def test_missing_chunks_are_named_to_the_cloud_while_it_is_connected() -> None:
    bench = Bench(updates=True)
    asked = ChunksMissing("sha256:" + "d" * 64, (CHUNK,))
    assert bench.tell(asked) == []
    bench.connect()
    (message,) = of(Publish, bench.tell(asked))
    need = decode(Need, message.payload)
    assert (message.topic, need.missing, need.max_packet_bytes) == (f"ahs/1/d/{DEVICE}/up/need", (CHUNK,), 2048)


def test_where_the_update_stands_is_in_the_report() -> None:
    bench = Bench(updates=True)
    bench.connect()
    update = UpdateReport(
        state=UpdateState.FAILED, code="E_SLOW", counter=2, previous="sha256:" + "1" * 64, desired_version=7,
        pending="sha256:" + "2" * 64, rollout="r-1",
    )  # fmt: skip
    (told,) = of(Publish, bench.tell(ReportChanged(DeviceReport(MODEL, update=update))))
    reported = decode(Reported, told.payload)
    assert (reported.update_state, reported.update_code, reported.release_counter) == (UpdateState.FAILED, "E_SLOW", 2)
    assert (reported.previous, reported.pending) == (update.previous, update.pending)
    assert (reported.desired_version, reported.rollout) == (7, "r-1")


def test_telemetry_is_lossy_and_expires() -> None:
    bench = Bench()
    bench.connect()
    assert of(ReadGauges, bench.wait(0))
    (message,) = of(Publish, bench.tell(GaugesRead({"spool_rows": 3.0})))
    assert (message.qos, message.expiry_s) == (0, 600)
    assert decode(Telemetry, message.payload).gauges == {"spool_rows": 3.0}


def test_a_refused_publish_is_noted() -> None:
    bench = Bench()
    bench.connect()
    assert notes(bench.tell(BusPublishRefused(bench.session, "event", 151))) == [NoteCode.PUBLISH_REFUSED]


def test_stopping_takes_leave_and_ends_everything() -> None:
    bench = Bench(rows=1)
    bench.connect()
    farewell, leave = bench.tell(Stop())
    assert isinstance(farewell, Publish)
    assert decode(Status, farewell.payload).presence is Presence.OFFLINE
    assert leave == Disconnect()
    assert bench.tell(Tick()) == bench.tell(SpoolGrew()) == []


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
