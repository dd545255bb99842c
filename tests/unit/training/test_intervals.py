"""Intervals against what can be worked out by hand, and against the slow way of drawing."""

from __future__ import annotations

import numpy as np
import pytest

from training.intervals import clopper_pearson, group_weights, mean_interval, percentile, share_interval


@pytest.mark.parametrize(
    ("seen", "total", "low", "high"),
    [(0, 100, 0.0, 0.036), (1, 100, 0.0, 0.054), (5, 200, 0.008, 0.057), (50, 100, 0.398, 0.602), (7, 7, 0.590, 1.0)],
)
def test_exact_limits_are_those_of_the_published_table(seen: int, total: int, low: float, high: float) -> None:
    assert clopper_pearson(seen, total) == pytest.approx((low, high), abs=6e-4)


def test_limits_of_a_large_count_are_finite_and_around_it() -> None:
    low, high = clopper_pearson(1200, 5000)
    assert 0.22 < low < 0.24 < high < 0.26


def test_more_than_all_is_no_share() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        clopper_pearson(3, 2)
    assert share_interval(0, 0).as_json() == {"value": None, "low": 0.0, "high": 1.0}


def test_items_of_a_group_are_drawn_together_and_the_number_of_groups_stays() -> None:
    weights = group_weights(["a", "a", "b", "c"], resamples=300, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights[:, 3].std() > 0


def test_the_same_seed_draws_the_same_groups_and_another_does_not() -> None:
    groups = [str(i // 2) for i in range(40)]
    first = group_weights(groups, resamples=20, seed=3)
    assert (first == group_weights(groups, resamples=20, seed=3)).all()
    assert (first != group_weights(groups, resamples=20, seed=4)).any()


def test_within_strata_no_resample_loses_a_stratum() -> None:
    groups = ["s1", "s1", "s2", "s3", "s3", "s3"]
    strata = ["n", "n", "n", "m", "m", "n"]  # s3 is mostly m
    weights = group_weights(groups, resamples=200, seed=0, strata=strata)
    assert (weights[:, 3] == 1).all()
    assert (weights[:, [0, 2]].sum(axis=1) == 2).all()


def test_the_bootstrap_of_a_mean_has_the_width_of_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 2.0, 400)
    said = mean_interval(values, group_weights([str(i) for i in range(400)], resamples=2000, seed=0))
    assert said.low is not None
    assert said.high is not None
    assert (said.high - said.low) / (2 * 1.96 * values.std() / 20) == pytest.approx(1.0, abs=0.08)


def test_dependent_items_make_a_wider_interval_than_independent_ones() -> None:
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 30), 10)
    together = mean_interval(values, group_weights([str(i // 10) for i in range(300)], resamples=500, seed=0))
    apart = mean_interval(values, group_weights([str(i) for i in range(300)], resamples=500, seed=0))
    assert together.low is not None
    assert together.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_figure_that_no_resample_has_gets_no_limits() -> None:
    assert percentile(0.5, np.array([np.nan, np.nan])).low is None
    assert mean_interval(np.empty(0), np.empty((5, 0), np.int32)).as_json()["value"] is None
