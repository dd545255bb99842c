"""Triage and sampling: what is made of a field, and what of its picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.triage.rules import TriagePolicy, decide
from edge_agent.triage.sampling import Choice, Sampler, in_audit_stream
from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy
from models.bundle.manifest import CellClass
from models.runtime.results import Detection
from tests.unit.edge.edge_builders import ORDINARY, analysis, cell, named

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


@given(st.lists(st.tuples(st.sampled_from(Decision), st.floats(0, 900)), max_size=200), st.integers(0, 20))
def test_never_more_than_the_hours_budget_leaves_within_any_hour(
    fields: list[tuple[Decision, float]], per_hour: int
) -> None:
    sampler = Sampler(SamplingPolicy(per_hour=per_hour, audit_ratio=0.2))
    now_s, sent = 0.0, []
    for number, (decision, wait_s) in enumerate(fields):
        now_s += wait_s
        found = sampler.choose(decision, f"bench-1/1/{number}", now_s)
        if found.send:
            sent.append(now_s)
            assert decision is not Decision.WITHHELD
    for at in sent:
        assert sum(1 for other in sent if at - 3600 < other <= at) <= per_hour


def test_doubt_cannot_crowd_out_the_audit_stream() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=10, audit_ratio=0.1))
    choices = [sampler.choose(Decision.UNCERTAIN, f"bench-1/1/{n}", float(n)).choice for n in range(200)]
    assert choices.count(Choice.SEND) == 9
    assert choices.count(Choice.SEND_AUDIT) == 1
    assert choices.count(Choice.OVER_BUDGET) == 190


def test_what_an_earlier_run_sent_counts_against_the_hour() -> None:
    sampler = Sampler(SamplingPolicy(per_hour=2, audit_ratio=0.0), [-10.0, -20.0])
    assert sampler.choose(Decision.UNCERTAIN, "bench-1/2/1", 0.0).choice is Choice.OVER_BUDGET
    assert sampler.choose(Decision.UNCERTAIN, "bench-1/2/2", 3581.0).choice is Choice.SEND
