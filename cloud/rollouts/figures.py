"""Figures of rollouts for the exporter, read by the worker that leads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.tokens import SYSTEM
from cloud.rollouts.rows import thresholds_of
from cloud.storage.tables import RolloutDecisionRow, RolloutMemberRow, RolloutRow
from fleet.contract.release import RolloutState
from fleet.rollout.states import MOVING_STATES, RolloutEvent

STOPS = (RolloutEvent.ABORT, RolloutEvent.PAUSE)


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """Of all rollouts.

    Attributes:
        states: how many are in each state; every state is there.
        stops: how often one has stopped by itself, by what it did.
        still_s: longest time in which one that should move has not; 0 when none should.
    """

    states: dict[str, int]
    stops: dict[str, int]
    still_s: float


async def read_rollout_figures(session: AsyncSession, *, now: datetime) -> RolloutFigures:
    """All figures of one moment."""
    states = {state.value: 0 for state in RolloutState if state is not RolloutState.UNKNOWN}
    counted = select(RolloutRow.state, func.count()).group_by(RolloutRow.state)
    states |= {str(state): int(number) for state, number in (await session.execute(counted)).all()}
    stops = {event.value: 0 for event in STOPS}
    by_itself = (
        select(RolloutDecisionRow.action, func.count())
        .where(RolloutDecisionRow.decided_by == SYSTEM.id, RolloutDecisionRow.action.in_(list(stops)))
        .group_by(RolloutDecisionRow.action)
    )
    stops |= {str(action): int(number) for action, number in (await session.execute(by_itself)).all()}
    return RolloutFigures(states, stops, await _still_s(session, now))


async def _still_s(session: AsyncSession, now: datetime) -> float:
    """A rest is no standing still before it is over."""
    query = (
        select(
            RolloutRow,
            func.max(RolloutMemberRow.state_since),
            func.max(RolloutMemberRow.offered_at),
            func.max(RolloutMemberRow.returned_at),
        )
        .join(RolloutMemberRow, RolloutMemberRow.rollout_id == RolloutRow.id)
        .where(RolloutRow.state.in_([state.value for state in MOVING_STATES]))
        .group_by(RolloutRow.id)
    )
    longest = 0.0
    for rollout, *signs in (await session.execute(query)).all():
        moments = [rollout.created_at, rollout.wave_opened_at, _rest_ends(rollout), *signs]
        last = max(moment for moment in moments if moment is not None)
        longest = max(longest, (now - last).total_seconds())
    return longest


def _rest_ends(rollout: RolloutRow) -> datetime | None:
    if rollout.state != RolloutState.SOAKING.value or rollout.soaking_since is None:
        return rollout.soaking_since
    thresholds = thresholds_of(rollout.thresholds)
    return rollout.soaking_since + timedelta(seconds=thresholds.soak_s if thresholds else 0)
