"""Reading devices. Every question is asked for the principal's site, and only for it."""

from __future__ import annotations

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.errors import NotFound, Unprocessable
from cloud.storage.tables import DeviceRow, DeviceStateRow, FieldRecord
from fleet.contract.cells import Decision, FieldCounts
from fleet.contract.http import DevicePage, DeviceSummary, FieldPage, FieldRow
from fleet.contract.messages import Presence, Reported

MAX_PAGE = 500
_LARGEST = 2**53 - 1
"""Of a boot or seq in a cursor: far above any real one, and within what every database binds."""

_Found = tuple[DeviceRow, DeviceStateRow | None]


async def list_devices(
    session: AsyncSession, principal: Principal, *, limit: int = 100, cursor: str | None = None
) -> DevicePage:
    """Devices of the principal's site by id; `cursor` is the last id of the page before."""
    query = _devices(principal).order_by(DeviceRow.device).limit(min(limit, MAX_PAGE) + 1)
    if cursor:
        query = query.where(DeviceRow.device > cursor)
    rows = [(row[0], row[1]) for row in (await session.execute(query)).all()]
    shown = rows[: min(limit, MAX_PAGE)]
    more = shown[-1][0].device if len(rows) > len(shown) else None
    return DevicePage(items=tuple(_summary(row) for row in shown), next_cursor=more)


async def get_device(session: AsyncSession, principal: Principal, device: str) -> DeviceSummary:
    """One device of the principal's site; NotFound (404) otherwise."""
    found = (await session.execute(_devices(principal).where(DeviceRow.device == device))).first()
    if found is None:
        raise device_not_found(device)
    return _summary((found[0], found[1]))


async def list_fields(
    session: AsyncSession, principal: Principal, device: str, *, limit: int = 200, cursor: str | None = None
) -> FieldPage:
    """Committed fields of a device in the order in which they were stored there, (boot, seq)."""
    await get_device(session, principal, device)
    after = _read_cursor(cursor) if cursor else None
    query = (
        select(FieldRecord)
        .where(FieldRecord.site_id == principal.site_id, FieldRecord.device == device)
        .order_by(FieldRecord.boot, FieldRecord.seq)
        .limit(min(limit, MAX_PAGE) + 1)
    )
    if after:
        boot, seq = after
        query = query.where((FieldRecord.boot > boot) | ((FieldRecord.boot == boot) & (FieldRecord.seq > seq)))
    rows = list((await session.scalars(query)).all())
    shown = rows[: min(limit, MAX_PAGE)]
    more = f"{shown[-1].boot}.{shown[-1].seq}" if len(rows) > len(shown) else None
    return FieldPage(items=tuple(_field(row) for row in shown), next_cursor=more)


def device_not_found(device: str) -> NotFound:
    """The same words whether it belongs to nobody or to another site."""
    return NotFound(f"there is no device {device!r} in this site", code="no_device", hint="see GET /v1/devices")


def _devices(principal: Principal) -> Select[DeviceRow, DeviceStateRow]:
    query = (
        select(DeviceRow, DeviceStateRow)
        .outerjoin(DeviceStateRow, DeviceStateRow.device == DeviceRow.device)
        .where(DeviceRow.site_id == principal.site_id, DeviceRow.revoked_at.is_(None))
    )
    return query.where(DeviceRow.device == principal.device) if principal.is_device else query


def _summary(found: _Found) -> DeviceSummary:
    row, state = found
    if state is None:
        return DeviceSummary(device=row.device, site=row.site_id, label=row.label, presence=Presence.UNKNOWN)
    reported = Reported.model_validate(state.reported) if state.reported else None
    spool_rows = (state.gauges or {}).get("spool_rows")
    return DeviceSummary(
        device=row.device,
        site=row.site_id,
        label=row.label,
        presence=Presence(state.presence),
        last_seen_at=state.last_seen_at,
        agent_version=state.agent_version,
        active_model=reported.active.digest if reported else None,
        active_version=reported.active.version if reported else None,
        **({"update_state": reported.update_state} if reported else {}),
        fields=state.fields,
        uncertain=state.uncertain,
        withheld=state.withheld,
        spool_rows=int(spool_rows) if spool_rows is not None else None,
        degraded=reported.degraded if reported else (),
    )


def _field(row: FieldRecord) -> FieldRow:
    return FieldRow(
        capture_id=row.capture_id,
        captured_at=row.captured_at,
        received_at=row.received_at,
        decision=Decision(row.decision),
        reasons=tuple(row.reasons),
        counts=FieldCounts(rbc=row.rbc, wbc=row.wbc, platelets=row.platelets, white_cells=row.white_cells),
        model=row.model,
    )


def _read_cursor(cursor: str) -> tuple[int, int]:
    boot, _, seq = cursor.partition(".")
    numbers = cursor.isascii() and boot.isdigit() and seq.isdigit()
    if not numbers or max(int(boot), int(seq)) > _LARGEST:
        raise Unprocessable("the cursor is not one of ours", code="bad_cursor", hint="send next_cursor as it came")
    return int(boot), int(seq)
