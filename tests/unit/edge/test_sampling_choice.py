"""Which of many pictures in doubt leave: the uncertain and new ones, none twice, never more than the budgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.capture.measure import thumbnail
from edge_agent.capture.registration import Place
from edge_agent.triage.rules import TriagePolicy
from edge_agent.triage.sampling import Choice, Offered, Sampler, in_audit_stream
from edge_agent.triage.worth import Doubt, Worths, doubt_of
from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy
from models.bundle.manifest import CellClass
from models.runtime.results import CellType
from models.synthetic import SlideSpec, VirtualSlide
from tests.unit.edge.edge_builders import analysis, cell, choose_and_store, named

POLICY = TriagePolicy()
RNG = np.random.default_rng(7)


def direction(angle: float, *, off: float = 0.0) -> np.ndarray:
    """A unit vector; `off` leans it out of the plane."""
    vector = np.array([np.cos(angle), np.sin(angle), off])
    return np.asarray(vector / np.linalg.norm(vector))


def elsewhere(seed: int) -> Place:
    """A place that no other one overlaps."""
    return Place(np.random.default_rng(seed).uniform(0, 255, (48, 64)).astype(np.float32))


def offered(uncertainty: float, angle: float = 0.0, *, place: Place) -> Offered:
    return Offered(Doubt(uncertainty, (direction(angle),)), place)


def typed(label: str, *, embedding: np.ndarray | None, probability: float = 0.9, in_domain: bool = True) -> CellType:
    kind = named(label, probability=probability, in_domain=in_domain)
    return CellType(kind.label, kind.probabilities, kind.prediction_set, kind.in_domain, kind.ood_score, embedding)


def test_the_most_doubtful_white_cell_gives_the_uncertainty_and_only_doubtful_cells_count() -> None:
    sure = cell(CellClass.WBC, cell_type=typed("neutrophil", embedding=np.array([3.0, 0.0], np.float32)))
    unsure = cell(
        CellClass.WBC, cell_type=typed("unidentified", probability=0.6, embedding=np.array([0.0, 2.0], np.float32))
    )
    found = doubt_of(analysis(sure, unsure, cell()), POLICY)
    assert found.uncertainty == pytest.approx(0.4)
    assert [vector.tolist() for vector in found.cells] == [[0.0, 1.0]]
    foreign = cell(CellClass.WBC, cell_type=typed("neutrophil", in_domain=False, embedding=None))
    assert doubt_of(analysis(sure, unsure, foreign), POLICY).uncertainty == 1.0
    weak = cell(CellClass.WBC, score=0.4, counted=False)
    assert doubt_of(analysis(sure, weak), POLICY).uncertainty == 0.5
    assert doubt_of(analysis(sure, rbc_diameter_px=None), POLICY).uncertainty == 0.5, "the scale is in doubt"


def test_a_cell_like_those_that_were_sent_is_worth_less_than_a_new_kind() -> None:
    worths = Worths()
    for _ in range(10):
        worths.sent(Doubt(0.5, (direction(0.1),)))
    old, new = worths.of(Doubt(0.5, (direction(0.12),))), worths.of(Doubt(0.5, (direction(1.4),)))
    assert new > 100 * old
    both = worths.of(Doubt(0.5, (direction(0.12), direction(1.4))))
    assert both == pytest.approx(new), "one new cell makes the field new"


def test_while_half_of_the_budget_is_free_everything_in_doubt_is_sent() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=100, audit_ratio=0.0))
    choices = [
        choose_and_store(sampler, Decision.UNCERTAIN, f"b/1/{n}", float(n), offered(0.1, place=elsewhere(n))).choice
        for n in range(50)
    ]
    assert set(choices) == {Choice.SEND}


def test_the_second_half_of_the_budget_goes_to_the_better_ones() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=60, audit_ratio=0.0))
    sent: list[tuple[int, float]] = []
    for n in range(200):
        worth = float(RNG.uniform(0.05, 1.0))
        # Each is of a kind of its own, so that uncertainty alone decides.
        doubt = Doubt(worth, (np.eye(200)[n],))
        found = choose_and_store(sampler, Decision.UNCERTAIN, f"b/1/{n}", n * 1.0, Offered(doubt, elsewhere(n)))
        if found.send:
            sent.append((n, worth))
    first, second = [w for _, w in sent[:30]], [w for _, w in sent[30:]]
    assert len(second) >= 15
    assert np.mean(second) > np.mean(first) + 0.15
    assert sent[55][0] > 65, "a burst does not take the whole budget at once"


def test_a_picture_that_shows_what_was_sent_is_dropped_and_the_audit_stream_is_not() -> None:
    slide = VirtualSlide(SlideSpec(seed=4))
    places = [Place(thumbnail(slide.render(x_um=x, y_um=0.0).image)) for x in (0.0, 5.0, 15.0, 60.0)]
    sampler = Sampler(SamplingPolicy(per_hour=1000, audit_ratio=0.0))
    said = [
        choose_and_store(sampler, Decision.UNCERTAIN, f"b/1/{n}", float(n), offered(0.5, float(n), place=place)).choice
        for n, place in enumerate(places)
    ]
    assert said == [Choice.SEND, Choice.DUPLICATE, Choice.DUPLICATE, Choice.SEND]
    all_audit = Sampler(SamplingPolicy(per_hour=1000, audit_ratio=1.0))
    again = [
        choose_and_store(all_audit, Decision.UNCERTAIN, f"b/1/{n}", float(n), offered(0.5, place=places[0])).choice
        for n in range(3)
    ]
    assert again == [Choice.SEND_AUDIT] * 3


def test_a_picture_that_could_not_be_stored_is_chosen_again_and_paid_for_once() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=2, audit_ratio=0.0))
    said = [sampler.choose(Decision.UNCERTAIN, "b/1/1", 0.0, offered(0.5, place=elsewhere(1))).choice for _ in range(5)]
    assert said == [Choice.SEND] * 5
    sampler.stored()
    sampler.stored()
    again = [choose_and_store(sampler, Decision.UNCERTAIN, f"b/1/{n}", 1.0).choice for n in (2, 3)]
    assert again == [Choice.SEND, Choice.OVER_BUDGET]


def test_whoever_wants_every_picture_in_doubt_gets_the_same_one_again() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=1000, audit_ratio=0.0), duplicate_above_ratio=1.0)
    place = Place(thumbnail(VirtualSlide(SlideSpec(seed=4)).render(x_um=0.0, y_um=0.0).image))
    said = [
        choose_and_store(sampler, Decision.UNCERTAIN, f"b/1/{n}", float(n), offered(0.5, place=place)).choice
        for n in range(5)
    ]
    assert said == [Choice.SEND] * 5


def test_a_day_of_near_identical_fields_sends_one_of_them_and_the_audit_stream() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=60, per_day=600, audit_ratio=0.1))
    view = thumbnail(VirtualSlide(SlideSpec(seed=4)).render(x_um=0.0, y_um=0.0).image)
    noise = RNG.normal(0.0, 0.3, (8, 48, 64)).astype(np.float32)
    choices = [
        choose_and_store(
            sampler, Decision.UNCERTAIN, f"b/1/{n}", n * 28.8, offered(0.5, place=Place(view + noise[n % 8]))
        ).choice
        for n in range(600)
    ]
    assert choices.count(Choice.SEND) == 1
    assert choices.count(Choice.SEND_AUDIT) <= 60
    assert {choice for n, choice in enumerate(choices) if not in_audit_stream(f"b/1/{n}", 0.1)} <= {
        Choice.SEND,
        Choice.DUPLICATE,
    }


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 3), st.integers(0, 40), st.floats(0, 4000)), max_size=120),
    st.integers(0, 12),
    st.integers(0, 20),
)
def test_whatever_is_offered_the_budgets_hold_and_the_audit_stream_is_the_same(
    fields: list[tuple[float, float, int, float]], per_hour: int, per_day: int
) -> None:
    policy = SamplingPolicy(per_hour=per_hour, per_day=per_day, audit_ratio=0.2)
    sampler, now_s, sent = Sampler(policy), 0.0, []
    for number, (uncertainty, angle, where, wait_s) in enumerate(fields):
        now_s += wait_s
        name = f"b/1/{number}"
        found = choose_and_store(
            sampler, Decision.UNCERTAIN, name, now_s, offered(uncertainty, angle, place=elsewhere(where))
        )
        assert found.audit is in_audit_stream(name, 0.2)
        if found.send:
            sent.append(now_s)
    for at in sent:
        assert sum(1 for other in sent if at - 3600 < other <= at) <= per_hour
        assert sum(1 for other in sent if at - 86_400 < other <= at) <= per_day
