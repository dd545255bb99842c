"""Second opinions inside a transaction: stored once, the newest state wins, laid beside the local cells."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter as Tally
from datetime import datetime

from fleet.contract.base import utc_now_text
from fleet.contract.cells import CellClassName, DetectionWire
from fleet.contract.http import CellOpinion, SecondOpinion
from fleet.contract.messages import OpinionReady, OpinionState
from models.bundle.manifest import UNIDENTIFIED

SAME_BOX_PX = 1.0
"""Boxes come back as they were sent, rounded; a cell is found again within so many pixels."""
LARGER_MODEL = "larger model"
READER = "reader"

_PUT = (
    "INSERT INTO opinions (id, capture_id, state, source, labels, whole, received_at, updated_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state, source = excluded.source,"
    " labels = excluded.labels, whole = excluded.whole, updated_at = excluded.updated_at"
)


def put_opinion(connection: sqlite3.Connection, opinion: SecondOpinion, now: datetime) -> None:
    """Stores a whole opinion, whether it is new or known, and marks the cells it speaks of.

    A person's word takes the larger model's place, on the opinion and on each cell.
    """
    reviewed = opinion.state is OpinionState.REVIEWED
    moment = utc_now_text(now)
    connection.execute(
        _PUT,
        (
            opinion.id,
            opinion.capture_id,
            opinion.state.value,
            READER if reviewed else opinion.model.digest,
            json.dumps(_labels_of_reader(opinion) if reviewed else _labels_of_model(opinion)),
            1,
            moment,
            moment,
        ),
    )
    cells = connection.execute(
        "SELECT d.id, d.x, d.y, d.width, d.height FROM detections d JOIN fields f ON f.id = d.field_id"
        " WHERE f.capture_id = ? AND d.cls = 'WBC'",
        (opinion.capture_id,),
    ).fetchall()
    for pair in opinion.cells:
        said = _second_word(pair)
        if pair.edge is None or said is None:
            continue
        for cell in cells:
            if all(abs(a - b) <= SAME_BOX_PX for a, b in zip(cell[1:], pair.edge.bbox, strict=True)):
                connection.execute(
                    "UPDATE detections SET second_label = ?, second_source = ? WHERE id = ?", (*said, cell[0])
                )
                break


def put_short_opinion(connection: sqlite3.Connection, message: OpinionReady, now: datetime) -> bool:
    """Stores what `down/opinion` says; True when the store has not the whole of this state yet.

    A person may change a label after the end of the reading: then the state is the same and the labels are not.
    """
    row = connection.execute("SELECT state, whole, labels FROM opinions WHERE id = ?", (message.opinion,)).fetchone()
    if row is not None and row["state"] == message.state.value and row["whole"]:
        changed = message.state is OpinionState.REVIEWED and json.loads(row["labels"]) != message.labels
        if not changed:
            return False
    moment = utc_now_text(now)
    connection.execute(
        _PUT,
        (
            message.opinion,
            message.capture_id,
            message.state.value,
            message.source,
            json.dumps(message.labels),
            0,
            moment,
            moment,
        ),
    )
    return True


def _labels_of_model(opinion: SecondOpinion) -> dict[str, int]:
    return Tally(_label(cell) for cell in opinion.detections if cell.cls is CellClassName.WBC and cell.counted)


def _labels_of_reader(opinion: SecondOpinion) -> dict[str, int]:
    said = [cell.reader for cell in opinion.cells if cell.reader is not None]
    return Tally(said + [cell.label for cell in opinion.missed])


def _second_word(pair: CellOpinion) -> tuple[str, str] | None:
    """(label, who says it): a person's where there is one."""
    if pair.reader is not None:
        return pair.reader, READER
    return None if pair.cloud is None else (_label(pair.cloud), LARGER_MODEL)


def _label(cell: DetectionWire) -> str:
    return cell.cell_type.label if cell.cell_type is not None else UNIDENTIFIED
