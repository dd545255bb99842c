"""Reading second opinions. Every question is asked for the principal's site; a device sees its own alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.errors import NotFound, Unprocessable
from cloud.review.rules import standing
from cloud.review.stored import rows_of, words_of
from cloud.storage.tables import ImageRow, OpinionCellRow, OpinionRow
from fleet.contract.http import CellLabel, CellOpinion, OpinionContext, OpinionPage, OpinionSummary, SecondOpinion
from fleet.contract.messages import OpinionState

MAX_PAGE = 200


@dataclass(frozen=True, slots=True)
class OpinionDetail:
    """A second opinion with what the device saw and the picture it is about.

    Attributes:
        opinion: the larger model's answer.
        context: what the edge said.
        image_sha256, media_type: the picture, see `GET /v1/second-opinions/{id}/image`.
        width_px, height_px: its size; boxes are in these pixels.
    """

    opinion: SecondOpinion
    context: OpinionContext
    image_sha256: str
    media_type: str
    width_px: int
    height_px: int


async def list_opinions(
    session: AsyncSession,
    principal: Principal,
    *,
    state: OpinionState | None = None,
    device: str | None = None,
    capture_id: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> OpinionPage:
    """Opinions of the principal's site, newest first; `cursor` is `next_cursor` of the page before."""
    query = _opinions(principal).order_by(OpinionRow.created_at.desc(), OpinionRow.id.desc())
    if state is not None:
        query = query.where(OpinionRow.state == state.value)
    if device is not None:
        query = query.where(OpinionRow.device == device)
    if capture_id is not None:
        query = query.where(OpinionRow.capture_id == capture_id)
    if since is not None:
        query = query.where(OpinionRow.created_at >= since)
    if cursor:
        moment, last = _read_cursor(cursor)
        older = OpinionRow.created_at < moment
        query = query.where(older | ((OpinionRow.created_at == moment) & (OpinionRow.id < last)))
    size = min(limit, MAX_PAGE)
    rows = list((await session.scalars(query.limit(size + 1))).all())
    shown = rows[:size]
    more = _write_cursor(shown[-1]) if len(rows) > size else None
    return OpinionPage(items=tuple(_summary(row) for row in shown), next_cursor=more)


async def get_opinion(
    session: AsyncSession, principal: Principal, opinion_id: str, *, duplicate: bool = False
) -> SecondOpinion:
    """One opinion in full; NotFound (404) also for another site's or another device's."""
    return await _full(session, await get_row(session, principal, opinion_id), duplicate=duplicate)


async def get_opinion_detail(session: AsyncSession, principal: Principal, opinion_id: str) -> OpinionDetail:
    """One opinion with the edge's context and the picture's size, for a page; NotFound (404) as above."""
    row = await get_row(session, principal, opinion_id)
    image = await session.get(ImageRow, (row.site_id, row.image_sha256))
    return OpinionDetail(
        opinion=await _full(session, row),
        context=OpinionContext.model_validate(row.context),
        image_sha256=row.image_sha256,
        media_type=image.media_type if image else "application/octet-stream",
        width_px=row.width_px,
        height_px=row.height_px,
    )


async def find_by_key(session: AsyncSession, context: OpinionContext) -> SecondOpinion | None:
    """The stored answer for the same (site, device, capture id, image hash), marked as a duplicate."""
    row = await session.scalar(
        select(OpinionRow).where(
            OpinionRow.site_id == context.site,
            OpinionRow.device == context.device,
            OpinionRow.capture_id == context.capture_id,
            OpinionRow.image_sha256 == context.image_sha256,
        )
    )
    return await _full(session, row, duplicate=True) if row is not None else None


def _opinions(principal: Principal) -> Select[OpinionRow]:
    query = select(OpinionRow).where(OpinionRow.site_id == principal.site_id)
    return query.where(OpinionRow.device == principal.device) if principal.is_device else query


async def get_row(
    session: AsyncSession, principal: Principal, opinion_id: str, *, to_change: bool = False
) -> OpinionRow:
    """The stored row; NotFound (404) as above. `to_change` holds others that want to change it until the commit."""
    query = _opinions(principal).where(OpinionRow.id == opinion_id)
    row = await session.scalar(query.with_for_update() if to_change else query)
    if row is None:
        raise NotFound(
            f"there is no second opinion {opinion_id!r} in this site",
            code="no_opinion",
            hint="see GET /v1/second-opinions",
        )
    return row


async def cells_of(session: AsyncSession, opinion_id: str) -> list[CellOpinion]:
    """Both words on each white cell, in their order. Whoever calls has looked the opinion up under the asker's site."""
    rows = await session.scalars(
        select(OpinionCellRow).where(OpinionCellRow.opinion_id == opinion_id).order_by(OpinionCellRow.position)
    )
    return [CellOpinion.model_validate({"edge": c.edge, "cloud": c.cloud, "agree": c.agree}) for c in rows]


async def _full(session: AsyncSession, row: OpinionRow, *, duplicate: bool = False) -> SecondOpinion:
    cells = await cells_of(session, row.id)
    missed: list[CellLabel] = []
    if row.state == OpinionState.REVIEWED:
        words = standing(words_of(await rows_of(session, row.id)))
        said = {word.cell: word.label for word in words if word.cell is not None}
        cells = [cell.model_copy(update={"reader": said.get(place)}) for place, cell in enumerate(cells)]
        missed = [CellLabel(bbox=word.bbox, label=word.label) for word in words if word.cell is None]
    return SecondOpinion.model_validate(
        {
            "id": row.id,
            "site": row.site_id,
            "device": row.device,
            "capture_id": row.capture_id,
            "image_sha256": row.image_sha256,
            "state": row.state,
            "created_at": row.created_at,
            "answered_at": row.answered_at,
            "duplicate": duplicate,
            "model": {"name": row.model_name, "version": row.model_version, "digest": row.model_digest},
            "latency_ms": row.latency_ms,
            "detections": row.detections,
            "cells": cells,
            "agreement_ratio": row.agreement_ratio,
            "needs_review": row.needs_review,
            "review_reasons": row.review_reasons,
            "missed": missed,
        }
    )


def _summary(row: OpinionRow) -> OpinionSummary:
    return OpinionSummary(
        id=row.id,
        site=row.site_id,
        device=row.device,
        capture_id=row.capture_id,
        state=OpinionState(row.state),
        created_at=row.created_at,
        white_cells=row.white_cells,
        agreement_ratio=row.agreement_ratio,
        needs_review=row.needs_review,
    )


def _write_cursor(row: OpinionRow) -> str:
    moment = row.created_at
    return f"{int(moment.timestamp())}{moment.microsecond:06d}.{row.id}"


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    moment, _, last = cursor.partition(".")
    if not (cursor.isascii() and moment.isdigit() and len(moment) <= 17 and last.isalnum()):
        raise Unprocessable("the cursor is not one of ours", code="bad_cursor", hint="send next_cursor as it came")
    seconds, micros = divmod(int(moment), 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros), last
