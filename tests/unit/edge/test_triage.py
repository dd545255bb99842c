"""Triage and sampling: what is made of a field, and what of its picture."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.triage.budget import DAY_S, HOUR_S, SentPicture, spent_before
from edge_agent.triage.rules import TriagePolicy, decide
from edge_agent.triage.sampling import Choice, Sampler, in_audit_stream
from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy
from models.bundle.manifest import CellClass
from models.runtime.results import Detection
from tests.unit.edge.edge_builders import ORDINARY, START, analysis, cell, choose_and_store, named

POLICY = TriagePolicy()


def white(label: str = "neutrophil", **how: object) -> Detection:
    return cell(CellClass.WBC, cell_type=named(label, **how))  # type: ignore[arg-type]


def test_a_field_without_doubt_is_accepted() -> None:
    assert decide(analysis(*ORDINARY), [], POLICY) == decide(analysis(), [], POLICY)
    assert decide(analysis(*ORDINARY), [], POLICY).decision is Decision.ACCEPT


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ((white("unidentified"),), "cell_unidentified"),
        ((cell(CellClass.WBC),), "cell_unidentified"),
        ((white(in_domain=False),), "cell_foreign"),
        ((cell(CellClass.WBC, score=0.4, counted=False),), "weak_white_cell"),
    ],
)
def test_each_doubt_about_a_white_cell_makes_the_field_uncertain(cells: tuple[Detection, ...], reason: str) -> None:
    found = decide(analysis(*cells), [], POLICY)
    assert (found.decision, found.reasons) == (Decision.UNCERTAIN, (reason,))


def test_a_sure_but_foreign_cell_is_doubtful_for_its_domain_alone() -> None:
    assert decide(analysis(white(probability=0.999, in_domain=False)), [], POLICY).reasons == ("cell_foreign",)


def test_white_cells_without_a_scale_are_doubtful() -> None:
    assert decide(analysis(white(), rbc_diameter_px=None), [], POLICY).reasons == ("scale_unknown",)
    assert decide(analysis(rbc_diameter_px=None), [], POLICY).decision is Decision.ACCEPT


def test_doubt_about_red_cells_is_no_doubt_about_the_field() -> None:
    faint = cell(score=0.4, counted=False)
    assert decide(analysis(faint, *ORDINARY), [], POLICY).decision is Decision.ACCEPT


def test_the_gate_comes_before_every_doubt() -> None:
    found = decide(analysis(white("unidentified")), ["out_of_focus", "too_dark"], POLICY)
    assert (found.decision, found.reasons) == (Decision.WITHHELD, ("out_of_focus", "too_dark"))


def test_the_audit_stream_holds_about_its_share_and_is_the_same_each_time() -> None:
    ids = [f"bench-1/1/{n}" for n in range(5000)]
    chosen = [name for name in ids if in_audit_stream(name, 0.1)]
    assert 400 < len(chosen) < 600
    assert chosen == [name for name in ids if in_audit_stream(name, 0.1)]
    assert not any(in_audit_stream(name, 0.0) for name in ids)
    assert all(in_audit_stream(name, 1.0) for name in ids)


@given(
    st.lists(st.tuples(st.sampled_from(Decision), st.floats(0, 9000)), max_size=200),
    st.integers(0, 20),
    st.integers(0, 40),
)
def test_never_more_than_the_budgets_leave_within_any_hour_or_day(
    fields: list[tuple[Decision, float]], per_hour: int, per_day: int
) -> None:
    sampler = Sampler(SamplingPolicy(per_hour=per_hour, per_day=per_day, audit_ratio=0.2))
    now_s, sent = 0.0, []
    for number, (decision, wait_s) in enumerate(fields):
        now_s += wait_s
        found = choose_and_store(sampler, decision, f"bench-1/1/{number}", now_s)
        if found.send:
            sent.append(now_s)
            assert decision is not Decision.WITHHELD
    for at in sent:
        assert sum(1 for other in sent if at - HOUR_S < other <= at) <= per_hour
        assert sum(1 for other in sent if at - DAY_S < other <= at) <= per_day


def test_doubt_cannot_crowd_out_the_audit_stream() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=10, audit_ratio=0.1))
    choices = [choose_and_store(sampler, Decision.UNCERTAIN, f"bench-1/1/{n}", float(n)).choice for n in range(200)]
    assert choices.count(Choice.SEND) == 9
    assert choices.count(Choice.SEND_AUDIT) == 1
    assert choices.count(Choice.OVER_BUDGET) == 190


def test_what_an_earlier_run_sent_counts_against_the_hour() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=2, audit_ratio=0.0), [-10.0, -20.0])
    assert choose_and_store(sampler, Decision.UNCERTAIN, "bench-1/2/1", 0.0).choice is Choice.OVER_BUDGET
    assert choose_and_store(sampler, Decision.UNCERTAIN, "bench-1/2/2", 3581.0).choice is Choice.SEND


class Workstation:
    """Samplers one after the other, each begun from what the ones before have sent; ten fields a second in doubt."""

    def __init__(self, policy: SamplingPolicy) -> None:
        self.policy = policy
        self.now = START
        self.sent: list[SentPicture] = []
        self._number = 0

    def run(self, fields: int, *, monotonic_s: float, clock_set: bool = True) -> int:
        """Pictures that leave in a run."""

        def spent_s(*, audit: bool) -> list[float]:
            of_stream = [picture for picture in self.sent if picture.audit is audit]
            return spent_before(
                of_stream,
                now=self.now,
                now_s=monotonic_s,
                clock_set=clock_set,
                earliest=datetime(2025, 1, 1, tzinfo=UTC),
            )

        sampler, before = Sampler(self.policy, spent_s(audit=False), spent_s(audit=True)), len(self.sent)
        if fields:
            self.sent = [replace(picture, last_run=False) for picture in self.sent]
        for _ in range(fields):
            self._number += 1
            self.now += timedelta(seconds=0.1)
            monotonic_s += 0.1
            found = choose_and_store(sampler, Decision.UNCERTAIN, f"bench-1/1/{self._number}", monotonic_s)
            if found.send:
                self.sent.append(SentPicture(found.choice is Choice.SEND_AUDIT, self.now, last_run=True))
        return len(self.sent) - before


def test_restarts_within_the_hour_are_no_way_round_its_budget() -> None:
    bench = Workstation(SamplingPolicy(per_hour=60, audit_ratio=0.1))
    assert [bench.run(4000, monotonic_s=up_s) for up_s in (5.0, 900.0, 17.0, 3.0)] == [60, 0, 0, 0]
    bench.now += timedelta(hours=1)
    assert bench.run(4000, monotonic_s=1.0) == 60


def test_restarts_within_the_day_are_no_way_round_its_budget() -> None:
    bench = Workstation(SamplingPolicy(per_hour=60, per_day=100, audit_ratio=0.1))
    sent = []
    for _ in range(4):
        sent.append(bench.run(1000, monotonic_s=1.0))
        bench.now += timedelta(hours=1)
    assert sent == [60, 40, 0, 0]
    bench.now += timedelta(days=1)
    assert bench.run(1000, monotonic_s=1.0) == 60


@pytest.mark.parametrize(
    ("clock", "clock_set"), [(datetime(1970, 1, 1, tzinfo=UTC), False), (START - timedelta(hours=5), True)]
)
def test_a_clock_that_was_set_back_does_not_open_the_budget_again(clock: datetime, clock_set: bool) -> None:
    bench = Workstation(SamplingPolicy(per_hour=60, audit_ratio=0.1))
    assert bench.run(4000, monotonic_s=1.0) == 60
    bench.now = clock
    assert bench.run(1000, monotonic_s=1.0, clock_set=clock_set) == 0


@pytest.mark.parametrize("wrong", [START + timedelta(days=3650), datetime(1970, 1, 1, tzinfo=UTC)])
def test_pictures_taken_under_a_wrong_clock_do_not_close_the_budget_for_ever(wrong: datetime) -> None:
    bench = Workstation(SamplingPolicy(per_hour=60, per_day=60, audit_ratio=0.1))
    bench.now = wrong
    assert bench.run(4000, monotonic_s=1.0, clock_set=wrong > START) == 60
    sent = []
    for day in range(3):
        bench.now = START + timedelta(days=day)
        bench.run(0, monotonic_s=1.0)  # A run that takes no field is not the last one that did.
        sent.append(bench.run(1000, monotonic_s=1.0))
    assert sent == [0, 60, 60]


def test_pictures_taken_before_the_clock_was_set_count_as_sent_now() -> None:
    bench = Workstation(SamplingPolicy(per_hour=60, audit_ratio=0.1))
    bench.now = datetime(1970, 1, 1, tzinfo=UTC)
    assert bench.run(4000, monotonic_s=1.0, clock_set=False) == 60
    bench.now = START
    assert bench.run(1000, monotonic_s=1.0) == 0
