"""What people do with rollouts: start, pause, resume, waive, abort, roll back. Within the caller's transaction.

A person changes the state and nothing else; the controller carries it out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from sqlalchemy import Select, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Permission, Principal
from cloud.errors import Conflict, NotFound, Unprocessable
from cloud.releases.queries import is_withdrawn
from cloud.rollouts.log import MAX_REASON, decided
from cloud.rollouts.rows import Seen, evidence_accepted, load, rollout_not_found
from cloud.rollouts.superseding import replaceable, supersede
from cloud.storage.tables import DeviceRow, ReleaseRow, RolloutMemberRow, RolloutRow
from fleet.contract.http import RolloutCreate
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from fleet.rollout.gates import lacking, waived_by, why_not_waived
from fleet.rollout.plan import PlanError, listed, resolve
from fleet.rollout.rules import gates_of
from fleet.rollout.states import OPEN_STATES, RolloutError, RolloutEvent, advance, resume_event

BENCH_DEVICES = 1
"""Most devices in the first wave of a release without accepted evidence."""

_ENDED = frozenset({RolloutState.ABORTING, RolloutState.ABORTED})
_WAIVABLE = frozenset({RolloutState.RUNNING, RolloutState.SOAKING, RolloutState.PAUSED})
_BY_ITSELF = "auto: "


async def create(session: AsyncSession, by: Principal, wanted: RolloutCreate, *, now: datetime) -> str:
    """Starts a rollout of the principal's site; its id. The controller opens the first wave.

    Raises:
        Forbidden: the role may not.
        NotFound: there is no such release.
        Unprocessable: unknown devices, waves that do not work out, or no evidence for a first wave of several devices.
        Conflict: another rollout has one of the devices and is not to be, or cannot be, replaced, or has brought a
            release without evidence to another device.
    """
    by.require(Permission.MANAGE_ROLLOUTS)
    release = await session.get(ReleaseRow, wanted.counter)
    if release is None:
        raise NotFound(f"there is no release {wanted.counter}", code="no_release", hint="see GET /v1/releases")
    # Locked: of two rollouts of a model without evidence that start at once, one must see the other.
    same = await _lock_releases(session, release.digest)
    if await is_withdrawn(session, release.digest, release.counter):
        raise Conflict(
            f"release {release.counter} was left out of the signed list: no device would take it",
            code="release_withdrawn",
            hint="release the model again: ahs-fleet release create",
        )
    devices = await _devices(session, by, wanted)
    try:
        waves = resolve(devices, wanted.waves)
    except PlanError as exc:
        raise Unprocessable(str(exc), code="bad_waves", hint="see GET /v1/devices for the devices of the site") from exc
    if evidence_accepted(release) is not True:
        if len(waves[0]) > BENCH_DEVICES:
            raise Unprocessable(
                f"release {release.counter} has no accepted evaluation: its first wave holds at most {BENCH_DEVICES}",
                code="no_evidence",
                hint="name one bench device as the first wave, or release the model with its evidence",
            )
        await _refuse_spread(session, by, release, same, waves[0])
    replaced = await replaceable(session, release, waves) if wanted.supersede else []
    if not wanted.supersede:
        await _refuse_conflict(session, devices)
    await _supersede_stragglers(session, devices, now=now)
    rollout = RolloutRow(
        id=uuid.uuid4().hex,
        site_id=by.site_id,
        counter=release.counter,
        state=advance(RolloutState.DRAFT, RolloutEvent.APPROVE).value,
        waves=[list(wave) for wave in waves],
        thresholds=wanted.thresholds.model_dump(mode="json"),
        created_at=now,
        created_by=by.id,
    )
    session.add(rollout)
    await session.flush()
    for index, wave in enumerate(waves):
        for device in wave:
            session.add(RolloutMemberRow(rollout_id=rollout.id, device=device, site_id=by.site_id, wave=index))
    await session.flush()
    for old in replaced:
        await supersede(session, by, old, rollout, now=now)
    sizes = " + ".join(str(len(wave)) for wave in waves)
    words = f"release {release.counter} to {len(devices)} devices in waves of {sizes}"
    words += "".join(f", in place of the rollout {old.rollout.id}" for old in replaced)
    decided(session, rollout, by, action=RolloutEvent.APPROVE.value, reason=words, now=now)
    after = {"release": release.counter, "waves": rollout.waves, "thresholds": rollout.thresholds}
    trail.record(session, by, action="rollout.created", subject=f"rollout/{rollout.id}", after=after)
    return rollout.id


async def pause(session: AsyncSession, by: Principal, rollout_id: str, reason: str, *, now: datetime) -> None:
    """Holds a rollout where it is; devices that are at it already go on by themselves. Once more is no error."""
    rollout = await _locked(session, by, rollout_id)
    before = RolloutState(rollout.state)
    if before is RolloutState.PAUSED:
        return
    _advance(session, rollout, by, RolloutEvent.PAUSE, reason, now=now)
    rollout.paused_from = before.value
    rollout.reason = _manual(reason)


async def resume(session: AsyncSession, by: Principal, rollout_id: str, reason: str, *, now: datetime) -> None:
    """Goes on where the pause began. The open wave gets its deadlines anew, and waits for its stragglers again."""
    rollout = await _locked(session, by, rollout_id)
    if RolloutState(rollout.state) is not RolloutState.PAUSED or rollout.paused_from is None:
        raise _wrong_state(f"a rollout that is {rollout.state} cannot be resumed")
    event = resume_event(RolloutState(rollout.paused_from))
    _advance(session, rollout, by, event, reason, now=now)
    rollout.paused_from, rollout.reason = None, ""
    if rollout.wave_opened_at is not None:
        rollout.wave_opened_at = now
    query = select(RolloutMemberRow).where(
        RolloutMemberRow.rollout_id == rollout.id,
        RolloutMemberRow.wave == rollout.wave,
        RolloutMemberRow.straggler.is_(True),
    )
    for member in (await session.scalars(query)).all():
        member.straggler = False


async def waive(session: AsyncSession, by: Principal, rollout_id: str, reason: str, *, now: datetime) -> None:
    """Lets the open wave pass without observations that it lacks, on record; one that paused for that goes on.

    Only for a wave whose devices are confirmed, and only for these: a device that is confirmed later owes its own
    observations. What has failed, and the release's own evaluation, is never waived, and
    a figure that turns red later stops the rollout all the same.

    Raises:
        Unprocessable: no reason.
        Conflict: there is nothing that may be waived, or it was waived before.
    """
    if not reason.strip():
        raise Unprocessable(
            "a waiver needs its reason", code="reason_missing", hint="say in `reason` why the evidence is enough"
        )
    rollout = await _locked(session, by, rollout_id)
    if RolloutState(rollout.state) not in _WAIVABLE:
        raise _wrong_state(f"nothing can be waived for a rollout that is {rollout.state}")
    loaded = await load(session, rollout.id)
    view = loaded.view()
    gates = gates_of(view, now)
    why = why_not_waived(gates) if gates else "the thresholds cannot be read"
    if why is not None:
        raise Conflict(
            f"wave {rollout.wave}: {why}",
            code="not_waivable",
            hint="only missing observations of confirmed devices are waived; GET /v1/rollouts/{id} shows the gates",
        )
    given = waived_by(view.members, rollout.wave, gates)
    by_device = groupby(sorted(view.waived | given), key=itemgetter(0))
    rollout.waived_for = {device: [name for _, name in pairs] for device, pairs in by_device}
    rollout.waived_wave = rollout.wave
    missing = ", ".join(gate.name for gate in lacking(gates))
    devices = sorted({device for device, _ in given})
    words = f"wave {rollout.wave}, {missing} of {listed(devices)}: {reason.strip()}"
    decided(session, rollout, by, action="waive", reason=words, gates=gates, now=now)
    trail.record(
        session,
        by,
        action="rollout.waive",
        subject=f"rollout/{rollout.id}",
        after={"wave": rollout.wave, "gates": missing, "devices": devices, "reason": reason.strip()},
    )
    if RolloutState(rollout.state) is RolloutState.PAUSED and rollout.reason.startswith(_BY_ITSELF):
        await resume(session, by, rollout_id, "its evidence was waived", now=now)


async def abort(session: AsyncSession, by: Principal, rollout_id: str, reason: str, *, now: datetime) -> None:
    """Ends a rollout: every device that was told of it goes back to its old model. Once more is no error."""
    rollout = await _locked(session, by, rollout_id)
    if RolloutState(rollout.state) in _ENDED:
        return
    _advance(session, rollout, by, RolloutEvent.ABORT, reason, now=now)
    rollout.reason = _manual(reason)


async def roll_back(session: AsyncSession, by: Principal, rollout_id: str, reason: str, *, now: datetime) -> None:
    """Like an abort, and also after the end, as long as each device can go back: to the model that it ran before."""
    by.require(Permission.MANAGE_ROLLOUTS)
    # Devices first and rollouts after them, as `create` does: the other way round, two would wait for each other.
    members = select(RolloutMemberRow.device).where(
        RolloutMemberRow.rollout_id == rollout_id, RolloutMemberRow.site_id == by.site_id
    )
    await _lock_devices(session, (await session.scalars(members)).all())
    rollout = await _locked(session, by, rollout_id)
    if RolloutState(rollout.state) is not RolloutState.COMPLETED:
        await abort(session, by, rollout_id, reason, now=now)
        return
    devices = list((await session.scalars(_told(rollout.id))).all())
    await _refuse_conflict(session, devices)
    await _refuse_later(session, rollout, devices)
    await _refuse_unable(session, rollout)
    _advance(session, rollout, by, RolloutEvent.ROLL_BACK, reason, now=now)
    rollout.reason, rollout.finished_at = _manual(reason), None


async def _devices(session: AsyncSession, by: Principal, wanted: RolloutCreate) -> list[str]:
    """The rollout's devices in order, their rows locked: two rollouts started at once must see each other."""
    own = select(DeviceRow.device).where(DeviceRow.site_id == by.site_id, DeviceRow.revoked_at.is_(None))
    known = list((await session.scalars(own.order_by(DeviceRow.device))).all())
    named = [device for wave in wanted.waves for device in wave.devices]
    only_named = bool(wanted.waves) and all(wave.devices for wave in wanted.waves)
    devices = list(wanted.devices) or (named if only_named else known)
    if strangers := sorted({*devices, *named} - set(known)):
        raise Unprocessable(
            f"there is no device of this name in this site: {listed(strangers)}",
            code="unknown_device",
            hint="see GET /v1/devices",
        )
    await _lock_devices(session, devices)
    return devices


async def _lock_devices(session: AsyncSession, devices: Sequence[str]) -> None:
    query = select(DeviceRow.device).where(DeviceRow.device.in_(devices)).order_by(DeviceRow.device)
    await session.execute(query.with_for_update(key_share=True))


async def _refuse_conflict(session: AsyncSession, devices: Iterable[str]) -> None:
    query = (
        select(RolloutRow.id, RolloutRow.state, RolloutMemberRow.device)
        .join(RolloutMemberRow, RolloutMemberRow.rollout_id == RolloutRow.id)
        .where(RolloutRow.state.in_([state.value for state in OPEN_STATES]), RolloutMemberRow.device.in_(list(devices)))
        .order_by(RolloutRow.created_at, RolloutMemberRow.device)
    )
    found = (await session.execute(query.limit(1))).first()
    if found is not None:
        rollout_id, state, device = found
        raise Conflict(
            f"{device} is in the rollout {rollout_id}, which is {state}",
            code="rollout_conflict",
            hint=f"wait for its end, abort it (ahs-fleet rollout abort {rollout_id}), or replace it (--supersede)",
        )


async def _refuse_later(session: AsyncSession, rollout: RolloutRow, devices: Sequence[str]) -> None:
    query = (
        select(RolloutRow.id, RolloutMemberRow.device)
        .join(RolloutMemberRow, RolloutMemberRow.rollout_id == RolloutRow.id)
        .where(
            RolloutRow.state == RolloutState.COMPLETED.value,
            RolloutRow.created_at > rollout.created_at,
            RolloutMemberRow.desired_version.is_not(None),
            RolloutMemberRow.device.in_(devices),
        )
    )
    found = (await session.execute(query.limit(1))).first()
    if found is not None:
        rollout_id, device = found
        raise Conflict(
            f"{device} has been changed since by the rollout {rollout_id}",
            code="rollout_superseded",
            hint="only a device's last rollout can be rolled back; for an older model, release it again under a new"
            " counter: ahs-fleet release create",
        )


async def _refuse_unable(session: AsyncSession, rollout: RolloutRow) -> None:
    """A device goes back to the model that it has kept, and to no other: a release that is older is a replay to it."""
    loaded = await load(session, rollout.id)
    if unable := [seen.row.device for seen in loaded.seen if seen.told and not seen.gone and not _can_return(seen)]:
        raise Conflict(
            f"not known to have kept the model that they ran before: {listed(unable)}",
            code="cannot_return",
            hint="release it again under a new counter, and roll that out: ahs-fleet release create",
        )


def _can_return(seen: Seen) -> bool:
    """Whether a device runs the model that it is to go back to, or has it as its model before, as it reports."""
    report, wanted = seen.report, seen.row.previous_digest
    if report is None or wanted is None:
        return False
    return report.active.digest == wanted or (report.active.digest == seen.release and report.previous == wanted)


async def _lock_releases(session: AsyncSession, digest: str) -> Sequence[ReleaseRow]:
    """Every release of a model, in the order in which all who lock several do it."""
    query = select(ReleaseRow).where(ReleaseRow.digest == digest).order_by(ReleaseRow.counter)
    return (await session.scalars(query.with_for_update())).all()


async def _refuse_spread(
    session: AsyncSession, by: Principal, release: ReleaseRow, same: Iterable[ReleaseRow], bench: Sequence[str]
) -> None:
    """A model without evidence stays on one device of the site, however many releases and rollouts it is given.

    Args:
        same: all releases of the model; what was offered under one with evidence is no spread.
    """
    unproven = [row.counter for row in same if evidence_accepted(row) is not True]
    under_way = RolloutRow.state.in_([state.value for state in OPEN_STATES]) & (RolloutMemberRow.wave == 0)
    query = (
        select(RolloutRow.id, RolloutMemberRow.device)
        .join(RolloutMemberRow, RolloutMemberRow.rollout_id == RolloutRow.id)
        .where(
            RolloutRow.counter.in_(unproven),
            RolloutRow.site_id == by.site_id,
            or_(RolloutMemberRow.offered_at.is_not(None), under_way),
            RolloutMemberRow.device.not_in(list(bench)),
        )
        .order_by(RolloutRow.created_at, RolloutMemberRow.device)
    )
    found = (await session.execute(query.limit(1))).first()
    if found is not None:
        rollout_id, device = found
        raise Conflict(
            f"release {release.counter} has no accepted evaluation, and {device} was offered its model by {rollout_id}",
            code="no_evidence",
            hint=f"try it on {device} again, or release the model with its evidence",
        )


async def _supersede_stragglers(session: AsyncSession, devices: Sequence[str], *, now: datetime) -> None:
    """Devices that an ended rollout still expects belong to the new one from now on."""
    query = (
        select(RolloutMemberRow)
        .join(RolloutRow, RolloutRow.id == RolloutMemberRow.rollout_id)
        .where(
            RolloutRow.state == RolloutState.COMPLETED.value,
            RolloutMemberRow.straggler.is_(True),
            RolloutMemberRow.state != UpdateState.CONFIRMED.value,
            RolloutMemberRow.device.in_(devices),
        )
    )
    for member in (await session.scalars(query)).all():
        member.straggler, member.state, member.state_since = False, UpdateState.SUPERSEDED.value, now


def _told(rollout_id: str) -> Select[str]:
    return select(RolloutMemberRow.device).where(
        RolloutMemberRow.rollout_id == rollout_id, RolloutMemberRow.desired_version.is_not(None)
    )


async def _locked(session: AsyncSession, by: Principal, rollout_id: str) -> RolloutRow:
    by.require(Permission.MANAGE_ROLLOUTS)
    query = select(RolloutRow).where(RolloutRow.id == rollout_id, RolloutRow.site_id == by.site_id)
    rollout: RolloutRow | None = await session.scalar(query.with_for_update())
    if rollout is None:
        raise rollout_not_found(rollout_id)
    return rollout


def _advance(
    session: AsyncSession, rollout: RolloutRow, by: Principal, event: RolloutEvent, reason: str, *, now: datetime
) -> None:
    before = rollout.state
    try:
        rollout.state = advance(RolloutState(before), event).value
    except RolloutError as exc:
        raise _wrong_state(str(exc)) from exc
    decided(session, rollout, by, action=event.value, reason=reason, now=now)
    trail.record(
        session,
        by,
        action=f"rollout.{event.value}",
        subject=f"rollout/{rollout.id}",
        before={"state": before},
        after={"state": rollout.state, "reason": reason},
    )


def _manual(reason: str) -> str:
    return f"manual: {reason or 'no reason given'}"[:MAX_REASON]


def _wrong_state(words: str) -> Conflict:
    return Conflict(words, code="wrong_state", hint="read it again: GET /v1/rollouts/{id}")
