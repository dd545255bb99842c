"""Which releases must stay in the signed list: devices have them, are told of them, or may have to go back to them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.storage.tables import DesiredRow, DeviceRow, DeviceStateRow, ReleaseRow, RolloutMemberRow, RolloutRow
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from fleet.rollout.members import BAD_STATES
from fleet.rollout.states import OPEN_STATES

_REPORTED = (("active", "digest"), ("previous",), ("pending",))
_DONE = (UpdateState.CONFIRMED, UpdateState.SUPERSEDED, *BAD_STATES)


def still_expected() -> ColumnElement[bool]:
    """Of a member's row: a straggler that has not come to an end, and is offered the release when it returns."""
    undone = RolloutMemberRow.state.not_in([state.value for state in _DONE])
    return RolloutMemberRow.straggler.is_(True) & undone


async def needed_counters(session: AsyncSession) -> set[int]:
    """Of all sites: releases that

    1. a device reports as running, as its model before, or as the one it works on;
    2. a device is told to run or to download;
    3. an open rollout brings, or takes its devices back to;
    4. a completed rollout still expects a straggler for;
    5. are the first and the newest: the fleet's first kits hold the one, the next counter follows from the other.

    A kit may be made of any release, and the cloud does not know of which: a device that is started from one later
    reads with its model, and cannot be taken back to it once that release is left out.

    Of a model that was released more than once every release counts: a device may have it under any.
    """
    digests: set[str | None] = set()
    here = DeviceRow.revoked_at.is_(None)
    for place in _REPORTED:
        value = DeviceStateRow.reported
        for key in place:
            value = value[key]  # type: ignore[assignment]
        query = select(value.as_string()).join(DeviceRow, DeviceRow.device == DeviceStateRow.device)
        digests |= set((await session.scalars(query.where(here, DeviceStateRow.reported.is_not(None)))).all())
    told = select(DesiredRow.document["release"].as_string()).join(DeviceRow, DeviceRow.device == DesiredRow.device)
    digests |= set((await session.scalars(told.where(here))).all())
    open_rollout = RolloutRow.state.in_([state.value for state in OPEN_STATES])
    before = select(RolloutMemberRow.previous_digest).join(RolloutRow, RolloutRow.id == RolloutMemberRow.rollout_id)
    digests |= set((await session.scalars(before.where(open_rollout))).all())
    brought = select(RolloutRow.counter).where(open_rollout)
    counters = set((await session.scalars(brought)).all())
    late = (
        select(RolloutRow.counter)
        .join(RolloutMemberRow, RolloutMemberRow.rollout_id == RolloutRow.id)
        .join(DeviceRow, DeviceRow.device == RolloutMemberRow.device)
        .where(RolloutRow.state == RolloutState.COMPLETED.value, still_expected(), here)
    )
    counters |= set((await session.scalars(late)).all())
    known = select(ReleaseRow.counter).where(ReleaseRow.digest.in_([digest for digest in digests if digest]))
    counters |= set((await session.scalars(known)).all())
    ends = (await session.execute(select(func.min(ReleaseRow.counter), func.max(ReleaseRow.counter)))).one()
    return counters | {int(end) for end in ends if end is not None}
