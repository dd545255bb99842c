"""Exact limits of the differential, against the published table and against the definition."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.slides.differential import differential, estimate_platelets, limits

# Clopper-Pearson in per cent, as laboratories print it: seen of 100 -> (n=100, n=200, n=400).
PRINTED = {
    0: ((0, 3.6), (0, 1.8), (0, 0.9)),
    1: ((0, 5.4), (0.1, 3.6), (0.3, 2.5)),
    5: ((1.6, 11.3), (2.4, 9.0), (3.1, 7.6)),
    10: ((4.9, 17.6), (6.2, 15.0), (7.2, 13.4)),
    30: ((21.2, 40.0), (23.7, 36.9), (25.5, 34.8)),
    50: ((39.8, 60.2), (42.9, 57.1), (45.0, 55.0)),
}


@pytest.mark.parametrize("percent", PRINTED)
def test_the_limits_are_those_of_the_printed_table(percent: int) -> None:
    for total, (low, high) in zip((100, 200, 400), PRINTED[percent], strict=True):
        found = limits(total * percent // 100, total)
        assert (round(100 * found[0], 1), round(100 * found[1], 1)) == (low, high)


def binomial_tail(seen: int, total: int, p: float) -> float:
    return sum(comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(seen, total + 1))


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_at_each_limit_the_binomial_tail_is_two_and_a_half_per_cent(case: tuple[int, int]) -> None:
    seen, total = case
    low, high = limits(seen, total)
    assert 0 <= low <= seen / total <= high <= 1
    if seen:
        assert binomial_tail(seen, total, low) == pytest.approx(0.025, rel=1e-6)
    if seen < total:
        assert 1 - binomial_tail(seen + 1, total, high) == pytest.approx(0.025, rel=1e-6)


def test_without_any_cell_the_limits_say_nothing() -> None:
    assert limits(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("seen", "total"), [(-1, 5), (6, 5)])
def test_more_cells_than_there_are_is_refused(seen: int, total: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        limits(seen, total)


def test_large_counts_converge() -> None:
    low, high = limits(500_000, 1_000_000)
    assert 0.499 < low < 0.5 < high < 0.501


def test_unidentified_cells_are_in_no_share() -> None:
    result = differential({"neutrophil": 6, "lymphocyte": 2, "unidentified": 40})
    assert (result.identified, result.unidentified) == (8, 40)
    assert [share.share_ratio for share in result.shares] == [0.75, 0.25, 0, 0, 0]
    with pytest.raises(ValueError, match="negative"):
        differential({"neutrophil": -1})


def test_platelets_are_estimated_only_with_a_calibrated_factor_and_ten_fields() -> None:
    assert estimate_platelets(fields=20, total=200, total_of_squares=2000, factor_e9=None) is None
    assert estimate_platelets(fields=9, total=90, total_of_squares=900, factor_e9=15) is None
    found = estimate_platelets(fields=10, total=100, total_of_squares=1000, factor_e9=15)
    assert found is not None
    assert (found.per_litre_e9, found.margin_e9) == (150, 0)
