"""Naming only what is sure, probabilities and outsiders, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from models.bundle.manifest import UNIDENTIFIED
from models.runtime.results import CellType
from training.evaluation.outsiders import Judgement, for_judging, referral
from training.evaluation.probabilities import at_temperature, brier_scores, calibration_error, log_losses, reliability
from training.evaluation.white import balanced
from training.selective import Choices, area_under, risk_coverage, selective_figures, sureness

pytestmark = pytest.mark.torch


def choices(right: list[int], accepted: list[int], sure: list[float]) -> Choices:
    return Choices(np.array(sure, float), np.array(right, bool), np.array(accepted, bool))


def test_the_curve_names_the_surest_first() -> None:
    coverage, risk = risk_coverage(choices([1, 0, 1, 0], [1, 1, 0, 0], [0.9, 0.8, 0.7, 0.6]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert area_under(choices([1, 0, 1, 0], [1, 1, 0, 0], [0.9, 0.8, 0.7, 0.6])) == pytest.approx(np.mean(risk))


def test_foreign_cells_come_behind_familiar_ones_and_missed_ones_last() -> None:
    order = sureness(np.array([0.99, 0.4, 0.0]), np.array([False, True, False]), np.array([False, False, True]))
    assert np.argsort(-order).tolist() == [1, 0, 2]


def test_the_error_among_the_accepted_has_its_exact_upper_limit() -> None:
    one_wrong = choices([1] * 99 + [0] + [0] * 20, [1] * 100 + [0] * 20, [0.9] * 120)
    said = selective_figures(one_wrong, np.ones((3, 120), np.int32))
    assert said["accepted"]["value"] == pytest.approx(100 / 120)
    assert said["error_accepted"]["value"] == pytest.approx(0.01)
    assert said["error_accepted"]["high"] == pytest.approx(0.0545, abs=5e-4)
    assert (said["accepted_cells"], said["wrong_cells"]) == (100, 1)


def test_where_nothing_is_accepted_the_error_is_unknown_not_nought() -> None:
    said = selective_figures(choices([1, 0], [0, 0], [0.4, 0.3]), np.ones((3, 2), np.int32))
    assert said["error_accepted"] == {"value": None, "low": 0.0, "high": 1.0}
    assert said["accepted"]["value"] == 0.0


def test_a_temperature_can_be_taken_back() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 5))

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    assert at_temperature(softmax(logits / 0.7), 0.7) == pytest.approx(softmax(logits))


def test_a_sure_right_answer_costs_nothing_and_a_sure_wrong_one_much() -> None:
    chances = np.array([[1.0, 0.0, 0, 0, 0], [1.0, 0.0, 0, 0, 0]])
    labels = np.array([0, 1])
    assert brier_scores(chances, labels).tolist() == [0.0, 2.0]
    assert log_losses(chances, labels)[0] == pytest.approx(0.0)
    assert log_losses(chances, labels)[1] > 20


def test_the_calibration_error_is_the_gap_between_sureness_and_being_right() -> None:
    chances = np.full((100, 5), 0.05)
    chances[:, 0] = 0.8
    labels = np.array([0] * 60 + [1] * 40)
    said = calibration_error(chances, labels, np.ones((2, 100), np.int32))
    assert said.value == pytest.approx(0.2)
    (row,) = reliability(chances, labels)
    assert (row["cells"], row["accuracy"]) == (100, 0.6)
    assert row["confidence"] == pytest.approx(0.8)


def test_balanced_accuracy_gives_each_type_the_same_weight() -> None:
    labels = np.array([0] * 8 + [1, 1])
    right = np.array([1] * 8 + [1, 0], bool)
    value, again = balanced(labels, right, np.array([[1] * 10, [1] * 8 + [2, 0]], np.int32))
    assert value == pytest.approx(0.75)
    assert again == pytest.approx([0.75, 1.0])


def _said(top: float, ood: float) -> CellType:
    label = "neutrophil" if ood <= 1 else UNIDENTIFIED
    chances = {"neutrophil": top, "lymphocyte": 1 - top}
    return CellType(label, chances, ("neutrophil",), ood <= 1, ood)


def test_outsiders_are_judged_on_the_half_that_chose_nothing() -> None:
    ordinary = [Judgement(f"o{i}.png", _said(0.99, 0.2 + 0.001 * i)) for i in range(400)]
    strangers = [Judgement(f"e{i}.png", _said(0.99, 3.0)) for i in range(60)] + [Judgement("gone.png", None)]
    said = referral(strangers, ordinary)
    judged = sum(for_judging(s.file) for s in strangers)
    assert said["judged"] == judged
    assert 15 < judged < 46
    assert said["chosen"] in ("domain", "either")
    assert said["scores"]["domain"]["referred"]["value"] >= 1 - 1 / judged
    assert said["scores"]["domain"]["referred_ordinary"]["value"] == pytest.approx(0.05, abs=0.04)
    assert said["scores"]["doubt"]["referred"]["value"] == 0.0
    assert said["as_shipped"]["ordinary"]["value"] == 0.0


def test_the_halves_depend_on_the_name_of_the_file_alone() -> None:
    assert for_judging("a/b/ERB_1.jpg") == for_judging("elsewhere/ERB_1.jpg")
    assert {for_judging(f"ERB_{i}.jpg") for i in range(20)} == {True, False}
