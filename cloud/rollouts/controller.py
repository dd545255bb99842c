"""Carries rollouts on: reads what devices report, asks the rules, and does what they say. For the worker that leads.

A step is one transaction, which checks the lease and writes its epoch. Everything that a step needs is in the tables,
so that a controller that is killed between any two steps is followed by one that goes on where it was. What is kept
in memory, since when a device has been online, only ever gives a device more time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from sqlalchemy import Select, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Principal
from cloud.auth.tokens import SYSTEM
from cloud.errors import LeaseLost, StorageUnavailable
from cloud.metrics import Metrics
from cloud.releases.desired import set_desired
from cloud.releases.needed import still_expected
from cloud.releases.queries import is_withdrawn
from cloud.releases.signing import OnlineKey
from cloud.rollouts.log import MAX_REASON, decided
from cloud.rollouts.rows import Loaded, Seen, load, owed_return
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.leases import Held, require_held
from cloud.storage.tables import RolloutMemberRow, RolloutRow
from fleet.contract.messages import Activation, Presence
from fleet.contract.release import RolloutState
from fleet.rollout.gates import Gate
from fleet.rollout.plan import listed
from fleet.rollout.rules import ALL_BACK, Action, MarkStraggler, Move, Offer, Return, RolloutView, decide, gates_of
from fleet.rollout.states import MOVING_STATES, RolloutEvent, advance

log = structlog.get_logger()

CONTROLLER = Principal(id=SYSTEM.id, role=SYSTEM.role, site_id=SYSTEM.site_id, name="controller")
DEVICES_A_STEP = 200
"""Devices told in one transaction, so that nobody waits long for the write lock."""

STEPS_A_LOOK = 100
"""Steps of one rollout before the others have their turn."""

_WATCHED = [*(state.value for state in MOVING_STATES), RolloutState.PAUSED.value]


class SetDesired(Protocol):
    """Writes what a device is to run, signed, within the caller's transaction; the version it got."""

    async def __call__(
        self,
        session: AsyncSession,
        *,
        device: str,
        site_id: str,
        release: str | None,
        counter: int,
        rollout: str | None,
        activation: Activation,
        by: str,
        now: datetime,
    ) -> int:
        """See `cloud.releases.desired.set_desired`."""


@dataclass(frozen=True, slots=True)
class _Look:
    loaded: Loaded
    view: RolloutView
    actions: Sequence[Action]

    @property
    def idle(self) -> bool:
        return not self.actions and not any(seen.changed for seen in self.loaded.seen)


class RolloutController:
    """Looks at every rollout that is under way, again and again.

    Args:
        set_desired: tells a device what to run.
        period_s: pause between two looks.
        now: the wall clock.
    """

    def __init__(
        self,
        storage: Storage,
        metrics: Metrics,
        set_desired: SetDesired,
        *,
        period_s: float = 1.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage = storage
        self._metrics = metrics
        self._set_desired = set_desired
        self._period_s = period_s
        self._now = now
        self._online_since: dict[str, datetime] = {}

    async def run(self, held: Held) -> None:
        """Runs until it is cancelled; LeaseLost: stand down."""
        self._online_since.clear()
        while True:
            try:
                await self.look(held)
            except StorageUnavailable as exc:
                log.warning("rollouts_not_read", error=str(exc))
            await asyncio.sleep(self._period_s)

    async def look(self, held: Held) -> int:
        """One look at every rollout; the number of steps done.

        A rollout that cannot be carried on is told in the log and counted; the others go on.

        Raises:
            LeaseLost: another leads; nothing of the open step was kept.
            StorageUnavailable: try again later.
        """
        steps = 0
        async with self._storage.reading() as session:
            ids = list((await session.scalars(_under_way())).all())
        for rollout_id in ids:
            try:
                steps += await self._carry_on(rollout_id, held)
            except (LeaseLost, StorageUnavailable):
                raise
            except Exception:
                # One rollout that is broken must not hold up the others, nor end the leader.
                self._metrics.restarts.labels("rollouts").inc()
                log.exception("rollout_step_failed", rollout=rollout_id)
        return steps

    async def _carry_on(self, rollout_id: str, held: Held) -> int:
        for step in range(STEPS_A_LOOK):
            async with self._storage.reading() as session:
                if (await self._seen(session, rollout_id, lock=False)).idle:
                    return step
            async with self._storage.writing() as session:
                await require_held(session, held)
                seen = await self._seen(session, rollout_id, lock=True)
                await self._do(session, seen, held)
        return STEPS_A_LOOK

    async def _seen(self, session: AsyncSession, rollout_id: str, *, lock: bool) -> _Look:
        now = self._now()
        loaded = await load(session, rollout_id, lock=lock)
        for seen in loaded.seen:
            if seen.presence is Presence.ONLINE:
                self._online_since.setdefault(seen.row.device, now)
            else:
                self._online_since.pop(seen.row.device, None)
        view = loaded.view(self._online_since)
        actions = decide(view, now)
        if actions and view.state is RolloutState.COMPLETED:
            release = loaded.release
            if await is_withdrawn(session, release.digest, release.counter):
                actions = []  # no device would take it
        return _Look(loaded, view, actions)

    async def _do(self, session: AsyncSession, look: _Look, held: Held) -> None:
        rollout, now = look.loaded.rollout, self._now()
        if rollout.epoch > held.epoch:
            raise LeaseLost(f"the rollout {rollout.id} was carried on under epoch {rollout.epoch}")
        rollout.epoch = held.epoch
        for seen in look.loaded.seen:
            if seen.changed:
                seen.take(now)
        by_device = {seen.row.device: seen for seen in look.loaded.seen}
        actions = look.actions[:DEVICES_A_STEP]
        for action in actions:
            match action:
                case Offer(device, activation):
                    await self._offer(session, look.loaded, by_device[device], activation, now)
                case Return(device):
                    await self._return(session, look.loaded, by_device[device], now)
                case MarkStraggler(device):
                    by_device[device].row.straggler = True
                case Move():
                    _move(session, look, action, now)
        _tell(session, rollout, actions, now)

    async def _offer(
        self, session: AsyncSession, loaded: Loaded, seen: Seen, activation: Activation, now: datetime
    ) -> None:
        row, report = seen.row, seen.report
        assert report is not None  # the rules offer nothing to a device that nothing is known of
        if row.desired_version is None:
            owed = await owed_return(session, row, report)
            row.previous_digest, row.previous_counter = owed or (report.active.digest, report.release_counter)
        row.desired_version = await self._set_desired(
            session,
            device=row.device,
            site_id=row.site_id,
            release=loaded.release.digest,
            counter=loaded.release.counter,
            rollout=row.rollout_id,
            activation=activation,
            by=CONTROLLER.id,
            now=now,
        )
        if activation is Activation.ACTIVATE:
            row.offered_at = now

    async def _return(self, session: AsyncSession, loaded: Loaded, seen: Seen, now: datetime) -> None:
        row = seen.row
        row.desired_version = await self._set_desired(
            session,
            device=row.device,
            site_id=row.site_id,
            release=row.previous_digest,
            counter=row.previous_counter or 0,
            rollout=row.rollout_id,
            activation=Activation.ACTIVATE,
            by=CONTROLLER.id,
            now=now,
        )
        row.returned_at = now


def rollout_controller(
    storage: Storage, metrics: Metrics, key: OnlineKey | None, *, period_s: float
) -> RolloutController | None:
    """A controller whose words to devices are signed; None without the key that signs them."""
    return None if key is None else RolloutController(storage, metrics, signing(key), period_s=period_s)


def signing(key: OnlineKey) -> SetDesired:
    """Tells devices what to run under the cloud's own signature."""

    async def set_signed(session: AsyncSession, **told: Any) -> int:
        return await set_desired(session, key=key, **told)

    return set_signed


def _under_way() -> Select[str]:
    """Ids of the rollouts to look at: those that are open, and completed ones whose stragglers are still expected."""
    late = select(RolloutMemberRow.rollout_id).where(still_expected())
    completed = (RolloutRow.state == RolloutState.COMPLETED.value) & RolloutRow.id.in_(late)
    query = select(RolloutRow.id).where(or_(RolloutRow.state.in_(_WATCHED), completed))
    return query.order_by(RolloutRow.created_at, RolloutRow.id)


def _move(session: AsyncSession, look: _Look, move: Move, now: datetime) -> None:
    rollout = look.loaded.rollout
    before = RolloutState(rollout.state)
    after = advance(before, move.event)
    rollout.state, rollout.wave = after.value, move.wave
    match move.event:
        case RolloutEvent.OPEN_WAVE:
            rollout.wave_opened_at, rollout.soaking_since, rollout.reason = now, None, ""
        case RolloutEvent.SOAK:
            rollout.soaking_since = now
        case RolloutEvent.PAUSE:
            rollout.paused_from, rollout.reason = before.value, move.reason[:MAX_REASON]
        case RolloutEvent.ABORT:
            rollout.reason = move.reason[:MAX_REASON]
        case RolloutEvent.COMPLETE | RolloutEvent.RETURNED:
            rollout.finished_at = now
            if move.event is RolloutEvent.RETURNED and move.reason != ALL_BACK:
                rollout.reason = _and(rollout.reason, move.reason)
    gates: list[Gate] = [] if move.event is RolloutEvent.RETURNED else gates_of(look.view, now)
    decided(session, rollout, CONTROLLER, action=move.event.value, reason=move.reason, gates=gates, now=now)
    trail.record(
        session,
        SYSTEM,
        action=f"rollout.{move.event.value}",
        subject=f"rollout/{rollout.id}",
        before={"state": before.value, "wave": look.view.wave},
        after={"state": after.value, "wave": move.wave, "reason": move.reason[:MAX_REASON]},
        site_id=rollout.site_id,
    )
    log.info("rollout_moved", rollout=rollout.id, move=move.event.value, state=after.value, reason=move.reason)


def _and(before: str, words: str) -> str:
    """Both, and rather the first one shortened: it is on record with its own decision."""
    room = max(MAX_REASON - len(words) - 2, 0)
    return f"{before[:room]}; {words}"[:MAX_REASON] if before[:room] else words[:MAX_REASON]


def _tell(session: AsyncSession, rollout: RolloutRow, actions: Sequence[Action], now: datetime) -> None:
    """One row for all devices that a step has told the same."""
    told: dict[str, list[str]] = {}
    for action in actions:
        if not isinstance(action, Move):
            told.setdefault(_name(action), []).append(action.device)
    for name, devices in told.items():
        count = f"{len(devices)} devices: " if len(devices) > 1 else ""
        decided(session, rollout, CONTROLLER, action=name, reason=count + listed(devices), now=now)


def _name(action: Offer | Return | MarkStraggler) -> str:
    """Stored, never renamed."""
    if isinstance(action, Offer):
        return "offer_activation" if action.activation is Activation.ACTIVATE else "offer_download"
    return "return" if isinstance(action, Return) else "straggler"
