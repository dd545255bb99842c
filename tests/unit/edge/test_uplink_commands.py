"""The uplink core, stepped by hand: what the cloud says, asks and hands on."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from edge_agent.moment import Moment
from edge_agent.uplink.traffic import (
    Announce,
    BusFailed,
    BusMessage,
    CatchUp,
    ChunksMissing,
    ChunksWanted,
    DeviceReport,
    HandOn,
    NoteCode,
    Publish,
    ReportChanged,
    Subscribe,
    Unsubscribe,
    UpdateReport,
    UpdateTopic,
)
from fleet.contract.base import ClockQuality
from fleet.contract.codec import decode, encode
from fleet.contract.messages import (
    Need,
    OperationUpdate,
    OpinionReady,
    OpinionState,
    Reported,
    UpdateState,
)
from tests.unit.edge.edge_builders import DEVICE, MODEL, START, moment
from tests.unit.edge.uplink_bench import Bench, notes, of


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
