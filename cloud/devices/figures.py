"""The fleet's figures, read from the database by the one worker that leads."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from cloud.metrics import FleetFigures
from cloud.releases.queries import trust_expiry, trust_full_ratio
from cloud.rollouts.figures import read_rollout_figures
from cloud.storage.tables import (
    ChunkWantRow,
    DeadLetterRow,
    DesiredRow,
    DeviceEventRow,
    DeviceRow,
    DeviceStateRow,
    ImageRow,
    LabelRow,
    OpinionRow,
    OutboxRow,
)
from fleet.contract.messages import OpinionState, Presence

CODES_SHOWN = 20


async def read_figures(session: AsyncSession, *, now: datetime) -> FleetFigures:
    """All figures of one moment. Removed devices are not among the devices; what they reported stays counted."""
    present = (
        select(DeviceStateRow.presence, func.count())
        .join(DeviceRow, DeviceRow.device == DeviceStateRow.device)
        .where(DeviceRow.revoked_at.is_(None))
        .group_by(DeviceStateRow.presence)
    )
    totals = (
        await session.execute(
            select(_sum(DeviceStateRow.fields), _sum(DeviceStateRow.uncertain), _sum(DeviceStateRow.withheld))
        )
    ).one()
    fields, uncertain, withheld = (int(value) for value in totals)
    lag = await session.scalar(
        select(func.max(DeviceStateRow.ingest_lag_s)).where(DeviceStateRow.presence == Presence.ONLINE.value)
    )
    dropped = (await session.execute(select(_sum(DeviceEventRow.results), _sum(DeviceEventRow.images)))).one()
    images = (await session.execute(select(func.count(), _sum(ImageRow.size_bytes)).select_from(ImageRow))).one()
    oldest = await session.scalar(
        select(func.min(OpinionRow.created_at)).where(OpinionRow.state == OpinionState.PENDING_REVIEW.value)
    )
    waiting = await session.scalar(select(func.count()).select_from(OutboxRow).where(OutboxRow.published_at.is_(None)))
    unpublished = select(func.count()).select_from(DesiredRow).join(DeviceRow, DeviceRow.device == DesiredRow.device)
    desired = await session.scalar(
        unpublished.where(DesiredRow.version > DesiredRow.published_version, DeviceRow.revoked_at.is_(None))
    )
    unserved = select(func.min(ChunkWantRow.asked_at)).join(DeviceRow, DeviceRow.device == ChunkWantRow.device)
    asked_at = await session.scalar(unserved.where(ChunkWantRow.served_at.is_(None), DeviceRow.revoked_at.is_(None)))
    expiry = await trust_expiry(session)
    rollouts = await read_rollout_figures(session, now=now)
    presence = {name.value: 0 for name in Presence} | await _pairs(session, present)
    return FleetFigures(
        devices=presence,
        fields={"accept": fields - uncertain - withheld, "uncertain": uncertain, "withheld": withheld},
        opinions=await _counted(session, OpinionRow.state, func.count()),
        oldest_review_s=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
        labels=await _counted(session, LabelRow.label, func.count()),
        dead_letters=await _counted(session, DeadLetterRow.code, _sum(DeadLetterRow.times)),
        alarms=await _counted(session, DeviceEventRow.severity, func.count()),
        dropped_results=int(dropped[0]),
        dropped_images=int(dropped[1]),
        outbox_waiting=int(waiting or 0),
        ingest_lag_s=float(lag or 0.0),
        images=int(images[0]),
        image_bytes=int(images[1]),
        trust_left_s={role: (expires_at - now).total_seconds() for role, expires_at in expiry.items()},
        trust_full_ratio=await trust_full_ratio(session),
        desired_waiting=int(desired or 0),
        want_age_s=max(0.0, (now - asked_at).total_seconds()) if asked_at else 0.0,
        rollouts=rollouts.states,
        rollout_stops=rollouts.stops,
        rollout_still_s=rollouts.still_s,
        read_at_s=now.timestamp(),
    )


def _sum(column: InstrumentedAttribute[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


async def _counted(
    session: AsyncSession, column: InstrumentedAttribute[str], value: ColumnElement[int]
) -> dict[str, int]:
    return await _pairs(session, select(column, value).group_by(column).order_by(column).limit(CODES_SHOWN))


async def _pairs(session: AsyncSession, query: object) -> dict[str, int]:
    rows = (await session.execute(query)).all()  # type: ignore[call-overload]
    return {str(row[0]): int(row[1]) for row in rows}
