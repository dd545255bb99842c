"""A rollout that takes the place of those that still have its devices. Within the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Principal
from cloud.errors import Conflict
from cloud.rollouts.log import MAX_REASON, decided
from cloud.rollouts.rows import Loaded, Seen, evidence_accepted, load, owed_return
from cloud.storage.tables import ReleaseRow, RolloutMemberRow, RolloutRow
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from fleet.rollout.members import BAD_STATES
from fleet.rollout.plan import listed
from fleet.rollout.states import OPEN_STATES, RolloutEvent, advance

_KEPT = frozenset({UpdateState.CONFIRMED, *BAD_STATES})
"""What a device has come to stays on record."""


async def replaceable(session: AsyncSession, release: ReleaseRow, waves: Sequence[Collection[str]]) -> list[Loaded]:
    """The open rollouts that have one of the devices, locked, each of which may be replaced by this one.

    Every device that was told of them must be among the new rollout's: nobody would watch over it otherwise.

    Raises:
        Conflict: one cannot be replaced; the reason says which, and what to do.
    """
    devices = {device for wave in waves for device in wave}
    member = select(RolloutMemberRow.rollout_id).where(RolloutMemberRow.device.in_(devices))
    query = select(RolloutRow.id).where(
        RolloutRow.state.in_([state.value for state in OPEN_STATES]), RolloutRow.id.in_(member)
    )
    ids = list((await session.scalars(query.order_by(RolloutRow.id))).all())
    loaded = [await load(session, rollout_id, lock=True) for rollout_id in ids]
    found = [old for old in loaded if RolloutState(old.rollout.state) in OPEN_STATES]  # it may have ended meanwhile
    for old in found:
        _refuse_unfit(old, release, devices, bench=waves[0])
    return found


async def supersede(session: AsyncSession, by: Principal, old: Loaded, new: RolloutRow, *, now: datetime) -> None:
    """Ends a rollout in favour of a new one, whose members are stored: they inherit what to go back to."""
    rollout = old.rollout
    before = rollout.state
    rollout.state = advance(RolloutState(before), RolloutEvent.SUPERSEDE).value
    words = f"replaced by the rollout {new.id} of release {new.counter}"
    rollout.reason, rollout.finished_at, rollout.paused_from = words[:MAX_REASON], now, None
    for seen in old.seen:
        seen.take(now)
        if UpdateState(seen.row.state) not in _KEPT:
            seen.row.state, seen.row.code, seen.row.state_since = UpdateState.SUPERSEDED.value, None, now
        seen.row.straggler = False
    await session.flush()
    for seen in old.seen:
        if seen.told and not seen.gone:
            await _inherit(session, seen, new.id)
    decided(session, rollout, by, action=RolloutEvent.SUPERSEDE.value, reason=words, now=now)
    trail.record(
        session,
        by,
        action="rollout.supersede",
        subject=f"rollout/{rollout.id}",
        before={"state": before},
        after={"state": rollout.state, "by": new.id},
    )


async def _inherit(session: AsyncSession, seen: Seen, new_id: str) -> None:
    """Until the new rollout has told the device something, an abort of it ends the old one's order, too."""
    member = await session.get(RolloutMemberRow, (new_id, seen.row.device))
    if member is None or seen.report is None:
        return
    owed = await owed_return(session, member, seen.report)
    member.previous_digest, member.previous_counter = owed or (
        seen.report.active.digest,
        seen.report.release_counter,
    )


def _refuse_unfit(old: Loaded, release: ReleaseRow, devices: Collection[str], *, bench: Collection[str]) -> None:
    rollout = old.rollout
    told = [seen.row.device for seen in old.seen if seen.told and not seen.gone]
    if RolloutState(rollout.state) is RolloutState.ABORTING:
        raise _refused(f"the rollout {rollout.id} takes its devices back", "wait until it has ended")
    if old.release.digest == release.digest:
        raise _refused(
            f"the rollout {rollout.id} brings the same model", f"go on with it: ahs-fleet rollout resume {rollout.id}"
        )
    if left := sorted(set(told) - set(devices)):
        raise _refused(
            f"the rollout {rollout.id} has told devices that this one does not have: {listed(left)}",
            f"name them too, or abort the other: ahs-fleet rollout abort {rollout.id}",
        )
    if evidence_accepted(release) is not True and (early := sorted(set(told) - set(bench))):
        raise _refused(
            f"release {release.counter} has no accepted evaluation, and beyond its first wave {rollout.id} has told "
            f"{listed(early)}",
            f"abort the other: ahs-fleet rollout abort {rollout.id}",
        )


def _refused(words: str, hint: str) -> Conflict:
    return Conflict(f"it cannot be replaced: {words}", code="rollout_conflict", hint=hint)
