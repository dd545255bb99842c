"""The spool's rows inside a transaction: appending within the quotas, taking, deleting."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from edge_agent.store.eviction_sqlite import Amount, evict, held
from edge_agent.store.records import Counter, Cursors, NewImage, SpoolEvent, SpoolImage, Waiting
from edge_agent.store.soundness import Fault, Unsendable, event_fault
from edge_agent.store.value import EVENT_PRIORITIES, EVENT_PRIORITY, Priority, picture_priority
from fleet.contract.base import utc_now_text
from fleet.contract.cells import Decision
from fleet.contract.codec import WireError, decode, encode
from fleet.contract.http import OpinionContext
from fleet.contract.messages import Dropped, Event, SeqRange

OVER_QUOTA = "over_quota"
_DROPPED = "dropped"
_WAITS = "set_aside IS NULL"
_TRIES_IN_ORDER = 3
"""A picture that was tried so often goes behind the others: it may be the one that the cloud cannot take."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What the spool may hold; set-aside rows are part of it, and the first to go."""

    rows: int
    image_bytes: int
    event_bytes: int = 2**40
    images: int = 2**40


@dataclass(slots=True)
class Numbering:
    """The boot and its next sequence number; goes back when the transaction does."""

    boot: int
    seq: int = 0


def count(connection: sqlite3.Connection, name: Counter, by: int = 1) -> None:
    """Adds to a lasting counter."""
    if by:
        connection.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name.value, by),
        )


def append_event(connection: sqlite3.Connection, numbering: Numbering, event: Event, now: datetime) -> None:
    """Gives an event its number and stores it."""
    numbered = event.model_copy(update={"boot": numbering.boot, "seq": numbering.seq})
    payload = encode(numbered).decode()
    connection.execute(
        "INSERT INTO spool (kind, boot, seq, event_kind, payload, size_bytes, created_at, priority)"
        " VALUES ('event', ?, ?, ?, ?, ?, ?, ?)",
        (
            numbering.boot,
            numbering.seq,
            event.kind,
            payload,
            len(payload),
            utc_now_text(now),
            EVENT_PRIORITY[event.kind],
        ),
    )
    numbering.seq += 1


def append_image(connection: sqlite3.Connection, numbering: Numbering, image: NewImage, now: datetime) -> None:
    """Stores a picture with its context. It takes a number too, so that every row of the spool has one."""
    connection.execute(
        "INSERT INTO spool (kind, boot, seq, capture_id, payload, image, size_bytes, created_at, priority)"
        " VALUES ('image', ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            numbering.boot,
            numbering.seq,
            image.context.capture_id,
            encode(image.context).decode(),
            image.jpeg,
            len(image.jpeg),
            utc_now_text(now),
            picture_priority(audit=image.context.audit and image.context.decision is not Decision.UNCERTAIN),
        ),
    )
    numbering.seq += 1


def enforce(
    connection: sqlite3.Connection,
    numbering: Numbering,
    quotas: Quotas,
    now: datetime,
    *,
    handed: Callable[[], int],
) -> tuple[int, int]:
    """Gives up the least valuable rows over the quotas, counts them and tells the cloud of it.

    The telling itself is never given up. While one of this run waits that has never left, the next one takes its place
    and tells of both: a small spool would else fill up with them.

    Args:
        connection: in a transaction.
        numbering: of the run.
        quotas: what may be held.
        now: UTC.
        handed: the last note that the uplink was given; it gets none behind it before the transaction has ended.

    Returns:
        Results and pictures given up.
    """
    results = evict(connection, "event", Amount(quotas.rows, quotas.event_bytes))
    images = evict(connection, "image", Amount(quotas.images, quotas.image_bytes))
    if results or images:
        count(connection, Counter.RESULTS_DROPPED, results)
        count(connection, Counter.IMAGES_DROPPED, images)
        before = _untold(connection, numbering, handed())
        told = Dropped(
            boot=0,
            seq=0,
            dropped_at=now,
            reason=OVER_QUOTA,
            results=results + (before.results if before else 0),
            images=images + (before.images if before else 0),
            aside=waiting(connection).aside,
        )
        append_event(connection, numbering, told, now)
    return results, images


def _untold(connection: sqlite3.Connection, numbering: Numbering, handed: int) -> Dropped | None:
    """Takes the newest loss over the quotas out of the spool, if it has never left; its number is not used again."""
    row = connection.execute(
        "SELECT id, boot, seq, CAST(payload AS BLOB) AS payload FROM spool WHERE kind = 'event' AND priority = ?"
        f" AND id > ? AND {_WAITS} AND event_kind = ? AND boot = ? ORDER BY id DESC LIMIT 1",
        (Priority.NOTE.value, handed, _DROPPED, numbering.boot),
    ).fetchone()
    if row is None or event_fault(bytes(row["payload"]), boot=row["boot"], seq=row["seq"]) is not None:
        return None
    try:
        before = decode(Dropped, bytes(row["payload"]))
    except WireError:
        return None
    if before.reason != OVER_QUOTA:
        return None
    connection.execute("DELETE FROM spool WHERE id = ?", (row["id"],))
    return before


def waiting(connection: sqlite3.Connection) -> Waiting:
    """How much waits, and how much is set aside, out of the sums that triggers keep: cheap whatever the spool holds."""
    events, images = (held(connection, kind, with_aside=False) for kind in ("event", "image"))
    everything = held(connection, "event").rows + held(connection, "image").rows
    return Waiting(
        events=events.rows,
        images=images.rows,
        image_bytes=images.size_bytes,
        aside=everything - events.rows - images.rows,
    )


def take_events(
    connection: sqlite3.Connection, *, after: Cursors, limit: int
) -> tuple[list[SpoolEvent], list[Unsendable], Cursors]:
    """Events behind a row of each priority, at most `limit`: results first, and of each priority the oldest.

    Returns:
        Those that can be sent, those that cannot, and the last rows that were looked at.
    """
    sound: list[SpoolEvent] = []
    unsendable: list[Unsendable] = []
    seen = list(after)
    for priority in EVENT_PRIORITIES:
        # As bytes: a text that is no UTF-8 would fail the whole query.
        rows = connection.execute(
            "SELECT id, boot, seq, CAST(payload AS BLOB) AS payload FROM spool"
            f" WHERE kind = 'event' AND priority = ? AND id > ? AND {_WAITS} ORDER BY id LIMIT ?",
            (priority.value, after[priority], limit - len(sound) - len(unsendable)),
        )
        for row in rows:
            seen[priority] = row["id"]
            fault = event_fault(bytes(row["payload"]), boot=row["boot"], seq=row["seq"])
            if fault is None:
                payload = bytes(row["payload"]).decode()
                sound.append(SpoolEvent(row["id"], row["boot"], row["seq"], payload, priority))
            else:
                unsendable.append(Unsendable(row["id"], False, fault.value))
    return sound, unsendable, (seen[0], seen[1])


def set_aside(connection: sqlite3.Connection, row: Unsendable) -> bool:
    """Keeps a row where nothing sends it; False when it is there already, or gone."""
    moved = connection.execute(
        "UPDATE spool SET set_aside = ?, set_aside_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        f" WHERE id = ? AND {_WAITS}",
        (row.reason, row.row_id),
    ).rowcount
    if not moved:
        return False
    count(connection, Counter.IMAGES_SET_ASIDE if row.picture else Counter.RESULTS_SET_ASIDE)
    return True


def asides(connection: sqlite3.Connection) -> dict[int, str]:
    """Rows that are set aside -> the reason."""
    rows = connection.execute("SELECT id, set_aside FROM spool WHERE set_aside IS NOT NULL ORDER BY id")
    return {int(row[0]): str(row[1]) for row in rows}


def rows_of(connection: sqlite3.Connection, ranges: Iterable[SeqRange]) -> list[int]:
    """Rows of events by their numbers."""
    return [
        int(row[0])
        for part in ranges
        for row in connection.execute(
            "SELECT id FROM spool WHERE kind = 'event' AND boot = ? AND seq BETWEEN ? AND ?",
            (part.boot, part.first, part.last),
        )
    ]


def delete_events(connection: sqlite3.Connection, ranges: Iterable[SeqRange]) -> int:
    """Deletes acknowledged events; numbers that are not there (acknowledged twice) do nothing. Returns the rows."""
    gone = 0
    for part in ranges:
        gone += connection.execute(
            "DELETE FROM spool WHERE kind = 'event' AND boot = ? AND seq BETWEEN ? AND ?",
            (part.boot, part.first, part.last),
        ).rowcount
    return gone


def next_image(connection: sqlite3.Connection, *, excluding: Iterable[int]) -> SpoolImage | Unsendable | None:
    """The next picture that is not among `excluding` (rows that are being sent), or that it cannot be sent.

    Those in doubt before those of the audit stream, and of each the oldest.
    """
    barred = set(excluding)
    for row in connection.execute(
        f"SELECT id FROM spool WHERE kind = 'image' AND {_WAITS} ORDER BY attempts >= ?, priority, id",
        (_TRIES_IN_ORDER,),
    ):
        if row["id"] not in barred:
            return _image(connection, row["id"])
    return None


def _image(connection: sqlite3.Connection, row_id: int) -> SpoolImage | Unsendable:
    row = connection.execute(
        "SELECT capture_id, CAST(payload AS BLOB) AS payload, image, attempts FROM spool WHERE id = ?", (row_id,)
    ).fetchone()
    try:
        context = decode(OpinionContext, bytes(row["payload"]))
    except WireError:
        return Unsendable(row_id, True, Fault.NO_CONTEXT.value)
    if not isinstance(row["image"], bytes) or not row["image"]:
        return Unsendable(row_id, True, Fault.NO_PICTURE.value)
    return SpoolImage(row_id, context.capture_id, row["image"], context, row["attempts"])
