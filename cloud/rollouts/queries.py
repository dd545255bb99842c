"""Reading rollouts. Every question is asked for the principal's site, and only for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.rollouts.rows import Loaded, Seen, load, rollout_not_found
from cloud.storage.tables import PrincipalRow, ReleaseRow, RolloutDecisionRow, RolloutMemberRow, RolloutRow
from fleet.contract.http import DecisionRow, GateFigure, MemberRow, RolloutDetail, RolloutPage, RolloutSummary
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState, Thresholds
from fleet.rollout.members import BAD_STATES
from fleet.rollout.rules import gates_of

MAX_PAGE = 200
MAX_DECISIONS = 500
_GATED = frozenset({RolloutState.RUNNING, RolloutState.SOAKING, RolloutState.PAUSED})
_BAD = frozenset(state.value for state in BAD_STATES)


async def list_rollouts(
    session: AsyncSession, principal: Principal, *, limit: int = 50, open_only: bool = False
) -> RolloutPage:
    """Rollouts of the principal's site, newest first."""
    query = (
        select(RolloutRow, ReleaseRow, PrincipalRow.name)
        .join(ReleaseRow, ReleaseRow.counter == RolloutRow.counter)
        .join(PrincipalRow, PrincipalRow.id == RolloutRow.created_by)
        .where(RolloutRow.site_id == principal.site_id)
        .order_by(RolloutRow.created_at.desc(), RolloutRow.id)
        .limit(min(limit, MAX_PAGE))
    )
    if open_only:
        ended = (RolloutState.COMPLETED, RolloutState.ABORTED, RolloutState.DENIED, RolloutState.SUPERSEDED)
        query = query.where(RolloutRow.state.not_in([state.value for state in ended]))
    rows = (await session.execute(query)).all()
    states = await _member_states(session, [row[0].id for row in rows])
    return RolloutPage(
        items=tuple(_summary(rollout, release, name, states.get(rollout.id, {})) for rollout, release, name in rows)
    )


async def get_rollout(session: AsyncSession, principal: Principal, rollout_id: str, *, now: datetime) -> RolloutDetail:
    """One rollout of the principal's site with its devices, gates as of now and decisions; NotFound (404) otherwise."""
    owner = await session.scalar(select(RolloutRow.site_id).where(RolloutRow.id == rollout_id))
    if owner != principal.site_id:
        raise rollout_not_found(rollout_id)
    loaded = await load(session, rollout_id)
    by = await session.scalar(select(PrincipalRow.name).where(PrincipalRow.id == loaded.rollout.created_by))
    states: dict[str, int] = {}
    for seen in loaded.seen:
        state = seen.standing.state.value
        states[state] = states.get(state, 0) + 1
    return RolloutDetail(
        summary=_summary(loaded.rollout, loaded.release, by or "", states),
        thresholds=_thresholds(loaded.rollout.thresholds),
        members=tuple(_member(seen) for seen in loaded.seen),
        gates=_gates(loaded, now),
        decisions=tuple([_decision(row) for row in await _decisions(session, rollout_id)]),
    )


def _summary(rollout: RolloutRow, release: ReleaseRow, by: str, states: dict[str, int]) -> RolloutSummary:
    return RolloutSummary(
        id=rollout.id,
        site=rollout.site_id,
        counter=release.counter,
        digest=release.digest,
        version=release.version,
        state=RolloutState(rollout.state),
        reason=rollout.reason,
        wave=rollout.wave,
        waves=len(rollout.waves),
        devices=sum(states.values()),
        confirmed=states.get(UpdateState.CONFIRMED.value, 0),
        bad=sum(number for state, number in states.items() if state in _BAD),
        created_at=rollout.created_at,
        created_by=by,
    )


def _member(seen: Seen) -> MemberRow:
    row = seen.row
    return MemberRow(
        device=row.device,
        wave=row.wave,
        presence=seen.presence,
        offered=row.offered_at is not None,
        state=seen.standing.state,
        code=seen.standing.code,
        active=seen.report.active.digest if seen.report else None,
        straggler=row.straggler,
        since=row.state_since or row.offered_at,
        soak=seen.standing.soak,
    )


def _gates(loaded: Loaded, now: datetime) -> tuple[GateFigure, ...]:
    if RolloutState(loaded.rollout.state) not in _GATED:
        return ()
    return tuple(gate.row for gate in gates_of(loaded.view(), now))


def _thresholds(stored: Any) -> Thresholds:
    """For showing only: the rules themselves open nothing on thresholds that cannot be read."""
    try:
        return Thresholds.model_validate(stored)
    except ValidationError:
        return Thresholds()


def _decision(row: RolloutDecisionRow) -> DecisionRow:
    gates = tuple(GateFigure.model_validate(gate) for gate in row.gates)
    return DecisionRow(at=row.at, by=row.name, action=row.action, reason=row.reason, gates=gates)


async def _decisions(session: AsyncSession, rollout_id: str) -> Sequence[RolloutDecisionRow]:
    query = select(RolloutDecisionRow).where(RolloutDecisionRow.rollout_id == rollout_id)
    return (await session.scalars(query.order_by(RolloutDecisionRow.id.desc()).limit(MAX_DECISIONS))).all()


async def _member_states(session: AsyncSession, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    query = (
        select(RolloutMemberRow.rollout_id, RolloutMemberRow.state, func.count())
        .where(RolloutMemberRow.rollout_id.in_(ids))
        .group_by(RolloutMemberRow.rollout_id, RolloutMemberRow.state)
    )
    found: dict[str, dict[str, int]] = {}
    for rollout_id, state, number in (await session.execute(query)).all():
        found.setdefault(rollout_id, {})[state] = number
    return found
