"""The wire as it was released, and as it may be when the peer is newer or hostile."""

from __future__ import annotations

import base64
import json
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fleet.contract import base, cells, messages, release
from fleet.contract.base import MAX_MESSAGE_BYTES, CaptureId, TolerantEnum
from fleet.contract.codec import MAX_DEPTH, WireError, decode, decode_events, encode
from fleet.contract.messages import (
    MAX_CROP_BYTES,
    Alarm,
    ClosedBy,
    EventBatch,
    FieldResult,
    LengthUnit,
    Reported,
    SamplingPolicy,
    Severity,
    SizeHistogram,
    SlideKind,
    SlideResult,
    Status,
    Telemetry,
)
from tests.contract.examples import EXAMPLES, GOLDEN, pretty, wire_classes
from tests.contract.strategies import messages_of

CLASSES = sorted(wire_classes(), key=lambda kind: kind.__name__)


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def batch(*events: dict[str, Any], **envelope: Any) -> bytes:
    document = json.loads(golden("EventBatch")) | envelope
    return json.dumps(document | {"events": list(events)}).encode()


def event(**changes: Any) -> dict[str, Any]:
    base_event = {"kind": "alarm", "boot": 3, "seq": 1, "raised_at": "2026-01-31T12:00:00Z", "severity": "info"}
    return {**base_event, "code": "c", **changes}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_was_released_is_read_and_written_as_it_was(name: str) -> None:
    message = decode(type(EXAMPLES[name]), golden(name))
    assert pretty(message) == golden(name).decode()
    assert message == EXAMPLES[name]


def test_every_golden_file_belongs_to_an_example_and_every_class_is_in_one() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(EXAMPLES)

    def inside(value: object) -> set[str]:
        if isinstance(value, BaseModel):
            return {type(value).__name__}.union(*(inside(getattr(value, name)) for name in type(value).model_fields))
        return set().union(*map(inside, value)) if isinstance(value, tuple) else set()

    seen = set().union(*map(inside, EXAMPLES.values()))
    assert {kind.__name__ for kind in CLASSES} - seen == {"Envelope", "CaptureId"}


def test_no_example_leaves_a_field_at_its_default_where_it_could_tell_more() -> None:
    left = {
        f"{name}.{field}"
        for name, example in EXAMPLES.items()
        for field, info in type(example).model_fields.items()
        if field not in example.model_fields_set and not info.is_required()
    }
    assert {
        entry for entry in left if entry.split(".")[1] not in {"schema_version", "clock", "type", "schema_"}
    } == set()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@settings(max_examples=10)
@given(data=st.data())
def test_what_is_written_is_read_back_the_same(kind: type[BaseModel], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    written = encode(message)
    assert decode(kind, written) == message
    assert encode(decode(kind, written)) == written


@pytest.mark.parametrize("name", EXAMPLES)
def test_fields_of_a_newer_peer_are_ignored_at_every_level(name: str) -> None:
    def newer(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: newer(part) for key, part in value.items()} | {"from_the_future": {"a": [1]}}
        return [newer(part) for part in value] if isinstance(value, list) else value

    kind, document = type(EXAMPLES[name]), json.loads(golden(name))
    open_maps = {
        "white_cells",
        "limits",
        "gauges",
        "result",
        "config",
        "arguments",
        "labels",
        "parts",
        "probabilities",
        "evidence",
        "reasons",
        "models",
    }

    def without(value: Any, inside_map: bool = False) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if not (inside_map and k == "from_the_future")}
            return {key: without(part, key in open_maps) for key, part in kept.items()}
        return [without(part) for part in value] if isinstance(value, list) else value

    data = json.dumps(without(newer(document))).encode()
    assert b"from_the_future" in data
    assert decode(kind, data) == EXAMPLES[name]


ADDED = {
    "slide": {
        *("version", "slide_kind", "closed_by", "target", "uncertain", "unidentified_limits", "platelet_estimate"),
        *("platelet_estimate_margin", "red_cell_histogram", "quality", "corrected", "agent_version", "models", "notes"),
    },
    "dropped": {"aside"},
}
"""Kind of an event -> fields that its first version did not have."""


def test_an_event_of_the_first_version_is_read_and_says_that_it_does_not_know_the_rest() -> None:
    document = json.loads(golden("EventBatch"))
    old = [{k: v for k, v in item.items() if k not in ADDED.get(item["kind"], ())} for item in document["events"]]
    read, rejected = decode_events(json.dumps(document | {"events": old}).encode())
    assert rejected == []
    assert read is not None
    (slide,) = (item for item in read.events if isinstance(item, SlideResult))
    assert (slide.version, slide.slide_kind, slide.closed_by) == (1, SlideKind.SPECIMEN, ClosedBy.UNKNOWN)
    assert (slide.uncertain, slide.target, slide.platelet_estimate, slide.models) == (None, None, None, {})
    assert SamplingPolicy.model_validate({"per_hour": 3}).per_day is None


@pytest.mark.parametrize(
    ("edges", "counts"), [((1.0, 2.0, 3.0), (1,)), ((1.0, 2.0), (1, 2)), ((2.0, 2.0), (1,)), ((2.0, 1.0), (1,))]
)
def test_a_histogram_whose_edges_do_not_fit_its_counts_is_refused(edges: Any, counts: Any) -> None:
    with pytest.raises(ValidationError, match="histogram"):
        SizeHistogram(edges=edges, counts=counts, unit=LengthUnit.UM)


def test_a_crop_of_the_largest_size_fits_and_what_is_larger_or_no_base64_is_set_apart() -> None:
    (label,) = (item for item in json.loads(golden("EventBatch"))["events"] if item["kind"] == "bench_label")
    largest = base64.b64encode(bytes(MAX_CROP_BYTES)).decode()
    crops = [largest, largest + "AAAA", "no base64!", "/9j/\n2Q=="]
    read, rejected = decode_events(batch(*[label | {"seq": n, "crop_jpeg": crop} for n, crop in enumerate(crops)]))
    assert read is not None
    assert [item.seq for item in read.events] == [0]
    assert [bad.seq for bad in rejected] == [1, 2, 3]


TOLERANT = sorted(
    {
        item
        for module in (base, cells, messages, release)
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, TolerantEnum) and item is not TolerantEnum
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", TOLERANT, ids=lambda kind: kind.__name__)
def test_a_value_of_a_newer_peer_is_unknown(kind: type[TolerantEnum]) -> None:
    assert kind("a value of next year") is kind.__members__["UNKNOWN"]
    with pytest.raises(ValueError, match="is not a valid"):
        kind(7)  # type: ignore[arg-type]


def test_every_enum_on_the_wire_is_a_tolerant_one() -> None:
    fields = [info.annotation for kind in CLASSES for info in kind.model_fields.values()]
    enums = {item for item in fields if isinstance(item, type) and issubclass(item, Enum)}
    assert len(enums) >= 8
    assert enums <= set(TOLERANT)


def test_an_unknown_state_does_not_hide_the_rest_of_a_message() -> None:
    document = json.loads(golden("Reported")) | {"update_state": "levitating", "clock": "atomic"}
    message = decode(Reported, json.dumps(document).encode())
    assert message.update_state is messages.UpdateState.UNKNOWN
    assert message.clock is base.ClockQuality.UNKNOWN
    assert message.active == decode(Reported, golden("Reported")).active


def test_a_message_as_large_as_allowed_is_read_and_one_byte_more_is_refused() -> None:
    data = golden("Status")
    exact = data + b" " * (MAX_MESSAGE_BYTES - len(data))
    assert decode(Status, exact).device == "bench-1"
    with pytest.raises(WireError) as caught:
        decode(Status, exact + b" ")
    assert caught.value.code == "too_large"
    with pytest.raises(WireError, match="too_large"):
        decode_events(golden("EventBatch") + b" " * MAX_MESSAGE_BYTES)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_json"),
        (b"\xff\xfe{}", "not_json"),
        (b"{", "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": -Infinity}', "not_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"null", "invalid"),
        (b"[]", "invalid"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "invalid"),
        (b'{"device": "bench-1"}', "invalid"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(data: bytes, code: str) -> None:
    for read in (lambda: decode(Status, data), lambda: decode_events(data)):
        with pytest.raises(WireError) as caught:
            read()
        assert caught.value.code == code
        assert caught.value.detail


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_no_bytes_whatever_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(Status, data)
    with pytest.raises(WireError):
        decode_events(data)


POISON = {
    "a kind of next year": {"kind": "nova"},
    "no kind at all": {"kind": None},
    "a number below zero": {"seq": -1},
    "a number no column holds": {"seq": 2**63},
    "a time without a zone": {"raised_at": "2026-01-31T12:00:00"},
    "a time before time": {"raised_at": "0001-01-01T00:00:00+14:00"},
    "half a character": {"text": "\ud800"},
    "a NUL": {"text": "a\x00b"},
    "a text too long": {"text": "x" * 501},
}


@pytest.mark.parametrize("changes", POISON.values(), ids=POISON.keys())
def test_a_poisonous_event_is_set_apart_and_the_others_are_read(changes: dict[str, Any]) -> None:
    read, rejected = decode_events(batch(event(seq=1), event(seq=2) | changes, event(seq=3)))
    assert read is not None
    assert [item.seq for item in read.events] == [1, 3]
    (bad,) = rejected
    assert bad.detail
    assert bad.boot == 3
    assert bad.seq == (None if changes.get("seq") == -1 else changes.get("seq", 2))


def test_things_that_are_no_events_are_set_apart_without_a_name() -> None:
    read, rejected = decode_events(batch(event(seq=1), 7, None, [], "x"))  # type: ignore[arg-type]
    assert read is not None
    assert len(read.events) == 1
    assert [(bad.boot, bad.seq) for bad in rejected] == [(None, None)] * 4


def test_a_batch_of_nothing_but_poison_still_says_whose_it_is() -> None:
    read, rejected = decode_events(batch(event(seq=-1)))
    assert read is None
    assert len(rejected) == 1
    with pytest.raises(WireError, match="device"):
        decode_events(batch(event(seq=-1), device="../etc"))


@pytest.mark.parametrize(
    "changes",
    [{"device": "Bench 1"}, {"sent_at": "yesterday"}, {"boot": -1}, {"message_id": "a\x00" * 8}, {"seq": 0.5}],
)
def test_a_batch_whose_envelope_cannot_be_read_is_refused_as_a_whole(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError) as caught:
        decode_events(batch(event(), **changes))
    assert caught.value.code == "invalid"


def test_an_empty_batch_and_one_too_many_are_refused() -> None:
    for size in (0, 501):
        with pytest.raises(WireError, match="events"):
            decode_events(batch(*[event(seq=seq) for seq in range(size)]))


def test_a_novel_severity_is_no_poison() -> None:
    read, rejected = decode_events(batch(event(severity="apocalyptic")))
    assert rejected == []
    assert read is not None
    assert isinstance(read.events[0], Alarm)
    assert read.events[0].severity is Severity.UNKNOWN


def test_numbers_that_are_none_are_not_sent() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Telemetry.model_validate(json.loads(golden("Telemetry")) | {"gauges": {"focus": value}})
        with pytest.raises(ValidationError):
            FieldResult.model_validate(json.loads(golden("EventBatch"))["events"][0] | {"latency_ms": value})


def test_equal_messages_are_equal_bytes() -> None:
    first = decode(EventBatch, golden("EventBatch"))
    document = json.loads(golden("EventBatch"))
    shuffled = json.dumps(dict(reversed(document.items()))).encode()
    assert encode(decode(EventBatch, shuffled)) == encode(first)
    assert "µ".encode() in encode(first)


def test_a_token_is_not_shown_where_its_answer_is_printed() -> None:
    assert "not-a-real-token" not in repr(EXAMPLES["DeviceToken"])


def test_a_capture_id_is_read_as_it_is_written() -> None:
    capture = CaptureId(device="bench-1", boot=3, frame=41)
    assert CaptureId.parse(str(capture)) == capture


@pytest.mark.parametrize(
    "text", ["", "bench-1", "bench-1/3", "bench-1/3/41/5", "bench-1/x/4", "bench-1/-3/4", "A/1/2", "b-1/٣/4"]
)
def test_what_is_no_capture_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - two kinds of message, one meaning
        CaptureId.parse(text)


def test_the_limits_are_those_that_devices_in_the_field_know() -> None:
    assert (base.SCHEMA_VERSION, MAX_MESSAGE_BYTES, MAX_DEPTH) == (1, 262_144, 32)
