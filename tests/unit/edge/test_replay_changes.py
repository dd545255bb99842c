"""Which cells two readings of a field do not agree on."""

from __future__ import annotations

from edge_agent.replay_changes import LOST, NAMED_OTHERWISE, NEW, Read, box_changes, totals, white_changes
from fleet.contract.cells import CellClassName, CellTypeWire, Decision, DetectionWire, FieldCounts


def white(x: float, label: str, *, counted: bool = True) -> DetectionWire:
    kind = CellTypeWire(
        label=label,
        probabilities={"neutrophil": 0.7, "monocyte": 0.3},
        prediction_set=("neutrophil",),
        in_domain=True,
        ood_score=0.2,
    )
    return DetectionWire(
        bbox=(x, 10.0, 40.0, 40.0),
        cls=CellClassName.WBC,
        score=0.9,
        counted=counted,
        cell_type=kind if counted else None,
    )


def red(x: float) -> DetectionWire:
    return DetectionWire(bbox=(x, 90.0, 30.0, 30.0), cls=CellClassName.RBC, score=0.8, counted=True)


def test_a_cell_at_the_same_place_with_another_name_is_named_otherwise() -> None:
    (change,) = white_changes([white(10, "neutrophil")], [white(13, "monocyte")])
    assert (change.change, change.before, change.after) == (NAMED_OTHERWISE, "neutrophil", "monocyte")
    assert change.bbox[0] == 13
    assert change.before_probability == 0.7


def test_what_only_one_reading_counts_is_lost_or_new() -> None:
    before, after = [white(10, "neutrophil")], [white(300, "monocyte"), white(500, "monocyte", counted=False)]
    assert [(c.change, c.before, c.after) for c in white_changes(before, after)] == [
        (LOST, "neutrophil", None),
        (NEW, None, "monocyte"),
    ]


def test_the_same_reading_differs_in_nothing() -> None:
    cells = [white(10, "neutrophil"), red(10), red(60)]
    assert white_changes(cells, cells) == []
    assert all(count == 0 for by_kind in box_changes(cells, cells).values() for count in by_kind.values())


def test_red_cells_are_numbered_not_listed() -> None:
    assert box_changes([red(10), red(60)], [red(11), red(200), red(300)])["RBC"] == {"lost": 1, "new": 2}


def test_withheld_fields_are_in_no_count() -> None:
    counts = FieldCounts(rbc=10, wbc=2, platelets=1, white_cells={"neutrophil": 2})
    kept = Read(Decision.ACCEPT, (), counts, ())
    withheld = Read(Decision.WITHHELD, ("out_of_focus",), counts, ())
    said = totals([kept, withheld])
    assert (said["rbc"], said["wbc"], said["platelets"]) == (10, 2, 1)
    assert said["differential"]["neutrophil"]["cells"] == 2
