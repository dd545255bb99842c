"""The agent's store: fields, slides, opinions, counters and the spool, one transaction a field."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

import structlog

from edge_agent.errors import SlideClosed, StoreDamaged, StoreFull, StoreOfNewerAgent
from edge_agent.slides.naming import free_name, pseudonym
from edge_agent.store.database_sqlite import Database
from edge_agent.store.handed import Handed
from edge_agent.store.opinions_sqlite import put_opinion, put_short_opinion
from edge_agent.store.reads_sqlite import slide_totals
from edge_agent.store.records import (
    START_OF_SPOOL,
    Counter,
    Cursors,
    NewField,
    SlideTotals,
    SpoolEvent,
    SpoolImage,
    Waiting,
)
from edge_agent.store.repair_sqlite import repair, settle
from edge_agent.store.soundness import Fault, Unsendable
from edge_agent.store.spool_sqlite import (
    Numbering,
    Quotas,
    append_event,
    append_image,
    count,
    delete_events,
    enforce,
    next_image,
    rows_of,
    set_aside,
    take_events,
    waiting,
)
from edge_agent.store.stamps_sqlite import put_stamp
from edge_agent.store.value import Priority
from edge_agent.version import agent_version
from fleet.contract.base import utc_now_text
from fleet.contract.cells import Decision, DetectionWire
from fleet.contract.http import SecondOpinion
from fleet.contract.messages import Alarm, Dropped, Event, OpinionReady, SeqRange, SlideResult, UpdateStep

FILE_NAME = "edge.sqlite3"
REFUSED = "refused"
STEP_KEY = "update_step"
VERSION_KEY = "agent_version"
FOLDER = "folder"
STORED = "stored"

log = structlog.get_logger()


class Store:
    """Everything the agent keeps. Safe to use from several threads.

    Opening it counts a boot: (boot, seq) then names every row of the spool for good. A new store begins at the seconds
    since 1970, so that a workstation whose store was lost does not use numbers again that the cloud knows already.

    Args:
        folder: the agent's data folder.
        quotas: what the spool may hold.
        first_boot: number of a new store's first boot; None takes the time.

    Attributes:
        on_rejected: told, after the commit, of how many results the cloud has refused for good.
        repaired: what was saved, when the store was damaged and has been replaced just now.
        on_set_aside: told, after the commit, of how many rows cannot be sent and are kept to be looked at.

    Raises:
        StoreDamaged, StoreFull, StoreFault: see `Database`; by every method as well.
    """

    def __init__(self, folder: Path, quotas: Quotas, *, first_boot: int | None = None) -> None:
        self.on_rejected: Callable[[int], None] = lambda results: None
        self.on_set_aside: Callable[[int], None] = lambda rows: None
        self.repaired = settle(folder / FILE_NAME)
        try:
            self.database = Database(folder / FILE_NAME)
        except StoreOfNewerAgent:
            raise
        except StoreDamaged:
            self.repaired = repair(folder / FILE_NAME)
            self.database = Database(folder / FILE_NAME)
        self._quotas = quotas
        self._handed = Handed()
        try:
            with self.database.transaction() as connection:
                self._salt = _kept(connection, "salt", secrets.token_hex(16)).encode()
                self.instance = _kept(connection, "instance", secrets.token_hex(8))
                first = max(1, int(time.time())) if first_boot is None else first_boot
                boot = int(_kept(connection, "boot", str(first - 1))) + 1
                _put(connection, "boot", str(boot))
                _put(connection, f"{VERSION_KEY}.{boot}", agent_version())
                _see_older_files(connection)
        except BaseException:
            self.database.close()
            raise
        self._numbering = Numbering(boot)

    @property
    def boot(self) -> int:
        """Number of this opening: one more than at the opening before."""
        return self._numbering.boot

    def use(self, quotas: Quotas) -> None:
        """From the next row on, these quotas hold."""
        self._quotas = quotas

    def close(self) -> None:
        """Ends cleanly."""
        self.database.close()

    def record_field(self, field: NewField, *, now: datetime) -> bool:
        """Stores a field, its cells, the slide's counts and its rows of the spool, all or nothing.

        Returns:
            False for a field of a replayable source that the slide already has: counted as repeated, nothing else.

        Raises:
            SlideClosed: nothing was stored; a slide that is closed has its result.
        """
        with self._writing() as connection:
            slide = connection.execute("SELECT closed_at FROM slides WHERE id = ?", (field.slide_id,)).fetchone()
            if slide is not None and slide["closed_at"] is not None:
                raise SlideClosed(f"the slide {field.slide_id} is closed; open the next one")
            if field.replayable and _known(connection, field):
                count(connection, Counter.FIELDS_REPEATED)
                return False
            field_id = _insert_field(connection, field, boot=self.boot)
            _insert_detections(connection, field_id, field)
            if field.source == FOLDER and field.replayable:
                _see(connection, field.source, field.source_ref, STORED, now)
            if field.file_stamp is not None:
                put_stamp(connection, field.file_stamp, now)
            _count_on_slide(connection, field)
            append_event(connection, self._numbering, field.result, now)
            if field.image is not None:
                append_image(connection, self._numbering, field.image, now)
            enforce(connection, self._numbering, self._quotas, now, handed=self._handed.hold)
        return True

    def append(self, event: Event, *, now: datetime) -> None:
        """Stores an event that belongs to no field (an alarm)."""
        with self._writing() as connection:
            append_event(connection, self._numbering, event, now)
            enforce(connection, self._numbering, self._quotas, now, handed=self._handed.hold)

    def append_step(self, step: UpdateStep, *, journal: str, number: int, now: datetime) -> bool:
        """Stores a step of the model update; False when this number of the journal or a later one is stored already."""
        with self._writing() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (STEP_KEY,)).fetchone()
            known_journal, _, known = ("", "", "0") if row is None else str(row["value"]).rpartition(":")
            if known_journal == journal and int(known) >= number:
                return False
            append_event(connection, self._numbering, step, now)
            _put(connection, STEP_KEY, f"{journal}:{number}")
            enforce(connection, self._numbering, self._quotas, now, handed=self._handed.hold)
        return True

    def open_slide(self, name: str, *, target_white_cells: int, now: datetime) -> SlideTotals:
        """The open slide; without one opens `name` (or `name-2`, ... when that was closed before)."""
        with self._writing() as connection:
            row = connection.execute("SELECT id FROM slides WHERE closed_at IS NULL").fetchone()
            if row is None:
                taken = {str(r[0]) for r in connection.execute("SELECT name FROM slides")}
                number, free = free_name(name, taken)
                row = connection.execute(
                    "INSERT INTO slides (name, specimen, number, pseudonym, opened_at, target_white_cells)"
                    " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                    (free, name, number, pseudonym(free, salt=self._salt), utc_now_text(now), target_white_cells),
                ).fetchone()
            return slide_totals(connection, int(row[0]))

    def close_slide(self, slide_id: int, result: SlideResult, *, now: datetime) -> bool:
        """Closes a slide and spools its result; False when it was closed before."""
        with self._writing() as connection:
            closed = connection.execute(
                "UPDATE slides SET closed_at = ?, closed_by = ? WHERE id = ? AND closed_at IS NULL",
                (utc_now_text(now), result.closed_by.value, slide_id),
            ).rowcount
            if closed:
                append_event(connection, self._numbering, result, now)
                enforce(connection, self._numbering, self._quotas, now, handed=self._handed.hold)
        return bool(closed)

    def waiting(self) -> Waiting:
        """How much the spool holds."""
        with self.database.reading() as connection:
            return waiting(connection)

    def take_events(self, *, after: Cursors = START_OF_SPOOL, limit: int) -> list[SpoolEvent]:
        """Oldest events behind a row of each priority that can be sent; they stay until they are acknowledged.

        One that cannot be sent is set aside on the way. Empty only when there are no more.
        """
        while True:
            with self._handed.taking(), self.database.reading() as connection:
                found, unsendable, after = take_events(connection, after=after, limit=limit)
                self._handed.took(after[Priority.NOTE])
            if unsendable:
                self.set_aside(unsendable)
            if found or not unsendable:
                return found

    def set_aside(self, rows: Iterable[Unsendable]) -> int:
        """Keeps rows that cannot be sent where they hold nothing up: counted and told. Returns those that were new."""
        try:
            with self._writing() as connection:
                moved = sum(set_aside(connection, row) for row in rows)
        except StoreFull as exc:
            # No reason to hold up the others: met again at the next reading.
            log.error("row_not_set_aside", error=str(exc))
            return 0
        if moved:
            self.on_set_aside(moved)
        return moved

    def give_up(self, ranges: tuple[SeqRange, ...]) -> int:
        """Sets results aside that the cloud never acknowledges although it acknowledges others."""
        with self.database.reading() as connection:
            rows = rows_of(connection, ranges)
        return self.set_aside([Unsendable(row_id, False, Fault.NEVER_ACKNOWLEDGED.value) for row_id in rows])

    def acknowledge(self, ranges: tuple[SeqRange, ...], rejected: tuple[SeqRange, ...]) -> int:
        """Deletes what the cloud has committed, and counts what it has dead-lettered. Returns the rows."""
        with self._writing() as connection:
            sent, refused = delete_events(connection, ranges), delete_events(connection, rejected)
            count(connection, Counter.RESULTS_SENT, sent)
            count(connection, Counter.RESULTS_REJECTED, refused)
        if refused:
            self.on_rejected(refused)
        return sent + refused

    def next_image(self, *, excluding: tuple[int, ...] = ()) -> SpoolImage | None:
        """Oldest picture waiting for its opinion; one that cannot be sent is set aside on the way."""
        barred = excluding
        while True:
            with self.database.reading() as connection:
                found = next_image(connection, excluding=barred)
            if not isinstance(found, Unsendable):
                return found
            self.set_aside([found])
            barred = (*barred, found.row_id)

    def note_attempt(self, row_id: int, *, https_bytes: int) -> None:
        """Counts an attempt and its bytes before they leave: a kill in between must not hide them."""
        with self._writing() as connection:
            connection.execute("UPDATE spool SET attempts = attempts + 1 WHERE id = ?", (row_id,))
            count(connection, Counter.HTTPS_BYTES, https_bytes)

    def answer(self, opinion: SecondOpinion, *, row_id: int | None, now: datetime) -> None:
        """Stores a second opinion and, in the same transaction, lets go of its picture (`row_id`, if any)."""
        with self._writing() as connection:
            put_opinion(connection, opinion, now)
            if row_id is not None:
                gone = connection.execute("DELETE FROM spool WHERE id = ?", (row_id,)).rowcount
                count(connection, Counter.IMAGES_SENT, gone)

    def announce(self, message: OpinionReady, *, now: datetime) -> bool:
        """Stores an opinion as `down/opinion` tells it in short. True when the whole of it should be fetched."""
        with self._writing() as connection:
            return put_short_opinion(connection, message, now)

    def refuse_image(self, row_id: int, reason: str, *, now: datetime) -> None:
        """Sets a picture aside that the cloud will never take; counted and told."""
        row = Unsendable(row_id, True, f"{REFUSED}:{reason}"[:64])
        with self._writing() as connection:
            if moved := set_aside(connection, row):
                count(connection, Counter.IMAGES_REFUSED)
                told = Dropped(boot=0, seq=0, dropped_at=now, reason=row.reason, results=0, images=1)
                append_event(connection, self._numbering, told, now)
        if moved:
            self.on_set_aside(1)

    def alarm(self, alarm: Alarm, *, now: datetime) -> None:
        """Spools an alarm."""
        self.append(alarm, now=now)

    def count(self, name: Counter, by: int) -> None:
        """Adds to a lasting counter."""
        with self._writing() as connection:
            count(connection, name, by)

    def see_file(self, source: str, source_ref: str, outcome: str, *, now: datetime) -> bool:
        """Keeps what became of a file that gave no field; False when that was known, so that it is told once."""
        with self._writing() as connection:
            return _see(connection, source, source_ref, outcome, now)

    def remember(self, key: str, value: str) -> None:
        """Keeps a text under a key."""
        with self._writing() as connection:
            _put(connection, f"kept.{key}", value)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction whose sequence numbers go back with it: a number is used once, by a row that was committed."""
        with self.database.sole_writer():
            try:
                with self.database.transaction() as connection:
                    seq = self._numbering.seq
                    try:
                        yield connection
                    except BaseException:
                        self._numbering.seq = seq
                        raise
            finally:
                self._handed.let_go()


def _see(connection: sqlite3.Connection, source: str, source_ref: str, outcome: str, now: datetime) -> bool:
    """A file that was stored stays stored, whatever is said of it later."""
    seen = connection.execute(
        "INSERT INTO seen_files VALUES (?, ?, ?, ?) ON CONFLICT (source, source_ref) DO UPDATE SET"
        " outcome = excluded.outcome, seen_at = excluded.seen_at"
        f" WHERE outcome != excluded.outcome AND outcome != '{STORED}'",
        (source, source_ref, outcome, utc_now_text(now)),
    )
    return seen.rowcount > 0


def _see_older_files(connection: sqlite3.Connection) -> None:
    """Once: a store of the first version has its files only in its fields."""
    if connection.execute("INSERT INTO meta VALUES ('files_seen', '1') ON CONFLICT (key) DO NOTHING").rowcount:
        connection.execute(
            "INSERT OR IGNORE INTO seen_files SELECT source, source_ref, ?, captured_at FROM fields"
            " WHERE replayable = 1 AND source = ?",
            (STORED, FOLDER),
        )


def _kept(connection: sqlite3.Connection, key: str, default: str) -> str:
    connection.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (key, default))
    return str(connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


def _put(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
    )


def _known(connection: sqlite3.Connection, field: NewField) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM fields WHERE slide_id = ? AND source = ? AND source_ref = ? AND replayable = 1",
            (field.slide_id, field.source, field.source_ref),
        ).fetchone()
        is not None
    )


def _insert_field(connection: sqlite3.Connection, field: NewField, *, boot: int) -> int:
    result = field.result
    row = connection.execute(
        "INSERT INTO fields (capture_id, source, source_ref, replayable, slide_id, captured_at, decision, reasons,"
        " sampled, latency_ms, focus, rbc_diameter_px, um_per_px, width_px, height_px, counts, model, image_sha256,"
        " boot)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            result.capture_id,
            field.source,
            field.source_ref,
            field.replayable,
            field.slide_id,
            utc_now_text(result.captured_at),
            result.decision.value,
            json.dumps(result.reasons),
            field.sampled.value,
            result.latency_ms,
            result.focus,
            result.rbc_diameter_px,
            field.um_per_px,
            field.width_px,
            field.height_px,
            result.counts.model_dump_json(),
            result.model,
            result.image_sha256,
            boot,
        ),
    ).fetchone()
    return int(row[0])


def _insert_detections(connection: sqlite3.Connection, field_id: int, field: NewField) -> None:
    connection.executemany(
        "INSERT INTO detections (field_id, x, y, width, height, cls, score, counted, cell_type, label, probability,"
        " crop) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (field_id, *cell.bbox, cell.cls.value, cell.score, cell.counted, *_type(cell), field.crops.get(index))
            for index, cell in enumerate(field.detections)
        ],
    )


def _type(cell: DetectionWire) -> tuple[str | None, str | None, float | None]:
    kind = cell.cell_type
    if kind is None:
        return None, None, None
    return kind.model_dump_json(), kind.label, max(kind.probabilities.values(), default=0.0)


def _count_on_slide(connection: sqlite3.Connection, field: NewField) -> None:
    """Withheld fields are counted as fields only: their cells are in no result."""
    counts, withheld = field.result.counts, field.result.decision is Decision.WITHHELD
    uncertain = field.result.decision is Decision.UNCERTAIN
    rbc, platelets = (0, 0) if withheld else (counts.rbc, counts.platelets)
    connection.execute(
        "UPDATE slides SET fields = fields + 1, withheld = withheld + ?, uncertain = uncertain + ?, rbc = rbc + ?,"
        " platelets = platelets + ?, platelets_squared = platelets_squared + ? WHERE id = ?",
        (withheld, uncertain, rbc, platelets, platelets * platelets, field.slide_id),
    )
    if not withheld:
        connection.executemany(
            "INSERT INTO slide_white_cells VALUES (?, ?, ?)"
            " ON CONFLICT (slide_id, label) DO UPDATE SET cells = cells + excluded.cells",
            [(field.slide_id, label, cells) for label, cells in counts.white_cells.items() if cells],
        )
