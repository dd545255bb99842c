"""INSERT ... ON CONFLICT, which SQLite and PostgreSQL share in meaning but not in SQLAlchemy's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from cloud.storage.tables import Base

Values = Mapping[str, Any]


def _insert(session: AsyncSession, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


async def insert_new(
    session: AsyncSession, table: type[Base], rows: Sequence[Values], returning: Sequence[InstrumentedAttribute[Any]]
) -> list[tuple[Any, ...]]:
    """Inserts what is not there yet.

    Returns:
        `returning` of each row that was really inserted; rows that any unique key holds already are passed over.
    """
    if not rows:
        return []
    statement = _insert(session, table).on_conflict_do_nothing().returning(*returning)
    found: list[tuple[Any, ...]] = []
    for row in rows:
        # One statement a row: a single one with many rows would bind thousands of parameters, and SQLite caches this.
        result = await session.execute(statement, [dict(row)])
        found.extend(tuple(item) for item in result.all())
    return found


async def insert_or_update(
    session: AsyncSession, table: type[Base], row: Values, *, key: Sequence[str], update: Values
) -> None:
    """Inserts a row, or sets `update` on the one that has the same key."""
    statement = _insert(session, table).values(**row)
    await session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=dict(update)))
