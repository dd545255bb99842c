"""The uplink core, stepped by hand: connecting, losing the way, and taking leave."""

from __future__ import annotations

from edge_agent.uplink.link import LinkState
from edge_agent.uplink.traffic import (
    BusConnected,
    BusFailed,
    BusMessage,
    BusPublishRefused,
    BusRefused,
    CatchUp,
    Connect,
    CredentialsChanged,
    DeviceReport,
    Disconnect,
    GaugesRead,
    NoteCode,
    Publish,
    ReadGauges,
    ReportChanged,
    SpoolGrew,
    Stop,
    Subscribe,
    Tick,
)
from fleet.contract.codec import decode
from fleet.contract.messages import (
    Birth,
    Presence,
    Reported,
    Status,
    Telemetry,
)
from tests.unit.edge.edge_builders import DEVICE, MODEL
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


def test_a_changed_report_is_told_once() -> None:
    bench = Bench()
    bench.connect()
    worse = DeviceReport(MODEL, degraded=("disk_full",))
    (told,) = of(Publish, bench.tell(ReportChanged(worse)))
    assert decode(Reported, told.payload).degraded == ("disk_full",)
    assert bench.tell(ReportChanged(worse)) == []


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
