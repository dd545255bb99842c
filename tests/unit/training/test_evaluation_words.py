"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from training.evaluation.words import difference, interval, percent

FIGURE = {"value": 0.9563, "low": 0.9411, "high": 0.9694}


def test_a_figure_stands_with_its_limits() -> None:
    assert interval(FIGURE) == "0.956 (0.941-0.969)"
    assert percent(FIGURE) == "95.6 % (94.1-96.9)"
    assert interval(FIGURE, digits=2) == "0.96 (0.94-0.97)"


def test_a_difference_always_has_its_sign() -> None:
    assert difference({"value": -0.019, "low": -0.034, "high": 0.002}) == "-0.019 (-0.034 to +0.002)"


@pytest.mark.parametrize(("say", "alone"), [(interval, "0.956"), (difference, "+0.956"), (percent, "95.6 %")])
def test_without_limits_the_figure_stands_alone_and_without_a_figure_there_is_a_dash(
    say: Callable[..., str], alone: str
) -> None:
    assert say({**FIGURE, "low": None, "high": None}) == alone
    assert say({**FIGURE, "value": None}) == "-"
    assert say(None) == "-"
