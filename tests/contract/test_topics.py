"""Topics: built and taken apart the same, and never reaching beyond one device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.contract import topics

UP_KINDS = ("status", "birth", "reported", "event", "telemetry", "op", "need")
DOWN_KINDS = ("desired", "op", "ack", "opinion")
DEVICES = st.from_regex(r"\A[a-z0-9][a-z0-9-]{1,62}\Z")
ITEMS = st.none() | st.from_regex(r"\A[A-Za-z0-9._:-]{1,64}\Z")


def covers(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter covers a topic (MQTT 5, 4.7)."""
    words, levels = pattern.split("/"), topic.split("/")
    if words[-1] == "#":
        words, levels = words[:-1], levels[: len(words) - 1]
    return len(words) == len(levels) and all(word in ("+", level) for word, level in zip(words, levels, strict=True))


def test_the_names_are_those_of_the_protocol() -> None:
    assert topics.up("bench-1", "status") == "ahs/1/d/bench-1/up/status"
    assert topics.up("bench-1", "op", "op-7") == "ahs/1/d/bench-1/up/op/op-7"
    assert topics.down("bench-1", "opinion", "o-1") == "ahs/1/d/bench-1/down/opinion/o-1"
    assert topics.all_down("bench-1") == "ahs/1/d/bench-1/down/#"
    assert topics.chunk("a" * 64) == "ahs/1/chunk/" + "a" * 64
    assert (topics.TRUST, topics.HOST_STATE, topics.ALL_UP) == ("ahs/1/trust", "ahs/1/host/state", "ahs/1/d/+/up/#")


@given(DEVICES, st.sampled_from(UP_KINDS), ITEMS)
def test_what_is_built_is_taken_apart_again(device: str, kind: str, item: str | None) -> None:
    assert topics.parse_up(topics.up(device, kind, item)) == (device, kind, item)
    assert topics.parse_down(topics.down(device, kind, item)) == (device, kind, item)
    assert topics.parse_down(topics.up(device, kind, item)) is None
    assert topics.parse_up(topics.down(device, kind, item)) is None


@given(DEVICES, DEVICES, ITEMS)
def test_a_device_may_publish_and_receive_what_is_its_own_and_nothing_of_another(
    device: str, other: str, item: str | None
) -> None:
    publish, receive = topics.publish_filters(device), topics.receive_filters(device)
    for owner in {device, other}:
        own = owner == device
        for kind in UP_KINDS:
            assert any(covers(f, topics.up(owner, kind, item)) for f in publish) == own
            assert not any(covers(f, topics.up(owner, kind, item)) for f in receive)
        for kind in DOWN_KINDS:
            assert any(covers(f, topics.down(owner, kind, item)) for f in receive) == own
            assert not any(covers(f, topics.down(owner, kind, item)) for f in publish)
    for shared in (topics.TRUST, topics.HOST_STATE, topics.chunk("a" * 64)):
        assert any(covers(f, shared) for f in receive)
        assert not any(covers(f, shared) for f in publish)


@given(DEVICES, st.sampled_from(UP_KINDS), ITEMS)
def test_the_clouds_filter_covers_everything_devices_say(device: str, kind: str, item: str | None) -> None:
    assert covers(topics.ALL_UP, topics.up(device, kind, item))
    assert not covers(topics.ALL_UP, topics.down(device, kind, item))


@pytest.mark.parametrize("device", ["", "a", "+", "#", "a/b", "../x", "Bench", "bench 1", "bench-1\n", "-b", "b" * 64])
def test_a_device_name_that_would_reach_beyond_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="device id"):
        topics.up(device, "status")
    with pytest.raises(ValueError, match="device id"):
        topics.down(device, "ack")
    with pytest.raises(ValueError, match="device id"):
        topics.all_down(device)
    assert topics.parse_up(f"ahs/1/d/{device}/up/status") is None


@pytest.mark.parametrize(
    ("kind", "item"), [("", None), ("op/x", None), ("#", None), ("op", ""), ("op", "+"), ("op", "a/b")]
)
def test_a_kind_or_item_that_would_reach_beyond_is_refused(kind: str, item: str | None) -> None:
    with pytest.raises(ValueError, match="topic"):
        topics.up("bench-1", kind, item)
    with pytest.raises(ValueError, match="topic"):
        topics.down("bench-1", kind, item)


@pytest.mark.parametrize(
    "topic",
    ["", "ahs/1/d/bench-1/up", "ahs/1/d/bench-1/up/status\n", "ahs/2/d/bench-1/up/status", "x/ahs/1/d/b-1/up/op/1"],
)
def test_what_is_no_topic_of_a_device_is_none(topic: str) -> None:
    assert topics.parse_up(topic) is None
    assert topics.parse_down(topic.replace("/up/", "/down/")) is None


def test_a_chunk_is_named_by_its_hash_alone() -> None:
    for name in ("", "a" * 63, "A" * 64, "a" * 64 + "\n", "#"):
        with pytest.raises(ValueError, match="64 hex"):
            topics.chunk(name)
