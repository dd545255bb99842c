"""Taking messages apart, ranges, and which session a status belongs to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.ingest.rules import Link, next_link, parse, ranges
from fleet.contract.messages import Presence

ONLINE, OFFLINE = Presence.ONLINE, Presence.OFFLINE


@given(st.binary(max_size=300), st.sampled_from(["event", "status", "birth", "riddle", "telemetry"]))
def test_no_payload_breaks_the_reader(payload: bytes, kind: str) -> None:
    parsed = parse(f"ahs/1/d/bench-1/up/{kind}", payload)
    assert parsed.device == "bench-1"
    assert parsed.letters or parsed.message is not None or parsed.events


@given(st.text(max_size=60))
def test_no_topic_breaks_the_reader(topic: str) -> None:
    assert parse(topic, b"{}").letters


def test_a_retained_message_that_was_cleared_is_no_dead_letter() -> None:
    assert parse("ahs/1/d/bench-1/up/status", b"", retained=True).letters == ()


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 60))), st.integers(1, 5))
def test_ranges_cover_exactly_what_they_were_made_of(places: set[tuple[int, int]], limit: int) -> None:
    parts = ranges(places, limit=limit)
    found = [(r.boot, seq) for part in parts for r in part for seq in range(r.first, r.last + 1)]
    assert sorted(found) == sorted(places)
    assert all(len(part) <= limit for part in parts)


def test_deep_nesting_is_a_dead_letter_and_not_a_crash() -> None:
    parsed = parse("ahs/1/d/bench-1/up/event", b'{"events":' + b"[" * 100_000)
    assert [letter.code for letter in parsed.letters] == ["not_json"]


def test_a_session_ends_once() -> None:
    link = Link(ONLINE, "a")
    ended = next_link(link, session="a", presence=OFFLINE)
    assert ended == Link(OFFLINE, "a")
    assert ended is not None
    assert next_link(ended, session="a", presence=ONLINE) is None


def test_a_newer_session_makes_the_older_history() -> None:
    link = next_link(Link(ONLINE, "a"), session="b", presence=ONLINE)
    assert link == Link(ONLINE, "b", ("a",))
    assert link is not None
    assert next_link(link, session="a", presence=OFFLINE) is None
    assert next_link(link, session="a", presence=ONLINE) is None


def test_a_death_of_a_session_nobody_saw_does_not_end_the_living_one() -> None:
    assert next_link(Link(ONLINE, "b"), session="c", presence=OFFLINE) is None
    assert next_link(Link(), session="c", presence=OFFLINE) == Link(OFFLINE, "c")
