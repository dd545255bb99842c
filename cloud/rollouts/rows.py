"""From the tables to what the rules decide on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.errors import NotFound
from cloud.storage.tables import DesiredRow, DeviceRow, DeviceStateRow, ReleaseRow, RolloutMemberRow, RolloutRow
from fleet.contract.messages import Presence, Reported, SoakFigures, UpdateState
from fleet.contract.release import ReleaseTarget, RolloutState, Thresholds
from fleet.rollout.gates import Waived
from fleet.rollout.members import Member, Order, Standing, standing_of
from fleet.rollout.rules import RolloutView


@dataclass(frozen=True, slots=True)
class Seen:
    """A device of a rollout and its newest report.

    Attributes:
        standing: by that report; the row still has what was known before.
        presence: whether it is connected.
        gone: taken out of the registry.
        release: digest of the rollout's release.
        ran_before: whether it ran that before the rollout, as the cloud has seen it.
    """

    row: RolloutMemberRow
    presence: Presence
    gone: bool
    report: Reported | None
    standing: Standing
    release: str
    ran_before: bool = False

    @property
    def told(self) -> bool:
        """Whether the rollout has made any desired state for it, or one that it replaced."""
        return self.row.desired_version is not None or self.inherited

    @property
    def inherited(self) -> bool:
        """Whether it still follows a rollout that this one replaced."""
        return self.row.desired_version is None and self.row.previous_digest is not None

    @property
    def changed(self) -> bool:
        """Whether the report says something that the row does not."""
        return _stored(self.standing) != (self.row.state, self.row.code, self.row.soak)

    def take(self, now: datetime) -> None:
        """Writes the report's word into the row; a new state or more evidence is progress."""
        before = _standing(self.row)
        fields = self.standing.soak.fields if self.standing.soak else 0
        if self.standing.state is not before.state or fields > (before.soak.fields if before.soak else 0):
            self.row.state_since = now
        self.row.state, self.row.code, self.row.soak = _stored(self.standing)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rollout with all that belongs to it."""

    rollout: RolloutRow
    release: ReleaseRow
    seen: tuple[Seen, ...]

    def view(self, online_since: Mapping[str, datetime] | None = None) -> RolloutView:
        """As the rules see it; `online_since` as the controller has observed it."""
        row = self.rollout
        return RolloutView(
            state=RolloutState(row.state),
            wave=row.wave,
            waves=len(row.waves),
            members=tuple(_member(seen, (online_since or {}).get(seen.row.device)) for seen in self.seen),
            thresholds=thresholds_of(row.thresholds),
            evidence_accepted=evidence_accepted(self.release),
            wave_opened_at=row.wave_opened_at,
            soaking_since=row.soaking_since,
            waived=waived_of(row),
        )


async def load(session: AsyncSession, rollout_id: str, *, lock: bool = False) -> Loaded:
    """One rollout; `lock` keeps everybody else from changing it until the transaction ends. NotFound without it."""
    query = select(RolloutRow, ReleaseRow).join(ReleaseRow, ReleaseRow.counter == RolloutRow.counter)
    query = query.where(RolloutRow.id == rollout_id)
    found = (await session.execute(query.with_for_update(of=RolloutRow) if lock else query)).first()
    if found is None:
        raise rollout_not_found(rollout_id)
    rollout, release = found
    return Loaded(rollout, release, await _seen(session, rollout, release))


async def _seen(session: AsyncSession, rollout: RolloutRow, release: ReleaseRow) -> tuple[Seen, ...]:
    query = (
        select(
            RolloutMemberRow,
            DeviceRow.revoked_at,
            DeviceStateRow.presence,
            DeviceStateRow.reported,
            DesiredRow.made_at,
        )
        .join(DeviceRow, DeviceRow.device == RolloutMemberRow.device)
        .outerjoin(DeviceStateRow, DeviceStateRow.device == RolloutMemberRow.device)
        .outerjoin(
            DesiredRow,
            (DesiredRow.device == RolloutMemberRow.device) & (DesiredRow.version == RolloutMemberRow.desired_version),
        )
        .where(RolloutMemberRow.rollout_id == rollout.id)
        .order_by(RolloutMemberRow.wave, RolloutMemberRow.device)
    )
    seen = []
    known = await _ran_before(session, rollout, release)
    for row, revoked_at, presence, reported, told_at in (await session.execute(query)).all():
        report = report_of(reported)
        order = Order(
            rollout=rollout.id,
            digest=release.digest,
            previous=row.previous_digest,
            version=row.desired_version,
            return_ordered=row.returned_at is not None,
            told_at=told_at,
        )
        before = _standing(row)
        # What follows another rollout now says nothing more of this one: it stays on record as it was left.
        ended = rollout.state == RolloutState.SUPERSEDED.value
        standing = before if ended else standing_of(report, before, order)
        in_place = row.previous_digest == release.digest
        ran_before = in_place or row.device in known
        online, gone = Presence(presence or "unknown"), revoked_at is not None
        seen.append(Seen(row, online, gone, report, standing, release.digest, ran_before))
    return tuple(seen)


async def _ran_before(session: AsyncSession, rollout: RolloutRow, release: ReleaseRow) -> set[str]:
    """Devices that earlier rollouts have taken to this release, or away from it."""
    ran = [UpdateState.CONFIRMED.value, UpdateState.CANCELLED.value]
    to_it = (ReleaseRow.digest == release.digest) & RolloutMemberRow.state.in_(ran)
    query = (
        select(RolloutMemberRow.device)
        .join(RolloutRow, RolloutRow.id == RolloutMemberRow.rollout_id)
        .join(ReleaseRow, ReleaseRow.counter == RolloutRow.counter)
        .where(
            RolloutRow.site_id == rollout.site_id,
            RolloutRow.id != rollout.id,
            RolloutRow.created_at < rollout.created_at,
            RolloutMemberRow.offered_at.is_not(None),
            or_(RolloutMemberRow.previous_digest == release.digest, to_it & RolloutMemberRow.soak.is_not(None)),
        )
    )
    return set((await session.scalars(query)).all())


async def owed_return(session: AsyncSession, row: RolloutMemberRow, report: Reported) -> tuple[str, int | None] | None:
    """Digest and counter of the model that a device still has to go back to, by the last rollout that told it anything.

    That is one that was aborted and not yet obeyed, or one that was replaced before the device had confirmed its model.
    """
    query = (
        select(RolloutMemberRow, ReleaseRow.digest, RolloutRow.state)
        .join(RolloutRow, RolloutRow.id == RolloutMemberRow.rollout_id)
        .join(ReleaseRow, ReleaseRow.counter == RolloutRow.counter)
        .where(
            RolloutMemberRow.device == row.device,
            RolloutMemberRow.rollout_id != row.rollout_id,
            RolloutMemberRow.desired_version.is_not(None),
        )
        .order_by(RolloutMemberRow.desired_version.desc())
        .limit(1)
    )
    found = (await session.execute(query)).first()
    if found is None:
        return None
    earlier, digest, state = found
    previous, replaced = earlier.previous_digest, state == RolloutState.SUPERSEDED.value
    if previous is None or (earlier.returned_at is None and not replaced):
        return None
    order = Order(earlier.rollout_id, digest, previous, earlier.desired_version, return_ordered=not replaced)
    standing = standing_of(report, _standing(earlier), order)
    done = standing.state is UpdateState.CONFIRMED if replaced else standing.returned or standing.stays
    return None if done else (previous, earlier.previous_counter)


def report_of(reported: Any) -> Reported | None:
    """A stored report; None without one, and for one that cannot be read: then nothing is known of the device."""
    try:
        return Reported.model_validate(reported) if reported else None
    except ValidationError:
        return None


def thresholds_of(stored: Any) -> Thresholds | None:
    """Stored thresholds; None when they cannot be read, which opens nothing."""
    try:
        return Thresholds.model_validate(stored)
    except ValidationError:
        return None


def waived_of(rollout: RolloutRow) -> Waived:
    """What was waived of the open wave; nothing where it does not say for which devices."""
    if rollout.waived_wave != rollout.wave or not rollout.waived_for:
        return frozenset()
    return frozenset((device, str(name)) for device, names in rollout.waived_for.items() for name in names)


def evidence_accepted(release: ReleaseRow) -> bool | None:
    """What the signed description says of the evaluation; None without one, and where it cannot be read.

    The evaluation of a bundle that was released without its self-test counts as none.
    """
    try:
        target = ReleaseTarget.model_validate(release.target)
    except ValidationError:
        return None
    return target.evidence.accepted if target.checked and target.evidence else None


def rollout_not_found(rollout_id: str) -> NotFound:
    """The same words whether it is nobody's or another site's."""
    return NotFound(f"there is no rollout {rollout_id!r} in this site", code="no_rollout", hint="see GET /v1/rollouts")


def _member(seen: Seen, online_since: datetime | None) -> Member:
    row = seen.row
    return Member(
        device=row.device,
        wave=row.wave,
        presence=seen.presence,
        known=seen.report is not None,
        told=seen.told,
        offered_at=row.offered_at,
        standing=seen.standing,
        since=row.state_since,
        online_since=online_since,
        straggler=row.straggler,
        gone=seen.gone,
        return_ordered_at=row.returned_at,
        ran_before=seen.ran_before,
        inherited=seen.inherited,
    )


def _standing(row: RolloutMemberRow) -> Standing:
    try:
        soak = SoakFigures.model_validate(row.soak) if row.soak else None
    except ValidationError:
        soak = None
    return Standing(UpdateState(row.state), row.code, soak)


def _stored(standing: Standing) -> tuple[str, str | None, dict[str, Any] | None]:
    soak = standing.soak.model_dump(mode="json") if standing.soak else None
    return standing.state.value, standing.code, soak


def devices_of(seen: Sequence[Seen]) -> list[str]:
    """Names, in order."""
    return [one.row.device for one in seen]
