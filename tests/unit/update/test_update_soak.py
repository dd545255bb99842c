"""The soak: what is counted of two models on one field, and the verdict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.update.soak import Evidence, Verdict, judge, same_cells
from fleet.contract.cells import Decision
from models.bundle.manifest import CellClass
from models.runtime.results import Detection, FieldAnalysis
from tests.unit.edge.edge_builders import analysis, cell, named
from tests.unit.update.update_bench import SETTINGS, good_evidence

BOTH_ACCEPT = (Decision.ACCEPT, Decision.ACCEPT)


def white(label: str, at: float = 100.0) -> Detection:
    return cell(CellClass.WBC, at=at, cell_type=named(label))


def counted(new: FieldAnalysis, old: FieldAnalysis, decisions: tuple[Decision, Decision] = BOTH_ACCEPT) -> Evidence:
    evidence = Evidence()
    evidence.add(new, old, decisions)
    return evidence


def test_only_white_cells_that_both_name_can_disagree() -> None:
    new = analysis(white("neutrophil", 0), white("monocyte", 100), white("unidentified", 200), white("basophil", 300))
    old = analysis(white("neutrophil", 2), white("basophil", 98), white("monocyte", 200), cell(at=300))
    figures = counted(new, old).figures()
    assert (figures.white_cells, figures.disagreement_ratio) == (3, 0.5)


def test_a_share_of_nothing_is_null_not_zero() -> None:
    figures = Evidence().figures()
    assert (figures.disagreement_ratio, figures.uncertain_ratio, figures.latency_ratio) == (None, None, None)


def test_each_cell_is_in_one_pair_at_most_the_best_overlap_first() -> None:
    near, nearer = white("monocyte", 104), white("basophil", 101)
    assert same_cells([white("neutrophil", 100)], [near, nearer])[0][1] is nearer
    assert len(same_cells([white("neutrophil", 100), white("neutrophil", 102)], [nearer])) == 1
    assert same_cells([white("neutrophil", 100)], [white("neutrophil", 300)]) == []


def test_shares_stand_beside_those_of_the_model_before() -> None:
    evidence = counted(analysis(), analysis(), (Decision.UNCERTAIN, Decision.ACCEPT))
    evidence.add(analysis(), analysis(), (Decision.WITHHELD, Decision.UNCERTAIN))
    figures = evidence.figures()
    assert (figures.uncertain_ratio, figures.baseline_uncertain_ratio) == (0.5, 0.5)
    assert (figures.withheld_ratio, figures.baseline_withheld_ratio) == (0.5, 0.0)
    assert figures.latency_ratio == 1.0


def test_a_copy_does_not_grow_with_what_comes_later() -> None:
    evidence = counted(analysis(), analysis())
    before = evidence.copy()
    evidence.add(analysis(), analysis(), BOTH_ACCEPT)
    assert (before.fields, len(before.new_ms), evidence.fields) == (1, 1, 2)


def test_enough_agreement_over_enough_time_is_good() -> None:
    assert judge(good_evidence(), SETTINGS, elapsed_s=10)[0] is Verdict.GOOD
    assert judge(good_evidence(), SETTINGS, elapsed_s=9)[0] is Verdict.NOT_YET


def test_a_better_model_that_names_what_the_old_one_left_open_is_no_disagreement() -> None:
    evidence = Evidence()
    for _ in range(10):
        evidence.add(
            analysis(white("neutrophil", 0), white("monocyte", 100)),
            analysis(white("neutrophil", 0), white("unidentified", 100)),
            (Decision.ACCEPT, Decision.UNCERTAIN),
        )
    assert judge(evidence, SETTINGS, elapsed_s=100)[0] is Verdict.GOOD


def test_a_model_that_names_nothing_any_more_is_bad_not_silent() -> None:
    evidence = Evidence()
    for _ in range(10):
        evidence.add(
            analysis(white("unidentified", 0)), analysis(white("monocyte", 0)), (Decision.UNCERTAIN, Decision.ACCEPT)
        )
    assert judge(evidence, SETTINGS, elapsed_s=100)[0] is Verdict.BAD


@given(
    fields=st.integers(0, 30),
    both_named=st.integers(0, 60),
    differ=st.integers(0, 60),
    faults=st.integers(0, 5),
    elapsed_s=st.floats(0, 1e6),
)
def test_less_than_the_minimum_of_evidence_is_never_a_pass(
    fields: int, both_named: int, differ: int, faults: int, elapsed_s: float
) -> None:
    evidence = good_evidence(fields, both_named=both_named, differ=min(differ, both_named), faults=faults)
    verdict, text = judge(evidence, SETTINGS, elapsed_s=elapsed_s)
    assert text
    if verdict is Verdict.GOOD:
        assert fields >= SETTINGS.soak_fields
        assert both_named >= SETTINGS.min_white_cells
        assert min(differ, both_named) <= SETTINGS.max_disagreement * both_named
        assert elapsed_s >= SETTINGS.soak_s
        assert faults < 3
