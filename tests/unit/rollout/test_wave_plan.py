"""Which device is in which wave."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fleet.contract.release import WavePlan
from fleet.rollout.plan import PlanError, resolve, share_of


def names(count: int) -> list[str]:
    return [f"bench-{index:04}" for index in range(count)]


def sizes(waves: tuple[tuple[str, ...], ...]) -> list[int]:
    return [len(wave) for wave in waves]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1]), (2, [1, 1]), (4, [1, 2, 1]), (20, [1, 2, 2, 15]), (100, [1, 4, 20, 75]), (1000, [1, 49, 200, 750])],
)
def test_by_default_one_device_then_five_percent_at_least_two_then_a_quarter_then_all(
    count: int, expected: list[int]
) -> None:
    assert sizes(resolve(names(count))) == expected


def test_named_devices_are_where_they_are_named_and_a_share_passes_them_over() -> None:
    waves = (WavePlan(devices=("bench-0003",)), WavePlan(percent=50), WavePlan(percent=100))
    assert resolve(names(4), waves) == (("bench-0003",), ("bench-0000",), ("bench-0001", "bench-0002"))


def test_a_device_that_a_later_wave_names_is_not_taken_by_an_earlier_share() -> None:
    waves = (WavePlan(percent=50), WavePlan(devices=("bench-0000", "bench-0003")))
    assert resolve(names(4), waves) == (("bench-0001", "bench-0002"), ("bench-0000", "bench-0003"))


@pytest.mark.parametrize(
    ("devices", "waves", "words"),
    [
        ([], (), "no device"),
        (["a-1", "a-1"], (), "more than once: a-1"),
        (["a-1", "a-2"], (WavePlan(devices=("a-1",)), WavePlan(devices=("a-1", "a-2"))), "more than once: a-1"),
        (["a-1"], (WavePlan(devices=("a-9",)),), "does not have: a-9"),
        (["a-1", "a-2"], (WavePlan(percent=50),), "in no wave: a-2"),
        (["a-1"], (WavePlan(percent=100), WavePlan(percent=100)), "no device is left for wave 1"),
    ],
)
def test_waves_that_cannot_be_what_was_meant_are_refused(
    devices: list[str], waves: tuple[WavePlan, ...], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        resolve(devices, waves)


def test_a_wave_that_names_nothing_or_both_is_refused_when_it_is_written() -> None:
    for wrong in ({}, {"devices": ("a-1",), "percent": 5}, {"percent": float("nan")}, {"percent": 0}, {"percent": 101}):
        with pytest.raises(ValidationError):
            WavePlan.model_validate(wrong)


def test_a_share_is_rounded_up_and_not_by_binary_fractions() -> None:
    assert [share_of(0.1, 30), share_of(0.7, 10), share_of(0.05, 21), share_of(0.0, 5)] == [3, 7, 2, 0]


plans = st.one_of(
    st.just(()),
    st.lists(st.builds(WavePlan, percent=st.floats(0.01, 99), least=st.integers(1, 9)), max_size=5).map(
        lambda waves: (*waves, WavePlan(percent=100))
    ),
)


@given(count=st.integers(1, 300), waves=plans)
def test_every_device_is_in_exactly_one_wave_and_no_wave_is_empty(count: int, waves: tuple[WavePlan, ...]) -> None:
    resolved: tuple[tuple[str, ...], ...] | None = None
    with contextlib.suppress(PlanError):
        resolved = resolve(names(count), waves)
    if resolved is None:
        assert waves, "the default waves fit every fleet"
        return
    assert sorted(device for wave in resolved for device in wave) == names(count)
    assert all(resolved)
    assert resolved == resolve(names(count), waves)
