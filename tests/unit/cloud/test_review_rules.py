"""Which label counts, and in which order cells are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.errors import Conflict
from cloud.review.order import BLIND, NOT_SEEN, groups
from cloud.review.rules import LABELS, WITHDRAWN, Word, counts, left, news, require_complete, standing
from fleet.contract.cells import CellClassName, CellTypeWire, DetectionWire
from fleet.contract.http import CellLabel, CellOpinion


def cell(label: str, *, at: float = 0.0, sure: float = 0.9, possible: int = 1, in_domain: bool = True) -> DetectionWire:
    kind = CellTypeWire(
        label=label,
        probabilities={label: sure},
        prediction_set=("a", "b")[:possible],
        in_domain=in_domain,
        ood_score=0.5,
    )
    return DetectionWire(bbox=(at, 10.0, 40.0, 40.0), cls=CellClassName.WBC, score=0.9, counted=True, cell_type=kind)


def both(label: str, *, agree: bool = True, **more: float) -> CellOpinion:
    return CellOpinion(edge=cell(label), cloud=cell(label, **more), agree=agree)  # type: ignore[arg-type]


CELLS = (both("neutrophil", at=0.0), both("lymphocyte", at=100.0))


def say(words: list[Word], *asked: tuple[int, str], reader: str) -> list[Word]:
    labels = [CellLabel(cell=place, label=label) for place, label in asked]
    return words + news(labels, cells=CELLS, words=words, reader=reader, width_px=640, height_px=480)


STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([*LABELS, WITHDRAWN]), st.sampled_from(["one", "two"])), max_size=12
)


@given(STEPS)
def test_each_reader_has_one_word_and_the_newest_of_them_counts(steps: list[tuple[int, str, str]]) -> None:
    words: list[Word] = []
    model: dict[int, list[tuple[str, str]]] = {0: [], 1: []}  # cell -> (reader, label), the one that counts last
    for place, label, reader in steps:
        words = say(words, (place, label), reader=reader)
        said = model[place]
        if label == WITHDRAWN or said[-1:] != [(reader, label)]:
            said[:] = [entry for entry in said if entry[0] != reader]
            if label != WITHDRAWN:
                said.append((reader, label))
    assert [(word.cell, word.reader, word.label) for word in standing(words)] == [
        (place, *said[-1]) for place, said in model.items() if said
    ]


@given(STEPS)
def test_what_is_said_already_is_never_stored_again(steps: list[tuple[int, str, str]]) -> None:
    words: list[Word] = []
    for place, label, reader in steps:
        words = say(words, (place, label), reader=reader)
        assert say(words, (place, label), reader=reader) == words


def test_the_same_cell_twice_in_one_request_is_told_apart_in_order() -> None:
    words = say([], (0, "monocyte"), (0, "basophil"), (0, "basophil"), reader="one")
    assert [word.label for word in words] == ["monocyte", "basophil"]
    assert counts(words) == {"basophil": 1}
    assert left(CELLS, words) == (1,)


def test_the_refusal_names_the_cells_and_not_more_than_twenty() -> None:
    with pytest.raises(Conflict, match=r"30 cells have no label: 0, 1, .*, 19, \.\.\."):
        require_complete(range(30), reviewed=False)
    require_complete((), reviewed=True)


def test_the_unidentified_come_first_and_in_each_group_the_least_sure() -> None:
    cells = (
        both("neutrophil", sure=0.99),
        both("neutrophil", sure=0.7),
        both("neutrophil", sure=0.99, agree=False),
        both("neutrophil", sure=0.99, in_domain=False),
        both("neutrophil", sure=0.99, possible=2),
        both("unidentified", agree=False),
        CellOpinion(edge=cell("monocyte"), cloud=None, agree=False),
    )
    assert [(group.label, group.places) for group in groups(cells)] == [
        ("unidentified", (5,)),
        (NOT_SEEN, (6,)),
        ("neutrophil", (2, 3, 4, 1, 0)),
    ]


def test_a_blind_read_goes_from_left_to_right_in_one_group() -> None:
    cells = (both("neutrophil", at=300.0), both("unidentified", at=20.0), both("basophil", at=100.0))
    assert [(group.label, group.places) for group in groups(cells, blind=True)] == [(BLIND, (1, 2, 0))]
    assert groups((), blind=True) == []
