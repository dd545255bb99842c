"""What the files of a watched folder were like when they were read: a name may be used again for another picture.

Kept among the files that were seen, under a source of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from datetime import datetime

from edge_agent.capture.frame import FileStamp
from edge_agent.store.database_sqlite import Database
from fleet.contract.base import utc_now_text

STAMPS = "folder_stamp"
"""Stored, never renamed."""
_ASKED_AT_ONCE = 500


def put_stamp(connection: sqlite3.Connection, stamp: FileStamp, now: datetime) -> None:
    """Keeps a stamp, inside a transaction, in place of the one before."""
    connection.execute(
        "INSERT INTO seen_files VALUES (?, ?, ?, ?) ON CONFLICT (source, source_ref) DO UPDATE SET"
        " outcome = excluded.outcome, seen_at = excluded.seen_at",
        (STAMPS, stamp.ref, stamp.text, utc_now_text(now)),
    )


def stamps_of(database: Database, refs: Collection[str]) -> dict[str, str]:
    """Of these files, those whose stamps are kept -> the text of the stamp."""
    wanted, found = list(refs), dict[str, str]()
    for at in range(0, len(wanted), _ASKED_AT_ONCE):
        part = wanted[at : at + _ASKED_AT_ONCE]
        marks = ",".join("?" * len(part))
        with database.reading() as connection:
            rows = connection.execute(
                f"SELECT source_ref, outcome FROM seen_files WHERE source = ? AND source_ref IN ({marks})",
                [STAMPS, *part],
            )
            found.update((str(row[0]), str(row[1])) for row in rows)
    return found
