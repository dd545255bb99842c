"""Stores as a power cut and a dying disk leave them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from edge_agent.store.store_sqlite import Store


def as_after_a_power_cut(store: Store) -> Path:
    """No farewell; everything in the one file."""
    store.database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.database._connection.close()
    return store.database.path


def damage(path: Path, table: str) -> None:
    """More cells on the first page of a table than there are."""
    page, root = page_of(path, table)
    data = bytearray(path.read_bytes())
    at = (root - 1) * page + 3
    data[at : at + 2] = (int.from_bytes(data[at : at + 2], "big") + 7).to_bytes(2, "big")
    path.write_bytes(bytes(data))


def alter(path: Path, *statements: str) -> None:
    """Rows as no agent writes them, in a file that is sound."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def empty_index(path: Path, index: str) -> None:
    """The only page of an index is one from before its rows: sound for itself, in contradiction to its table."""
    page, root = page_of(path, index)
    data = bytearray(path.read_bytes())
    at = (root - 1) * page
    assert data[at] == 0x0A, "the index has more than one page"
    data[at : at + page] = b"\x0a\0\0\0\0" + page.to_bytes(2, "big") + bytes(page - 7)
    path.write_bytes(bytes(data))


def page_of(path: Path, table: str) -> tuple[int, int]:
    """Size of a page, and the number of the table's first one."""
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        return int(connection.execute("PRAGMA page_size").fetchone()[0]), int(root)
