"""Measurements compare like with like."""

from __future__ import annotations

import time

import pytest

from benchmarks.ratios import Compared, conditions, in_turns, spread


def test_every_item_is_done_both_ways_and_the_order_is_swapped() -> None:
    done: list[str] = []
    compared = in_turns(4, lambda n: done.append(f"bare {n}"), lambda n: done.append(f"full {n}"), warm_up=2)
    assert done[:4] == ["full 0", "bare 0", "bare 1", "full 1"]
    assert len(done) == 2 * (4 + 2)
    assert len(compared.bare_ms) == len(compared.full_ms) == 4


def test_the_ratio_is_taken_item_by_item() -> None:
    assert Compared((1.0, 10.0), (2.0, 11.0)).ratios == (2.0, 1.1)


def test_a_slower_way_is_seen_to_be_slower() -> None:
    compared = in_turns(5, lambda _: time.sleep(0.001), lambda _: time.sleep(0.02))
    assert min(compared.ratios) > 1.0


def test_a_spread_names_the_middle_and_the_range() -> None:
    assert spread([float(value) for value in range(1, 101)]).startswith("50.50 (")


@pytest.mark.parametrize("word", ["Measured", "Python 3", "onnxruntime"])
def test_the_conditions_say_on_what_it_was_measured(word: str) -> None:
    assert word in conditions()
