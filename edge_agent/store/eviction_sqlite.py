"""What the spool gives up over its quotas, inside a transaction: the least valuable first, counted and told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.store.value import Priority

EVICTED_RATIO = 0.01
"""So much more than needed goes at once, so that a full spool does not tell of each single row."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Rows and their bytes."""

    rows: int = 0
    size_bytes: int = 0

    def over(self, limit: Amount) -> Amount:
        """How much has to go, with some to spare; nothing while neither limit is passed."""
        if self.rows <= limit.rows and self.size_bytes <= limit.size_bytes:
            return Amount()
        return Amount(
            _surplus(self.rows, limit.rows),
            _surplus(self.size_bytes, limit.size_bytes),
        )


def _surplus(held: int, limit: int) -> int:
    return held - limit + max(1, int(limit * EVICTED_RATIO)) if held > limit else 0


def held(connection: sqlite3.Connection, kind: str, *, with_aside: bool = True) -> Amount:
    """How much of a kind the spool holds, out of the sums that triggers keep."""
    where = "" if with_aside else " AND aside = 0"
    row = connection.execute(
        f"SELECT COALESCE(SUM(rows), 0), COALESCE(SUM(bytes), 0) FROM spool_totals WHERE kind = ?{where}", (kind,)
    ).fetchone()
    return Amount(int(row[0]), int(row[1]))


def evict(connection: sqlite3.Connection, kind: str, limit: Amount) -> int:
    """Gives up rows of a kind until it is within its limit again. Returns the rows."""
    surplus = held(connection, kind).over(limit)
    rows, size_bytes = surplus.rows, surplus.size_bytes
    gone: list[int] = []
    for row_id, row_bytes in _least_valuable(connection, kind):
        if rows <= 0 and size_bytes <= 0:
            break
        gone.append(row_id)
        rows, size_bytes = rows - 1, size_bytes - row_bytes
    connection.executemany("DELETE FROM spool WHERE id = ?", [(row_id,) for row_id in gone])
    return len(gone)


def _least_valuable(connection: sqlite3.Connection, kind: str) -> Iterator[tuple[int, int]]:
    """(row, bytes): what cannot be sent, then by priority, oldest first; of results, fields before slides and labels.

    What was dropped before is told in any case.
    """
    yield from _rows(connection, "set_aside IS NOT NULL AND kind = ?", kind)
    for priority in sorted(Priority, reverse=True):
        waits = f"kind = ? AND priority = {priority.value} AND set_aside IS NULL"
        if kind == "image":
            yield from _rows(connection, waits, kind)
        elif priority is Priority.RESULT:
            yield from _rows(connection, f"{waits} AND event_kind = 'field'", kind)
            yield from _rows(connection, f"{waits} AND event_kind != 'field'", kind)
        else:
            yield from _rows(connection, f"{waits} AND event_kind != 'dropped'", kind)


def _rows(connection: sqlite3.Connection, where: str, kind: str) -> Iterator[tuple[int, int]]:
    for row in connection.execute(f"SELECT id, size_bytes FROM spool WHERE {where} ORDER BY id", (kind,)):
        yield int(row["id"]), int(row["size_bytes"])
