"""Second opinions inside a transaction: stored once, the newest state wins, laid beside the local cells."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter as Tally
from datetime import datetime

from fleet.contract.base import utc_now_text
from fleet.contract.cells import CellClassName, DetectionWire
from fleet.contract.http import SecondOpinion
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
    """Stores a whole opinion, whether it is new or known, and marks the cells it speaks of."""
    labels = Tally(_label(cell) for cell in opinion.detections if cell.cls is CellClassName.WBC and cell.counted)
    source = READER if opinion.state is OpinionState.REVIEWED else opinion.model.digest
    moment = utc_now_text(now)
    connection.execute(
        _PUT,
        (opinion.id, opinion.capture_id, opinion.state.value, source, json.dumps(labels), 1, moment, moment),
    )
    said_by = READER if opinion.state is OpinionState.REVIEWED else LARGER_MODEL
    cells = connection.execute(
        "SELECT d.id, d.x, d.y, d.width, d.height FROM detections d JOIN fields f ON f.id = d.field_id"
        " WHERE f.capture_id = ? AND d.cls = 'WBC'",
        (opinion.capture_id,),
    ).fetchall()
    for pair in opinion.cells:
        if pair.edge is None or pair.cloud is None:
            continue
        for cell in cells:
            if all(abs(a - b) <= SAME_BOX_PX for a, b in zip(cell[1:], pair.edge.bbox, strict=True)):
                connection.execute(
                    "UPDATE detections SET second_label = ?, second_source = ? WHERE id = ?",
                    (_label(pair.cloud), said_by, cell[0]),
                )
                break


def put_short_opinion(connection: sqlite3.Connection, message: OpinionReady, now: datetime) -> bool:
    """Stores what `down/opinion` says; True when the store has not the whole of this state yet."""
    row = connection.execute("SELECT state, whole FROM opinions WHERE id = ?", (message.opinion,)).fetchone()
    if row is not None and row["state"] == message.state.value and row["whole"]:
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


def _label(cell: DetectionWire) -> str:
    return cell.cell_type.label if cell.cell_type is not None else UNIDENTIFIED
