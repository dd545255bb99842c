"""Labels as they lie in the table."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.review.rules import Word
from cloud.storage import tables
from fleet.contract.http import LabelRow


async def rows_of(session: AsyncSession, opinion_id: str) -> list[tables.LabelRow]:
    """Every label of an opinion, oldest first. Whoever calls has looked the opinion up under the asker's site."""
    query = select(tables.LabelRow).where(tables.LabelRow.opinion_id == opinion_id).order_by(tables.LabelRow.id)
    return list((await session.scalars(query)).all())


def words_of(rows: Sequence[tables.LabelRow]) -> list[Word]:
    """The rows as decisions see them."""
    return [word_of(row) for row in rows]


def word_of(row: tables.LabelRow) -> Word:
    """One row as decisions see it."""
    x, y, width, height = row.bbox
    return Word(row.id, row.cell, (x, y, width, height), row.label, row.labelled_by)


def on_the_wire(row: tables.LabelRow) -> LabelRow:
    """One row as it is answered."""
    return LabelRow(
        id=row.id,
        opinion=row.opinion_id,
        cell=row.cell,
        bbox=word_of(row).bbox,
        label=row.label,
        reader=row.reader,
        labelled_at=row.labelled_at,
        suggested=row.suggested,
        suggested_by=row.suggested_by,
        edge_label=row.edge_label,
        edge_model=row.edge_model,
        suggestion_shown=row.suggestion_shown,
    )
