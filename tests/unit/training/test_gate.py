"""The gate: what counts as worse, and that it fails closed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.bundle.manifest import HeadSpec
from models.runtime.head import Head
from training.gate import Figures, GateRules, JudgedCells, figures_of, judge
from training.settings import CONFIGS, load_settings

RULES = load_settings(CONFIGS / "gate.yaml", GateRules)
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


def test_the_same_figures_are_accepted() -> None:
    assert judge(CHAMPION, CHAMPION, RULES).accepted


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
    verdict = judge(CHAMPION, {**CHAMPION, "home": dataclasses.replace(GOOD, **change)}, RULES)  # type: ignore[arg-type]
    assert not verdict.accepted
    assert [words in reason and "home" in reason for reason in verdict.reasons] == [True]


def test_a_better_candidate_is_accepted() -> None:
    better = dataclasses.replace(GOOD, balanced_accuracy=0.99, named=0.99, named_error=0.0, nll=0.01, in_domain=1.0)
    assert judge(CHAMPION, {**CHAMPION, "home": better}, RULES).accepted


def test_naming_outsiders_more_often_refuses() -> None:
    verdict = judge(CHAMPION, {**CHAMPION, "outsiders": dataclasses.replace(OUTSIDERS, named=0.6)}, RULES)
    assert verdict.reasons == ("outsiders: share of outsiders named is worse by 0.2000, allowed 0.04",)


def test_without_a_frozen_cell_or_with_other_slices_nothing_is_accepted() -> None:
    assert not judge({}, {}, RULES).accepted
    assert not judge(CHAMPION, {"home": GOOD}, RULES).accepted


def test_the_site_is_judged_once_it_has_labels_enough() -> None:
    worse = dataclasses.replace(GOOD, named=0.2)
    few = (dataclasses.replace(GOOD, cells=RULES.site_least_cells - 1), worse)
    enough = (dataclasses.replace(GOOD, cells=RULES.site_least_cells), worse)
    assert judge(CHAMPION, CHAMPION, RULES, site=few).accepted
    verdict = judge(CHAMPION, CHAMPION, RULES, site=enough)
    assert verdict.reasons[0].startswith("held-out labels: share named")


def head_of_two_axes(*, threshold: float = 4.0) -> tuple[Head, HeadSpec]:
    """Types lie on the five axes of the embedding, ten away from the middle."""
    axes = np.eye(5, dtype=np.float32)
    head = Head(
        weights=axes,
        bias=np.zeros(5, np.float32),
        temperature=np.array(1.0, np.float32),
        conformal_quantiles=np.full(5, 0.5, np.float32),
        domain_means=axes * 10,
        domain_precision=np.eye(5, dtype=np.float32),
        domain_threshold=np.array(threshold, np.float32),
    )
    return head, HeadSpec(accept_probability=0.6)


def test_figures_count_what_the_head_says() -> None:
    head, spec = head_of_two_axes()
    rows = np.eye(5, dtype=np.float32)[[0, 0, 1, 1]] * 10
    rows[3] *= 3  # far outside, and still the same type
    said = figures_of(head, spec, JudgedCells(rows, np.array([0, 1, 1, 1])))
    assert said.named == 0.75
    assert said.in_domain == 0.75
    assert said.recall == {"neutrophil": 1.0, "lymphocyte": pytest.approx(2 / 3)}
    assert said.named_error == pytest.approx(1 / 3)
    assert said.nll is not None
    assert said.nll > 1


def test_outsiders_have_no_true_type() -> None:
    head, spec = head_of_two_axes()
    said = figures_of(head, spec, JudgedCells(np.eye(5, dtype=np.float32)[:2] * 10, np.array([-1, -1])))
    assert said.named == 1.0
    assert said.balanced_accuracy is None
