"""The spool's rows one by one, for a person: listed, shown, given another try; beside a running agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import ConfigurationError
from edge_agent.store.database_sqlite import Database
from edge_agent.store.store_sqlite import FILE_NAME

PAGE_ROWS = 500
_COLUMNS = (
    "id, kind, COALESCE(event_kind, capture_id, '') AS what, boot, seq, priority, size_bytes, attempts, created_at,"
    " set_aside, set_aside_at"
)


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """One row as it is listed.

    Attributes:
        row: its number.
        kind: `event` or `image`.
        what: kind of the event, or the picture's capture.
        priority: 0 leaves first.
        set_aside: why it is not sent; None while it waits.
    """

    row: int
    kind: str
    what: str
    boot: int
    seq: int
    priority: int
    size_bytes: int
    attempts: int
    created_at: str
    set_aside: str | None
    set_aside_at: str | None


@dataclass(frozen=True, slots=True)
class WholeRow:
    """A row with what it holds; a payload that is no JSON comes as text."""

    row: SpoolRow
    payload: Any
    picture: bytes | None


class SpoolRows:
    """See the module. Close it after use.

    Args:
        folder: the agent's data folder.
        write: for `retry`; marks nothing else in the store.

    Raises:
        StoreFault, StoreDamaged: there is no store, or it cannot be used; by every method as well.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self._database = Database(folder / FILE_NAME, read_only=not write, beside=True)

    def close(self) -> None:
        """Ends it."""
        self._database.close()

    def rows(self, *, kind: str | None = None, aside: bool = False) -> Iterator[SpoolRow]:
        """Rows in the order in which they leave, a few at a time.

        Args:
            kind: only `event` or `image`.
            aside: only those that are set aside.
        """
        where = ["(kind, priority, id) > (?, ?, ?)"]
        where += ["kind = ?"] if kind is not None else []
        where += ["set_aside IS NOT NULL"] if aside else []
        query = (
            f"SELECT {_COLUMNS} FROM spool WHERE {' AND '.join(where)} ORDER BY kind, priority, id LIMIT {PAGE_ROWS}"
        )
        last: tuple[str, int, int] = ("", 0, 0)
        while True:
            values = (*last, kind) if kind is not None else last
            with self._database.reading() as connection:
                found = [SpoolRow(*row) for row in connection.execute(query, values)]
            yield from found
            if len(found) < PAGE_ROWS:
                return
            last = (found[-1].kind, found[-1].priority, found[-1].row)

    def whole(self, row_id: int) -> WholeRow:
        """Everything of a row.

        Raises:
            ConfigurationError: there is no such row.
        """
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS}, CAST(payload AS BLOB) AS payload, image FROM spool WHERE id = ?", (row_id,)
            ).fetchone()
        if row is None:
            raise ConfigurationError(f"there is no row {row_id} in the spool: see `ahs-edge spool ls`")
        text = bytes(row["payload"]).decode("utf-8", "backslashreplace")
        try:
            payload: Any = json.loads(text)
        except (ValueError, RecursionError):
            payload = text
        picture = row["image"]
        return WholeRow(SpoolRow(*tuple(row)[:11]), payload, picture if isinstance(picture, bytes) else None)

    def retry(self, row_ids: list[int] | None) -> int:
        """Has rows that are set aside (None: all of them) sent again, behind the others. Returns how many."""
        with self._database.transaction() as connection:
            wanted = row_ids
            if wanted is None:
                wanted = [int(row[0]) for row in connection.execute("SELECT id FROM spool WHERE set_aside IS NOT NULL")]
            moved = 0
            for row_id in wanted:
                # Under a new number: the agent has gone past the old one.
                moved += connection.execute(
                    "UPDATE spool SET id = 1 + (SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'spool'),"
                    " set_aside = NULL, set_aside_at = NULL, attempts = 0 WHERE id = ? AND set_aside IS NOT NULL",
                    (row_id,),
                ).rowcount
                connection.execute(
                    "UPDATE sqlite_sequence SET seq = MAX(seq, (SELECT MAX(id) FROM spool)) WHERE name = 'spool'"
                )
        return moved
