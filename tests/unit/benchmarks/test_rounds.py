"""Contenders take turns, and are compared round by round."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from benchmarks.peers.picture import OURS, bars
from benchmarks.peers.rounds import WARM_UP, in_rounds, ratio


def test_every_contender_runs_once_a_round_and_the_warm_up_does_not_count() -> None:
    ran: list[str] = []
    times = in_rounds({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 5)
    assert {name: len(values) for name, values in times.items()} == {"a": 5, "b": 5}
    assert ran.count("a") == ran.count("b") == 5 + WARM_UP
    pairs = {tuple(ran[i : i + 2]) for i in range(0, len(ran), 2)}
    assert pairs == {("a", "b"), ("b", "a")}


def test_a_ratio_is_paired_by_round_so_that_other_load_falls_out() -> None:
    load = [1.0, 5.0, 1.0, 3.0, 1.0]
    times = {"slow": [6 * x for x in load], "fast": [2 * x for x in load]}
    assert ratio(times, "slow", "fast") == (3.0, 3.0, 3.0)


def test_the_picture_shows_each_row_and_which_are_ours() -> None:
    drawn = ElementTree.fromstring(bars([("them <fp32>", 40.0, False), ("us", 4.0, True)]))
    texts = [t.text for t in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:] == ["us", "4.0", "them <fp32>", "40.0"]
    fills = [r.get("fill") for r in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert fills[1] == OURS
    assert fills[2] != OURS
