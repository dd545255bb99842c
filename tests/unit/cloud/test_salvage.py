"""One event that cannot be read among others that can: only that one is lost, and it is told where it can be named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.ingest import salvage
from cloud.ingest.rules import Parsed, parse
from fleet.contract.messages import EventBatch

DIGEST = "sha256:" + "a1" * 32


def event(seq: int, **changes: Any) -> str:
    """As an agent stores it: one line, sorted keys."""
    found = {
        "kind": "field",
        "boot": 4,
        "seq": seq,
        "capture_id": f"bench-1/4/{seq}",
        "captured_at": "2026-03-01T08:00:00Z",
        "decision": "accept",
        "counts": {"rbc": 100, "wbc": 1, "platelets": 5, "white_cells": {"neutrophil": 1}},
        "model": DIGEST,
        "latency_ms": 40.0,
    }
    return json.dumps(found | changes, sort_keys=True, separators=(",", ":"))


def batch(*events: str, device: str = "bench-1") -> bytes:
    head = {"message_id": "m" * 12, "device": device, "boot": 4, "seq": 7, "sent_at": "2026-03-01T08:00:00Z"}
    return f'{json.dumps(head)[:-1]},"events":[{",".join(events)}]}}'.encode()


def read(payload: bytes) -> Parsed:
    return parse("ahs/1/d/bench-1/up/event", payload)


def outcome(parsed: Parsed) -> tuple[list[int], list[tuple[str, tuple[tuple[int, int], ...]]]]:
    return [e.seq for e in parsed.events], [(letter.code, letter.places) for letter in parsed.letters]


DEEP = '{"a":' * 40 + "1" + "}" * 40


@pytest.mark.parametrize(
    ("poison", "letters"),
    [
        pytest.param(event(2)[:-30], [("not_json", ())], id="cut off before its number"),
        pytest.param(event(22)[:-2], [("not_json", ())], id="cut off in its number"),
        pytest.param(event(2).replace("40.0", "40 .0"), [("not_json", ((4, 2),))], id="a stray space"),
        pytest.param(event(2).replace("40.0", "NaN"), [("not_json", ((4, 2),))], id="not a number"),
        pytest.param(event(2, reasons=["x"]).replace('["x"]', DEEP), [("invalid", ((4, 2),))], id="nested too deep"),
        pytest.param("not json at all", [("not_json", ())], id="no JSON"),
        pytest.param(event(2).replace('"kind"', '"kind'), [("not_json", ((4, 2),))], id="a quote is missing"),
        pytest.param("[" * 50_000, [("not_json", ())], id="brackets without end"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_one_broken_event_takes_none_of_its_neighbours_along(
    poison: str, letters: list[tuple[str, tuple[tuple[int, int], ...]]]
) -> None:
    assert outcome(read(batch(event(1), poison, event(3)))) == ([1, 3], letters)
    assert outcome(read(batch(event(1), event(3), poison)))[0] == [1, 3]
    assert outcome(read(batch(poison, event(1), event(3))))[0] == [1, 3]


def test_a_broken_event_that_is_not_utf_8_is_told_by_its_number() -> None:
    payload = batch(event(1), event(2, slide="XX"), event(3)).replace(b"XX", b"\xff\xfe")
    assert outcome(read(payload)) == ([1, 3], [("not_json", ((4, 2),))])


def test_a_broken_event_alone_is_told_where_its_number_can_be_read() -> None:
    assert outcome(read(batch(event(2).replace("{", "", 1)))) == ([], [("not_json", ((4, 2),))])
    assert outcome(read(batch("rubbish"))) == ([], [("not_json", ())])


def test_a_number_that_was_taken_is_never_told_as_refused() -> None:
    assert outcome(read(batch(event(1), event(1).replace("40.0", "40 .0"), event(3)))) == ([1, 3], [("not_json", ())])


def test_another_devices_broken_batch_is_refused_all_the_same() -> None:
    parsed = read(batch(event(1), "rubbish", device="bench-2"))
    assert parsed.events == ()
    assert {letter.code for letter in parsed.letters} == {"identity", "not_json"}


def test_a_message_of_nothing_but_beginnings_is_given_up_after_so_many_tries() -> None:
    found = salvage.split(batch(*['{"boot":1,"seq":1,"kind":'] * 5000))
    assert found is not None
    assert len(found.items) == 1


@pytest.mark.parametrize("sound", [True, False])
def test_a_message_of_very_many_pieces_makes_no_more_letters_than_a_batch_has_events(sound: bool) -> None:
    payload = batch(event(1), *["1"] * 20_000)
    parsed = read(payload if sound else payload + b"}")
    assert [e.seq for e in parsed.events] == [1]
    assert len(parsed.letters) in (500, 501)
    last = parsed.letters[-1]
    assert last.code == "too_many"
    assert last.payload.count(b"1") > 19_000, "nothing is thrown away unseen"


def test_of_more_events_than_a_batch_may_have_the_first_are_taken_and_the_others_come_again() -> None:
    parsed = read(batch(*[event(seq) for seq in range(1, 511)]))
    assert [e.seq for e in parsed.events] == list(range(1, 501))
    assert [(letter.code, letter.places) for letter in parsed.letters] == [("too_many", ())]


def test_the_pieces_are_as_many_as_the_contract_allows_events() -> None:
    limits = [found.max_length for found in EventBatch.model_fields["events"].metadata if hasattr(found, "max_length")]
    assert limits == [salvage.MAX_PIECES]


def test_an_envelope_that_is_too_long_is_not_read_again_with_each_piece() -> None:
    payload = batch(event(1), "rubbish").replace(b'"device"', b'"note":"' + b"x" * 5000 + b'","device"')
    assert read(payload).events == ()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_whatever_is_cut_out_of_one_event_the_others_arrive(kinds: list[int], data: st.DataObject) -> None:
    events = [event(seq, slide="s" * kind) for seq, kind in enumerate(kinds, start=1)]
    at = data.draw(st.integers(0, len(events) - 1))
    begin = data.draw(st.integers(1, len(events[at]) - 2))
    end = data.draw(st.integers(begin + 1, len(events[at])))
    broken = [*events[:at], events[at][:begin] + events[at][end:], *events[at + 1 :]]
    seqs, letters = outcome(read(batch(*broken)))
    others = [seq for seq in range(1, len(events) + 1) if seq != at + 1]
    assert set(others) <= set(seqs)
    assert all((4, seq) not in places for _, places in letters for seq in others)
