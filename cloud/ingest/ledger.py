"""Commits what devices report, each event once, and says what may be acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.errors import StorageUnavailable
from cloud.ingest import dead_letters
from cloud.ingest.rows import row_of, same_event, table_of
from cloud.ingest.rules import Letter, Link, Parsed, Place, next_link
from cloud.metrics import Metrics
from cloud.releases.store import remember_want
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import DeviceRow, DeviceStateRow
from cloud.storage.upserts import insert_new
from fleet.contract.messages import Birth, Event, FieldResult, Need, Presence, Reported, Status, Telemetry

log = structlog.get_logger()


@dataclass(slots=True)
class Outcome:
    """What a committed batch allows to be told to one device."""

    committed: list[Place] = field(default_factory=list)
    rejected: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class _Tally:
    """What a transaction did; shown as metrics only once it is committed."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)

    def of(self, device: str) -> Outcome:
        return self.outcomes.setdefault(device, Outcome())


class Ledger:
    """The tables behind ingest. `now` is the wall clock."""

    def __init__(
        self, storage: Storage, metrics: Metrics, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._storage = storage
        self._metrics = metrics
        self._now = now

    async def commit(self, messages: Sequence[Parsed]) -> dict[str, Outcome]:
        """Commits a batch; device -> what may be acknowledged. The same messages again change nothing.

        When the database refuses the batch, each message is committed alone, and the one that it refuses becomes a
        dead letter: one poisonous message holds nobody up.

        Raises:
            StorageUnavailable: nothing was committed and nothing may be acknowledged.
        """
        try:
            tally = await self._commit(messages)
        except (DBAPIError, OverflowError, ValueError) as exc:
            log.warning("ingest_batch_refused", messages=len(messages), error=type(exc).__name__)
            tally = _Tally()
            for message in messages:
                _merge(tally, await self._commit_alone(message))
        for kind, outcome in tally.messages:
            self._metrics.ingest_messages.labels(kind, outcome).inc()
        for kind, outcome in tally.events:
            self._metrics.ingest_rows.labels(kind, outcome).inc()
        return tally.outcomes

    async def _commit_alone(self, message: Parsed) -> _Tally:
        try:
            return await self._commit([message])
        except StorageUnavailable:
            raise
        except (DBAPIError, OverflowError, ValueError) as exc:
            if len(message.events) > 1:
                return await self._commit_each(message)
            places = tuple((event.boot, event.seq) for event in message.events)
            payload = "\n".join(event.model_dump_json(by_alias=True) for event in message.events).encode()
            if message.message is not None:
                payload = message.message.model_dump_json(by_alias=True).encode()
            letter = Letter("not_storable", f"{type(exc).__name__}: {exc}"[:500], payload, places)
            failed = Parsed(message.topic, message.device, message.kind, letters=(letter, *message.letters))
            return await self._commit([failed])

    async def _commit_each(self, message: Parsed) -> _Tally:
        tally = _Tally()
        for at, event in enumerate(message.events):
            letters = message.letters if at == 0 else ()
            _merge(tally, await self._commit_alone(replace(message, events=(event,), letters=letters)))
        return tally

    async def _commit(self, messages: Sequence[Parsed]) -> _Tally:
        tally = _Tally()
        now = self._now()
        names = sorted({message.device for message in messages if message.device is not None})
        async with self._storage.writing() as session:
            known = await _lock_devices(session, names)
            for message in sorted(messages, key=lambda m: m.device or ""):
                await self._take(session, message, known.get(message.device or ""), tally, now=now)
        return tally

    async def _take(
        self,
        session: AsyncSession,
        message: Parsed,
        known: tuple[DeviceRow, DeviceStateRow] | None,
        tally: _Tally,
        *,
        now: datetime,
    ) -> None:
        if known is None or known[0].revoked_at is not None:
            if message.retained:
                # The broker's memory of a removed device, told again at each subscription, is no event.
                tally.messages.append((message.kind, "ignored"))
                return
            code, words = ("revoked_device", "has been revoked") if known else ("unknown_device", "is not registered")
            letter = _whole(message, code, f"the device {message.device!r} {words}")
            site_id = known[0].site_id if known else None
            await dead_letters.keep(
                session, letter, topic=message.topic, device=message.device, site_id=site_id, now=now
            )
            tally.messages.append((message.kind, "dead"))
            return
        device, state = known
        result = await self._apply(session, message, device, state, tally, now=now)
        for letter in (*message.letters, *result.letters):
            await dead_letters.keep(
                session, letter, topic=message.topic, device=device.device, site_id=device.site_id, now=now
            )
            tally.of(device.device).rejected.extend(letter.places)
            tally.events.append((message.kind, letter.code))
        tally.messages.append((message.kind, result.outcome))

    async def _apply(
        self,
        session: AsyncSession,
        message: Parsed,
        device: DeviceRow,
        state: DeviceStateRow,
        tally: _Tally,
        *,
        now: datetime,
    ) -> _Applied:
        body = message.message
        if not message.retained and not (isinstance(body, Status) and body.presence is not Presence.ONLINE):
            state.last_seen_at = now
        if isinstance(body, Status):
            return _Applied(_apply_status(state, body))
        if isinstance(body, Birth):
            return _apply_birth(state, body, device)
        if isinstance(body, Reported):
            return _Applied(_apply_reported(state, body, authoritative=False))
        if isinstance(body, Telemetry):
            return _Applied(_apply_telemetry(state, body, now=now))
        if isinstance(body, Need) and not message.retained:
            await remember_want(session, body, device, now=now)
            return _Applied("committed")
        if body is not None:
            return _Applied("unused")
        letters = await _apply_events(session, message, device, state, tally, now=now)
        if message.sent_at is not None:
            state.ingest_lag_s = max(0.0, (now - message.sent_at).total_seconds())
        dead = bool(message.letters) and not message.events
        return _Applied("dead" if dead else "committed", letters)


@dataclass(frozen=True, slots=True)
class _Applied:
    outcome: str
    letters: tuple[Letter, ...] = ()


async def _lock_devices(session: AsyncSession, names: list[str]) -> dict[str, tuple[DeviceRow, DeviceStateRow]]:
    """Rows of the devices, locked in one order, so that two workers never wait for each other in a circle."""
    query = (
        select(DeviceRow, DeviceStateRow)
        .join(DeviceStateRow, DeviceStateRow.device == DeviceRow.device)
        .where(DeviceRow.device.in_(names))
        .order_by(DeviceRow.device)
        .with_for_update(of=DeviceStateRow)
    )
    return {row[0].device: (row[0], row[1]) for row in (await session.execute(query)).all()}


async def _apply_events(
    session: AsyncSession,
    message: Parsed,
    device: DeviceRow,
    state: DeviceStateRow,
    tally: _Tally,
    *,
    now: datetime,
) -> tuple[Letter, ...]:
    letters: list[Letter] = []
    outcome = tally.of(device.device)
    for event in message.events:
        table = table_of(event)
        row = row_of(event, device=device.device, site_id=device.site_id, principal_id=device.principal_id, now=now)
        if await insert_new(session, table, [row], [table.id]):
            _count(state, event)
            tally.events.append((event.kind, "committed"))
        else:
            stored = await session.scalar(
                select(table).where(table.device == device.device, table.boot == event.boot, table.seq == event.seq)
            )
            if stored is None or not same_event(event, stored):
                payload = event.model_dump_json(by_alias=True).encode()
                detail = "another event is stored under this boot and seq: has the device lost its store?"
                letters.append(Letter("ledger_conflict", detail, payload, ((event.boot, event.seq),)))
                continue
            tally.events.append((event.kind, "duplicate"))
        outcome.committed.append((event.boot, event.seq))
    return tuple(letters)


def _count(state: DeviceStateRow, event: Event) -> None:
    if isinstance(event, FieldResult):
        state.fields += 1
        state.uncertain += event.decision.value == "uncertain"
        state.withheld += event.decision.value == "withheld"


def _apply_status(state: DeviceStateRow, status: Status) -> str:
    link = Link(Presence(state.presence), state.session, tuple(state.past_sessions))
    changed = next_link(link, session=status.session, presence=status.presence)
    if changed is None:
        return "ignored"
    state.presence, state.session = changed.presence.value, changed.session
    state.past_sessions = list(changed.past)
    state.presence_reason = status.reason
    state.agent_version = status.agent_version
    return "committed"


def _apply_birth(state: DeviceStateRow, birth: Birth, device: DeviceRow) -> _Applied:
    if birth.site != device.site_id:
        payload = birth.model_dump_json(by_alias=True).encode()
        return _Applied("dead", (Letter("identity", f"the device belongs to another site than {birth.site}", payload),))
    link = Link(Presence(state.presence), state.session, tuple(state.past_sessions))
    changed = next_link(link, session=birth.session, presence=Presence.ONLINE)
    if changed is None:
        return _Applied("ignored")
    state.presence, state.session = changed.presence.value, changed.session
    state.past_sessions = list(changed.past)
    state.agent_version = birth.capabilities.agent_version
    state.capabilities = birth.capabilities.model_dump(mode="json")
    # A birth of the living session is the device's own word on where it stands, even when its store began anew.
    _apply_reported(state, birth.reported, authoritative=True)
    return _Applied("committed")


def _apply_reported(state: DeviceStateRow, reported: Reported, *, authoritative: bool) -> str:
    if not authoritative and (reported.boot, reported.seq) <= (state.reported_boot, state.reported_seq):
        return "ignored"
    state.reported_boot, state.reported_seq = reported.boot, reported.seq
    state.reported = reported.model_dump(mode="json", by_alias=True)
    return "committed"


def _apply_telemetry(state: DeviceStateRow, telemetry: Telemetry, *, now: datetime) -> str:
    if telemetry.not_after < now:
        return "expired"
    state.gauges, state.gauges_at = dict(telemetry.gauges), now
    return "committed"


def _whole(message: Parsed, code: str, detail: str) -> Letter:
    """A letter about a message that is refused for who sent it; nothing in it is acknowledged."""
    parts = [event.model_dump_json(by_alias=True) for event in message.events]
    if message.message is not None:
        parts.append(message.message.model_dump_json(by_alias=True))
    payload = "\n".join(parts).encode() or b"".join(letter.payload for letter in message.letters)
    return Letter(code, detail, payload)


def _merge(into: _Tally, part: _Tally) -> None:
    for device, outcome in part.outcomes.items():
        into.of(device).committed.extend(outcome.committed)
        into.of(device).rejected.extend(outcome.rejected)
    into.messages.extend(part.messages)
    into.events.extend(part.events)
