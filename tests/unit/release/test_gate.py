"""The gate: what counts as worse, that it fails closed, and that it cannot be talked round."""

from __future__ import annotations

import pytest

from fleet.release.gate import (
    HELD_OUT_SLICE,
    LEARNED_SLICE,
    Figures,
    GatePlan,
    judge,
    laxer,
    missing_of,
    rounded,
    unlike,
)
from fleet.release.pinned import pinned
from tests.fakes.evaluations import changed, good_figures

PLAN = pinned().plan
GOOD = Figures(
    cells=500,
    named=0.96,
    in_domain=0.97,
    balanced_accuracy=0.98,
    recall={"neutrophil": 0.98, "basophil": 0.98},
    named_error=0.002,
    nll=0.03,
    coverage=0.97,
)
OUTSIDERS = Figures(cells=50, named=0.4, in_domain=0.4)
CHAMPION = {"home": GOOD, "outsiders": OUTSIDERS}


def but(figures: Figures, **change: object) -> Figures:
    """The same with other figures, unchecked."""
    return figures.model_copy(update=change)


def test_the_same_figures_are_accepted() -> None:
    assert judge(CHAMPION, CHAMPION, PLAN).accepted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"balanced_accuracy": 0.95}, "balanced accuracy"),
        ({"recall": {"neutrophil": 0.98, "basophil": 0.9}}, "recall of basophil"),
        ({"recall": {"neutrophil": 0.98}}, "recall of basophil"),
        ({"named": 0.9}, "share named"),
        ({"named_error": 0.02}, "error among the named"),
        ({"nll": 0.2}, "negative log-likelihood"),
        ({"nll": float("nan")}, "negative log-likelihood"),
        ({"nll": None}, "negative log-likelihood"),
        ({"in_domain": 0.9}, "share in the domain"),
    ],
)
def test_one_figure_that_is_worse_refuses_and_is_named(change: dict[str, object], words: str) -> None:
    verdict = judge(CHAMPION, {**CHAMPION, "home": but(GOOD, **change)}, PLAN)
    assert not verdict.accepted
    assert [words in reason and "home" in reason for reason in verdict.reasons] == [True]


def test_a_better_candidate_is_accepted() -> None:
    better = but(GOOD, balanced_accuracy=0.99, named=0.99, named_error=0.0, nll=0.01, in_domain=1.0)
    assert judge(CHAMPION, {**CHAMPION, "home": better}, PLAN).accepted


def test_naming_outsiders_more_often_refuses() -> None:
    verdict = judge(CHAMPION, {**CHAMPION, "outsiders": but(OUTSIDERS, named=0.6)}, PLAN)
    assert verdict.reasons == ("outsiders: share of outsiders named is worse by 0.2000, allowed 0.04",)


def test_outsiders_are_told_by_their_missing_types_whatever_figures_stand_beside_them() -> None:
    dressed = but(OUTSIDERS, balanced_accuracy=0.5, named_error=0.1, nll=0.5, named=0.1)
    verdict = judge({**CHAMPION, "outsiders": dressed}, {**CHAMPION, "outsiders": but(dressed, named=1.0)}, PLAN)
    assert verdict.reasons == ("outsiders: share of outsiders named is worse by 0.9000, allowed 0.04",)


def test_without_a_frozen_cell_or_with_other_slices_nothing_is_accepted() -> None:
    assert not judge({}, {}, PLAN).accepted
    assert not judge({HELD_OUT_SLICE: GOOD}, {HELD_OUT_SLICE: GOOD}, PLAN).accepted
    assert not judge(CHAMPION, {"home": GOOD}, PLAN).accepted
    assert not judge({**CHAMPION, HELD_OUT_SLICE: GOOD}, CHAMPION, PLAN).accepted


def test_the_site_is_judged_once_it_has_labels_enough() -> None:
    worse = but(GOOD, named=0.2, cells=PLAN.site_least_cells)
    for cells, accepted in ((PLAN.site_least_cells - 1, True), (PLAN.site_least_cells, False)):
        before = {**CHAMPION, HELD_OUT_SLICE: but(GOOD, cells=cells)}
        after = {**CHAMPION, HELD_OUT_SLICE: but(worse, cells=cells)}
        assert judge(before, after, PLAN).accepted is accepted
    assert judge(before, after, PLAN).reasons[0].startswith("held-out labels: share named")


def test_labels_that_were_learned_from_judge_nothing() -> None:
    before = {**CHAMPION, LEARNED_SLICE: GOOD}
    assert judge(before, {**CHAMPION, LEARNED_SLICE: but(GOOD, named=0.0)}, PLAN).accepted


def test_rounding_comes_before_the_verdict_so_that_a_reader_comes_to_the_same() -> None:
    exact = but(GOOD, named=0.960001, recall={"neutrophil": 1 / 3, "basophil": 2 / 3})
    assert rounded(exact).recall == {"neutrophil": 0.33333, "basophil": 0.66667}
    assert rounded(rounded(exact)) == rounded(exact)


def test_every_limit_that_is_wider_is_named_and_stricter_ones_are_not() -> None:
    assert laxer(PLAN, PLAN) == []
    fields = PLAN.model_dump()
    for part in ("frozen", "site"):
        for name, value in fields[part].items():
            wider = GatePlan.model_validate({**fields, part: {**fields[part], name: value + 0.1}})
            assert [words.startswith(f"{part} {name} ") for words in laxer(wider, PLAN)] == [True]
            assert laxer(PLAN, wider) == []
    assert len(laxer(GatePlan.model_validate({**fields, "outsiders_named": 0.05}), PLAN)) == 1
    # More labels needed before the site is judged: it would be judged less often.
    assert len(laxer(GatePlan.model_validate({**fields, "site_least_cells": 13}), PLAN)) == 1


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({k: v for k, v in good_figures().items() if k != "outsiders"}, "slice outsiders is missing"),
        (changed(good_figures(), "home", cells=5), "home has 5 cells, the frozen set 573"),
        (changed(good_figures(), "home", recall={"neutrophil": 0.98}), "other types"),
        (changed(good_figures(), "outsiders", recall={"neutrophil": 0.98}), "other types"),
        (changed(good_figures(), "outsiders", balanced_accuracy=0.5), "has no types, and yet balanced_accuracy"),
        (changed(good_figures(), "outsiders", named_error=0.0), "has no types, and yet named_error"),
        (changed(good_figures(), "outsiders", nll=0.5), "has no types, and yet nll"),
        (changed(good_figures(), "outsiders", coverage=0.9), "has no types, and yet coverage"),
        (changed(good_figures(), "home", recall=None, balanced_accuracy=None), "other types"),
        (changed(good_figures(), "home", nll=None), "home has no nll"),
        (changed(good_figures(), "home", balanced_accuracy=0.99), "is not the mean recall"),
        ({**good_figures(), "easy": GOOD}, "does not have: easy"),
    ],
)
def test_figures_that_are_not_of_the_frozen_set_are_told_from_its_own(figures: dict[str, Figures], words: str) -> None:
    (said,) = missing_of(pinned().frozen_sets[0], figures)
    assert words in said


def test_figures_of_the_frozen_set_and_of_labels_are_complete() -> None:
    assert missing_of(pinned().frozen_sets[0], {**good_figures(), HELD_OUT_SLICE: GOOD}) == []


ONE_CELL = 1 / 573
"""Of `home`."""


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"named": 0.96 - ONE_CELL}, True),
        ({"named": 0.96 - 2 * ONE_CELL}, False),
        ({"named": 0.96 + 2 * ONE_CELL}, False),
        ({"in_domain": 0.97 - 2 * ONE_CELL}, False),
        ({"balanced_accuracy": 0.98 - 2 * ONE_CELL}, False),
        ({"named_error": 0.002 + ONE_CELL}, True),
        ({"named_error": 0.002 + 3 * ONE_CELL}, False),
        ({"named_error": None}, False),
        ({"nll": 0.032}, True),
        ({"nll": 0.034}, False),
        ({"recall": {**(good_figures()["home"].recall or {}), "basophil": 0.98 - 4 * ONE_CELL}}, True),
        ({"recall": {**(good_figures()["home"].recall or {}), "basophil": 0.98 - 6 * ONE_CELL}}, False),
        ({"recall": {"neutrophil": 0.98}}, False),
        ({"cells": 572}, False),
    ],
)
def test_a_model_measured_again_may_decide_one_cell_otherwise(change: dict[str, object], same: bool) -> None:
    assert (unlike(changed(good_figures(), "home", **change), good_figures()) == []) is same


def test_a_slice_that_is_gone_is_unlike_and_a_sites_labels_are_not_looked_at() -> None:
    known = {**good_figures(), HELD_OUT_SLICE: GOOD}
    assert unlike(good_figures(), known) == []
    assert unlike({k: v for k, v in good_figures().items() if k != "outsiders"}, known) == [
        "slice outsiders is another one"
    ]
