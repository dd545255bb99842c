"""The stand-in for a reader: what was drawn becomes labels."""

from __future__ import annotations

import pytest

from fleet.contract.cells import CellClassName, CellTypeWire, DetectionWire, ModelRef
from fleet.contract.http import CellOpinion, SecondOpinion
from fleet.contract.messages import OpinionState
from fleet.local.truth_labels import labels_by_larger_model, labels_of, true_type, unsure_cells
from models.bundle.manifest import UNIDENTIFIED

DIGEST = "sha256:" + "0" * 64
MONOCYTE = {"cls": "WBC", "cell_type": "monocyte", "box": [100, 100, 200, 200], "visible_ratio": 1.0}
RED_CELL = {"cls": "RBC", "cell_type": None, "box": [300, 300, 360, 360], "visible_ratio": 1.0}


def white(label: str, x: float = 105) -> DetectionWire:
    kind = CellTypeWire(label=label, probabilities={"monocyte": 1.0}, in_domain=True, ood_score=0.5)
    return DetectionWire(bbox=(x, 100, 100, 100), cls=CellClassName.WBC, score=0.9, counted=True, cell_type=kind)


def opinion(*cells: CellOpinion) -> SecondOpinion:
    return SecondOpinion(
        id="opinion-1", site="lab-1", device="bench-1", capture_id="bench-1/1/1", image_sha256="0" * 64,
        state=OpinionState.PENDING_REVIEW, created_at="2026-01-31T12:00:00Z", answered_at="2026-01-31T12:00:00Z",
        model=ModelRef(name="m", version="1.0.0", digest=DIGEST), latency_ms=1.0, detections=(), cells=cells,
        needs_review=True,
    )  # fmt: skip


def test_a_cell_gets_the_type_that_was_drawn_under_it() -> None:
    asked = opinion(CellOpinion(edge=white(UNIDENTIFIED), cloud=white("neutrophil"), agree=False))
    (label,) = labels_of(asked, [RED_CELL, MONOCYTE])
    assert (label.cell, label.label) == (0, "monocyte")


def test_what_was_not_drawn_is_an_artefact_and_a_red_cell_is_no_white_one() -> None:
    asked = opinion(
        CellOpinion(edge=white("monocyte", x=400), cloud=None, agree=False),
        CellOpinion(edge=None, cloud=white("monocyte", x=190), agree=False),
    )
    assert [label.label for label in labels_of(asked, [RED_CELL, MONOCYTE])] == ["artefact", "artefact"]
    assert true_type((300, 300, 60, 60), [RED_CELL]) is None


def test_cells_the_edge_left_unnamed_are_remembered_with_the_readers_word() -> None:
    asked = opinion(
        CellOpinion(edge=white(UNIDENTIFIED), cloud=white("neutrophil"), agree=False),
        CellOpinion(edge=white("monocyte"), cloud=white("monocyte"), agree=True),
        CellOpinion(edge=None, cloud=white("monocyte"), agree=False),
        CellOpinion(edge=white(UNIDENTIFIED, x=500), cloud=None, agree=False),
    )
    (cell,) = unsure_cells(asked, labels_of(asked, [MONOCYTE]))
    assert (cell.opinion, cell.label, cell.box) == ("opinion-1", "monocyte", (105, 100, 100, 100))


@pytest.mark.parametrize(
    ("cloud", "word"), [(white("monocyte"), "monocyte"), (white(UNIDENTIFIED), "not_classed"), (None, "not_classed")]
)
def test_without_truth_the_larger_model_speaks_and_its_doubt_is_no_label(
    cloud: DetectionWire | None, word: str
) -> None:
    asked = opinion(CellOpinion(edge=white(UNIDENTIFIED), cloud=cloud, agree=False))
    (label,) = labels_by_larger_model(asked)
    assert label.label == word
    assert len(unsure_cells(asked, [label])) == (word == "monocyte")
