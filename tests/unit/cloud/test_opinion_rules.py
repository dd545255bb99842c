"""Pairs, agreement, and who is asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.opinions.rules import judge, labels, pair
from fleet.contract.cells import CellClassName, CellTypeWire, DetectionWire

TYPES = ["neutrophil", "lymphocyte", "unidentified"]


def cell(label: str = "lymphocyte", x: float = 0.0, *, counted: bool = True, cls: str = "WBC") -> DetectionWire:
    names = (label,) if label != "unidentified" else ("lymphocyte", "monocyte")
    kind = CellTypeWire(label=label, probabilities={names[0]: 0.9}, prediction_set=names, in_domain=True, ood_score=0.1)
    return DetectionWire(bbox=(x, 0.0, 50.0, 50.0), cls=CellClassName(cls), score=0.9, counted=counted, cell_type=kind)


def test_the_same_type_at_the_same_place_agrees_and_asks_nobody() -> None:
    verdict = judge([cell(x=0)], [cell(x=5)], pair_iou=0.4)
    assert (verdict.agreement_ratio, verdict.reasons, verdict.state) == (1.0, (), "answered")


def test_two_sure_words_that_differ_ask_a_person() -> None:
    verdict = judge([cell("neutrophil")], [cell("lymphocyte")], pair_iou=0.4)
    assert (verdict.agreement_ratio, verdict.reasons) == (0.0, ("types_differ",))


def test_a_sure_answer_to_an_unsure_edge_is_an_answer() -> None:
    verdict = judge([cell("unidentified")], [cell("lymphocyte")], pair_iou=0.4)
    assert (verdict.needs_review, verdict.agreement_ratio) == (False, 0.0)


def test_two_that_are_both_unsure_do_not_agree() -> None:
    verdict = judge([cell("unidentified")], [cell("unidentified")], pair_iou=0.4)
    assert verdict.agreement_ratio == 0.0
    assert verdict.reasons == ("cloud_several_types", "cloud_unidentified")


def test_a_cell_that_only_one_side_sees_stands_alone_and_asks_a_person() -> None:
    verdict = judge([cell(x=0)], [cell(x=500)], pair_iou=0.4)
    assert verdict.reasons == ("only_cloud_saw_a_cell", "only_edge_saw_a_cell")
    assert [(c.edge is None, c.cloud is None) for c in verdict.cells] == [(False, True), (True, False)]


def test_red_cells_and_cells_that_do_not_count_are_left_out() -> None:
    verdict = judge([cell(cls="RBC")], [cell(counted=False)], pair_iou=0.4)
    assert (verdict.cells, verdict.agreement_ratio) == ((), None)
    assert labels([cell(cls="RBC"), cell(counted=False), cell()]) == {"lymphocyte": 1}


def test_of_two_candidates_the_nearer_is_the_partner() -> None:
    near, far = cell(x=2), cell(x=12)
    assert pair([cell(x=0)], [far, near], iou=0.4) == [(cell(x=0), near), (None, far)]


places = st.lists(st.floats(0, 300, allow_nan=False), max_size=6)


@given(places, places)
def test_every_cell_of_either_side_is_in_exactly_one_pair(first: list[float], second: list[float]) -> None:
    mine, theirs = [cell(x=x) for x in first], [cell(x=x) for x in second]
    pairs = pair(mine, theirs, iou=0.4)
    assert [a for a, _ in pairs if a is not None] == mine
    assert sorted(b.bbox[0] for _, b in pairs if b is not None) == sorted(second)
    assert (None, None) not in pairs
