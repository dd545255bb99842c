"""Reading the store: slides, fields, cells, opinions, counters."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from edge_agent.store.database_sqlite import Database
from edge_agent.store.records import Counter, SlideTotals, StoredCell, StoredField, StoredOpinion
from edge_agent.store.stamps_sqlite import stamps_of
from fleet.contract.cells import CellClassName, CellTypeWire, Decision, DetectionWire, FieldCounts
from models.bundle.manifest import UNIDENTIFIED

ASKED_AT_ONCE = 500


class Reads:
    """Queries over a store's database, beside whoever writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def slide(self, slide_id: int) -> SlideTotals:
        """One slide with its counts; KeyError for an unknown row."""
        with self._database.reading() as connection:
            return slide_totals(connection, slide_id)

    def slides(self) -> list[SlideTotals]:
        """All slides, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT id FROM slides ORDER BY id").fetchall()
            return [slide_totals(connection, int(row[0])) for row in rows]

    def last_ref(self, source: str, *, slide_id: int) -> str | None:
        """The reference stored last of a replayable source on a slide."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT source_ref FROM fields WHERE slide_id = ? AND source = ? AND replayable = 1"
                " ORDER BY id DESC LIMIT 1",
                (slide_id, source),
            ).fetchone()
        return None if row is None else str(row[0])

    def known_refs(self, source: str, refs: Collection[str], *, slide_id: int | None) -> set[str]:
        """Those of the references that are stored already, of one slide or of any; asks for nothing else."""
        wanted, found = list(refs), set[str]()
        for at in range(0, len(wanted), ASKED_AT_ONCE):
            part = wanted[at : at + ASKED_AT_ONCE]
            marks = ",".join("?" * len(part))
            if slide_id is None:
                query = (
                    "SELECT source_ref FROM seen_files WHERE source = ? AND outcome = 'stored'"
                    f" AND source_ref IN ({marks})"
                )
                values: list[str | int] = [source]
            else:
                query = (
                    "SELECT source_ref FROM fields WHERE slide_id = ? AND source = ? AND replayable = 1"
                    f" AND source_ref IN ({marks})"
                )
                values = [slide_id, source]
            with self._database.reading() as connection:
                found.update(str(row[0]) for row in connection.execute(query, [*values, *part]))
        return found

    def file_stamps(self, refs: Collection[str]) -> dict[str, str]:
        """Of these files of a watched folder, those whose stamps are kept -> the text of the stamp."""
        return stamps_of(self._database, refs)

    def fields(self) -> Iterator[StoredField]:
        """Every field with its cells, in order of capture, a few at a time."""
        after = 0
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(
                    "SELECT f.*, s.name AS slide FROM fields f JOIN slides s ON s.id = f.slide_id"
                    " WHERE f.id > ? ORDER BY f.id LIMIT 100",
                    (after,),
                ).fetchall()
                found = [_field(connection, row) for row in rows]
            if not rows:
                return
            yield from found
            after = int(rows[-1]["id"])

    def waiting_copy(self, capture_id: str) -> bytes | None:
        """A field's picture as JPEG while it waits to be sent; None before and after."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT image FROM spool WHERE kind = 'image' AND capture_id = ?", (capture_id,)
            ).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def opinions(self) -> list[StoredOpinion]:
        """Every second opinion that has reached the device, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM opinions ORDER BY received_at, id").fetchall()
        return [
            StoredOpinion(
                row["id"], row["capture_id"], row["state"], row["source"], json.loads(row["labels"]), bool(row["whole"])
            )
            for row in rows
        ]

    def opinion_state(self, opinion_id: str) -> str | None:
        """State of a whole opinion, None when it is not here or only in short."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT state FROM opinions WHERE id = ? AND whole = 1", (opinion_id,)).fetchone()
        return None if row is None else str(row[0])

    def counters(self) -> dict[Counter, int]:
        """Every lasting counter, 0 where nothing was counted."""
        with self._database.reading() as connection:
            rows = dict(connection.execute("SELECT name, value FROM counters").fetchall())
        return {name: int(rows.get(name.value, 0)) for name in Counter}

    def recall(self, key: str) -> str | None:
        """A text that `Store.remember` has kept."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (f"kept.{key}",)).fetchone()
        return None if row is None else str(row[0])

    def cells(self, slide: str | None, limit: int) -> list[StoredCell]:
        """White cells of a slide (None: the newest one), worst first: foreign, unidentified, then the least sure."""
        query = (
            "SELECT d.id, d.cell_type, d.label, d.probability, d.second_label, d.second_source, f.capture_id"
            " FROM detections d JOIN fields f ON f.id = d.field_id JOIN slides s ON s.id = f.slide_id"
            " WHERE d.label IS NOT NULL AND d.counted = 1 AND f.decision != 'withheld' AND s.id ="
            + (" (SELECT MAX(id) FROM slides)" if slide is None else " (SELECT id FROM slides WHERE name = ?)")
            + " ORDER BY d.label = ? DESC, d.probability ASC, d.id LIMIT ?"
        )
        values = (UNIDENTIFIED, limit) if slide is None else (slide, UNIDENTIFIED, limit)
        with self._database.reading() as connection:
            return [_cell(row) for row in connection.execute(query, values)]

    def crop(self, cell_id: int) -> bytes | None:
        """A white cell's picture as JPEG."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT crop FROM detections WHERE id = ?", (cell_id,)).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])


def slide_totals(connection: sqlite3.Connection, slide_id: int) -> SlideTotals:
    """One slide inside a running transaction."""
    row = connection.execute("SELECT * FROM slides WHERE id = ?", (slide_id,)).fetchone()
    if row is None:
        raise KeyError(f"there is no slide {slide_id}")
    white = connection.execute("SELECT label, cells FROM slide_white_cells WHERE slide_id = ?", (slide_id,))
    return SlideTotals(
        slide_id=row["id"],
        name=row["name"],
        pseudonym=row["pseudonym"],
        opened_at=_time(row["opened_at"]),
        closed_at=_time(row["closed_at"]) if row["closed_at"] else None,
        target_white_cells=row["target_white_cells"],
        fields=row["fields"],
        withheld=row["withheld"],
        uncertain=row["uncertain"],
        rbc=row["rbc"],
        platelets=row["platelets"],
        platelets_squared=row["platelets_squared"],
        white_cells={str(label): int(cells) for label, cells in white},
    )


def _field(connection: sqlite3.Connection, row: sqlite3.Row) -> StoredField:
    cells = connection.execute(
        "SELECT x, y, width, height, cls, score, counted, cell_type FROM detections WHERE field_id = ? ORDER BY id",
        (row["id"],),
    )
    detections = tuple(
        DetectionWire(
            bbox=(c["x"], c["y"], c["width"], c["height"]),
            cls=CellClassName(c["cls"]),
            score=c["score"],
            counted=bool(c["counted"]),
            cell_type=CellTypeWire.model_validate_json(c["cell_type"]) if c["cell_type"] else None,
        )
        for c in cells
    )
    return StoredField(
        capture_id=row["capture_id"],
        source=row["source"],
        source_ref=row["source_ref"],
        model=row["model"],
        um_per_px=row["um_per_px"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        captured_at=_time(row["captured_at"]),
        slide=row["slide"],
        decision=Decision(row["decision"]),
        reasons=tuple(json.loads(row["reasons"])),
        latency_ms=row["latency_ms"],
        counts=FieldCounts.model_validate_json(row["counts"]),
        detections=detections,
    )


def _cell(row: sqlite3.Row) -> StoredCell:
    kind = CellTypeWire.model_validate_json(row["cell_type"])
    return StoredCell(
        cell_id=row["id"],
        capture_id=row["capture_id"],
        label=row["label"],
        probability=row["probability"],
        prediction_set=kind.prediction_set,
        in_domain=kind.in_domain,
        second_label=row["second_label"],
        second_source=row["second_source"],
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
