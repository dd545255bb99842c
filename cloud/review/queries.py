"""Reading labels and what waits. Every question is asked for the principal's site."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.opinions.queries import get_row
from cloud.review.rules import standing
from cloud.review.stored import on_the_wire, rows_of, words_of
from cloud.storage.tables import OpinionRow
from fleet.contract.http import ReviewLabels
from fleet.contract.messages import OpinionState


async def get_labels(session: AsyncSession, principal: Principal, opinion_id: str) -> ReviewLabels:
    """The label that counts for each cell; NotFound (404) also for another site's opinion."""
    return await labels_of(session, await get_row(session, principal, opinion_id))


async def labels_of(session: AsyncSession, row: OpinionRow) -> ReviewLabels:
    """The same for a row that was looked up under the asker's site."""
    rows = await rows_of(session, row.id)
    by_id = {stored.id: stored for stored in rows}
    return ReviewLabels(
        opinion=row.id,
        state=OpinionState(row.state),
        labels=tuple(on_the_wire(by_id[word.row]) for word in standing(words_of(rows))),
    )


async def count_waiting(session: AsyncSession, principal: Principal) -> int:
    """Images of the site that wait for a person."""
    query = select(func.count()).select_from(OpinionRow).where(*_waiting(principal))
    return int(await session.scalar(query) or 0)


async def next_waiting(session: AsyncSession, principal: Principal, *, after: str | None = None) -> str | None:
    """The image to read next, in the order of the queue (newest first); from its top again behind the last.

    Args:
        after: id of the opinion that was just read; None for the first of the queue.
    """
    query = select(OpinionRow.id).where(*_waiting(principal))
    query = query.order_by(OpinionRow.created_at.desc(), OpinionRow.id.desc()).limit(1)
    if after is not None:
        read = await get_row(session, principal, after)
        older = (OpinionRow.created_at < read.created_at) | (
            (OpinionRow.created_at == read.created_at) & (OpinionRow.id < read.id)
        )
        if (found := await session.scalar(query.where(older))) is not None:
            return found
        query = query.where(OpinionRow.id != read.id)
    return await session.scalar(query)


def _waiting(principal: Principal) -> tuple[ColumnElement[bool], ...]:
    return OpinionRow.site_id == principal.site_id, OpinionRow.state == OpinionState.PENDING_REVIEW.value
