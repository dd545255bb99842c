"""The spool's rows inside a transaction: appending within the quotas, taking, deleting."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from edge_agent.store.records import Counter, NewImage, SpoolEvent, SpoolImage, Waiting
from edge_agent.store.soundness import Fault, Unsendable, event_fault
from edge_agent.store.value import EVENT_PRIORITY, picture_priority
from fleet.contract.base import utc_now_text
from fleet.contract.codec import WireError, decode, encode
from fleet.contract.http import OpinionContext
from fleet.contract.messages import Dropped, Event, SeqRange

OVER_QUOTA = "over_quota"
_EVICTED_RATIO = 0.01
_WAITS = "set_aside IS NULL"
_TRIES_IN_ORDER = 3
"""A picture that was tried so often goes behind the others: it may be the one that the cloud cannot take."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What the spool may hold."""

    rows: int
    image_bytes: int


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
            picture_priority(audit=image.context.audit),
        ),
    )
    numbering.seq += 1


def enforce(connection: sqlite3.Connection, numbering: Numbering, quotas: Quotas, now: datetime) -> tuple[int, int]:
    """Gives up the oldest rows over the quotas, counts them and tells the cloud of it.

    Several go at once, so that a full spool does not tell of each single row. The telling itself is never given up.

    Returns:
        Results and pictures given up.
    """
    held = _held(connection)
    results = images = 0
    if held.events > quotas.rows:
        surplus = held.events - quotas.rows + max(1, int(quotas.rows * _EVICTED_RATIO))
        results = connection.execute(
            "DELETE FROM spool WHERE id IN"
            f" (SELECT id FROM spool WHERE kind = 'event' AND event_kind != 'dropped' ORDER BY {_WAITS}, id LIMIT ?)",
            (surplus,),
        ).rowcount
    if held.image_bytes > quotas.image_bytes:
        images = _evict_images(connection, held.image_bytes - int(quotas.image_bytes * (1 - _EVICTED_RATIO)))
    if results or images:
        count(connection, Counter.RESULTS_DROPPED, results)
        count(connection, Counter.IMAGES_DROPPED, images)
        told = Dropped(boot=0, seq=0, dropped_at=now, reason=OVER_QUOTA, results=results, images=images)
        append_event(connection, numbering, told, now)
    return results, images


def _evict_images(connection: sqlite3.Connection, surplus_bytes: int) -> int:
    gone: list[int] = []
    for row in connection.execute(f"SELECT id, size_bytes FROM spool WHERE kind = 'image' ORDER BY {_WAITS}, id"):
        if surplus_bytes <= 0:
            break
        gone.append(row["id"])
        surplus_bytes -= row["size_bytes"]
    connection.executemany("DELETE FROM spool WHERE id = ?", [(row_id,) for row_id in gone])
    return len(gone)


def waiting(connection: sqlite3.Connection) -> Waiting:
    """How much waits, and how much is set aside, out of the sums that triggers keep: cheap whatever the spool holds."""
    held, waits = _held(connection), _held(connection, "WHERE aside = 0")
    aside = held.events + held.images - waits.events - waits.images
    return Waiting(events=waits.events, images=waits.images, image_bytes=waits.image_bytes, aside=aside)


def _held(connection: sqlite3.Connection, where: str = "") -> Waiting:
    rows = connection.execute(f"SELECT kind, SUM(rows), SUM(bytes) FROM spool_totals {where} GROUP BY kind").fetchall()
    found = {row[0]: (int(row[1]), int(row[2])) for row in rows}
    events, images = found.get("event", (0, 0)), found.get("image", (0, 0))
    return Waiting(events=events[0], images=images[0], image_bytes=images[1])


def take_events(
    connection: sqlite3.Connection, *, after: int, limit: int
) -> tuple[list[SpoolEvent], list[Unsendable], int]:
    """The oldest events behind a row, at most `limit`.

    Returns:
        Those that can be sent, those that cannot, and the last row that was looked at (`after` when there was none).
    """
    # As bytes: a text that is no UTF-8 would fail the whole query.
    rows = connection.execute(
        "SELECT id, boot, seq, CAST(payload AS BLOB) AS payload FROM spool"
        f" WHERE kind = 'event' AND id > ? AND {_WAITS} ORDER BY id LIMIT ?",
        (after, limit),
    )
    sound: list[SpoolEvent] = []
    unsendable: list[Unsendable] = []
    for row in rows:
        after = row["id"]
        fault = event_fault(bytes(row["payload"]), boot=row["boot"], seq=row["seq"])
        if fault is None:
            sound.append(SpoolEvent(row["id"], row["boot"], row["seq"], bytes(row["payload"]).decode()))
        else:
            unsendable.append(Unsendable(row["id"], False, fault.value))
    return sound, unsendable, after


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
    """The oldest picture that is not among `excluding` (rows that are being sent), or that it cannot be sent."""
    barred = set(excluding)
    for row in connection.execute(
        f"SELECT id FROM spool WHERE kind = 'image' AND {_WAITS} ORDER BY attempts >= ?, id", (_TRIES_IN_ORDER,)
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
