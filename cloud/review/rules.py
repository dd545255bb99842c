"""Which labels are taken, which of them count, and when an image is read to its end. Pure.

Each reader has one word on a cell: the last one. `withdrawn` takes it back. The cell's label is the newest of the
readers' words, so that a word taken back leaves the other reader's standing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloud.errors import Conflict, Unprocessable
from fleet.contract.cells import BBox
from fleet.contract.http import CellLabel, CellOpinion
from models.bundle.manifest import WhiteCellType
from models.runtime.matching import iou_matrix

NOT_CLASSED = "not_classed"
"""A person cannot say which type it is; not in the differential."""
ARTEFACT = "artefact"
"""No white cell at all: a smudge, a platelet on a red cell, dirt."""
WITHDRAWN = "withdrawn"
"""The reader takes the last word on a cell back."""

LABELS = (*(kind.value for kind in WhiteCellType), NOT_CLASSED, ARTEFACT)
"""What a cell can be; stored, never renamed."""

SAME_CELL_IOU = 0.5
"""A box that covers another to this extent is the same cell."""
MIN_SIDE_PX = 4.0
"""A box drawn smaller than this was a slip of the hand."""


@dataclass(frozen=True, slots=True)
class Word:
    """What one reader said of one cell.

    Attributes:
        row: grows with each stored word; the newest has the largest.
        cell: place in the opinion's cells; None for a cell that both models missed.
        bbox: x, y, width, height, pixels of the frame.
        label: one of LABELS, or WITHDRAWN.
        reader: key of the principal.
    """

    row: int
    cell: int | None
    bbox: BBox
    label: str
    reader: str

    @property
    def place(self) -> int | BBox:
        """What it is about."""
        return self.bbox if self.cell is None else self.cell


def standing(words: Iterable[Word]) -> list[Word]:
    """The word that counts for each cell, by cell, cells that were missed last.

    Args:
        words: all words on one opinion, in any order.
    """
    last: dict[tuple[int | BBox, str], Word] = {}
    for word in sorted(words, key=lambda word: word.row):
        last[word.place, word.reader] = word
    newest: dict[int | BBox, Word] = {}
    for word in sorted(last.values(), key=lambda word: word.row):
        if word.label != WITHDRAWN:
            newest[word.place] = word
    return sorted(newest.values(), key=lambda word: (word.cell is None, word.cell or 0, word.row))


def news(
    asked: Sequence[CellLabel],
    *,
    cells: Sequence[CellOpinion],
    words: Sequence[Word],
    reader: str,
    width_px: int,
    height_px: int,
) -> list[Word]:
    """What is to be stored of what is asked: words that are said already are passed over.

    Args:
        cells: of the opinion.
        words: stored before.
        width_px, height_px: of the frame.

    Raises:
        Unprocessable: a label that is none, a cell that is not there, a box that cannot be a missed cell.
    """
    known: dict[int | BBox, list[Word]] = {}
    for word in words:
        known.setdefault(word.place, []).append(word)
    boxes = [bbox_of(cell) for cell in cells]
    found: list[Word] = []
    row = max((word.row for word in words), default=0)
    for item in asked:
        _check_label(item.label)
        missed = [place for place in known if not isinstance(place, int)]
        cell, bbox = _place(item, boxes, missed, width_px=width_px, height_px=height_px)
        row += 1
        word = Word(row, cell, bbox, item.label, reader)
        same = known.setdefault(word.place, [])
        if not _is_said(word, same):
            found.append(word)
            same.append(word)
    return found


def left(cells: Sequence[CellOpinion], words: Iterable[Word]) -> tuple[int, ...]:
    """Places of the cells without a label."""
    labelled = {word.cell for word in standing(words)}
    return tuple(place for place in range(len(cells)) if place not in labelled)


def labels_by_place(words: Iterable[Word]) -> dict[int | BBox, str]:
    """The label that counts for each cell."""
    return {word.place: word.label for word in standing(words)}


def counts(words: Iterable[Word]) -> dict[str, int]:
    """Label -> cells, by name."""
    found: dict[str, int] = {}
    for word in sorted(standing(words), key=lambda word: word.label):
        found[word.label] = found.get(word.label, 0) + 1
    return found


def require_complete(missing: Sequence[int], *, reviewed: bool) -> None:
    """Conflict (409) naming the cells without a label, when there are any."""
    if not missing:
        return
    named = ", ".join(str(place) for place in missing[:20]) + (", ..." if len(missing) > 20 else "")
    one = len(missing) == 1
    if reviewed:
        raise Conflict(
            f"the image is read to its end, and {'cell' if one else 'cells'} {named} would be without a label",
            code="review_ended",
            hint="give another label instead of taking the old one back",
        )
    raise Conflict(
        f"{len(missing)} {'cell has' if one else 'cells have'} no label: {named} (counted from 0)",
        code="cells_missing",
        hint="label each cell; use not_classed for one that cannot be told",
    )


def bbox_of(cell: CellOpinion) -> BBox:
    """The larger model's box, else the device's."""
    seen = cell.cloud or cell.edge
    assert seen is not None  # a cell is seen by at least one of them
    return seen.bbox


def _check_label(label: str) -> None:
    if label not in LABELS and label != WITHDRAWN:
        raise Unprocessable(
            f"{label!r} is not a label", code="unknown_label", hint=f"use one of {', '.join(LABELS)}, {WITHDRAWN}"
        )


def _place(
    item: CellLabel, cells: Sequence[BBox], missed: Sequence[BBox], *, width_px: int, height_px: int
) -> tuple[int | None, BBox]:
    if item.cell is not None:
        if item.cell >= len(cells):
            raise Unprocessable(
                f"there is no cell {item.cell}: the image has {len(cells)}",
                code="no_cell",
                hint="cells are counted from 0, as in SecondOpinion.cells",
            )
        return item.cell, cells[item.cell]
    if item.bbox is None:
        raise Unprocessable("a label names no cell", code="no_cell", hint="give cell, or bbox for one that was missed")
    bbox = _rounded(item.bbox)
    x, y, width, height = bbox
    if min(width, height) < MIN_SIDE_PX or x < 0 or y < 0 or x + width > width_px or y + height > height_px:
        raise Unprocessable(
            f"the box {list(bbox)} is no cell of a picture of {width_px}x{height_px} pixels",
            code="bad_box",
            hint=f"x, y, width, height inside the picture, at least {MIN_SIDE_PX:.0f} pixels a side",
        )
    if (known := _same(bbox, cells)) is not None:
        raise Unprocessable(f"cell {known} lies there", code="cell_is_known", hint=f"label it as cell {known}")
    again = _same(bbox, missed)
    return None, bbox if again is None else missed[again]


def _same(bbox: BBox, others: Sequence[BBox]) -> int | None:
    overlap = iou_matrix([_corners(bbox)], [_corners(other) for other in others])
    return next((index for index in range(len(others)) if overlap[0, index] >= SAME_CELL_IOU), None)


def _is_said(word: Word, same: Sequence[Word]) -> bool:
    """Whether `word` changes nothing after the words on the same cell, oldest first."""
    own = [other for other in same if other.reader == word.reader]
    if word.label == WITHDRAWN:
        return not own or own[-1].label == WITHDRAWN
    now = standing(same)
    return bool(now) and now[0].reader == word.reader and now[0].label == word.label


def _rounded(bbox: BBox) -> BBox:
    x, y, width, height = (round(value, 2) for value in bbox)
    return (x, y, width, height)


def _corners(bbox: BBox) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return (x, y, x + width, y + height)
