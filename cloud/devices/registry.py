"""Registers devices and ends them; each change is recorded with who made it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Permission, Principal, Role
from cloud.auth.tokens import SYSTEM, IssuedToken, Tokens
from cloud.devices.queries import device_not_found
from cloud.errors import Conflict, Forbidden
from cloud.storage.tables import DeviceRow, DeviceStateRow
from fleet.contract.http import DeviceCreate, DeviceToken


class DeviceRegistry:
    """Writes the registry, within the caller's transaction.

    Args:
        tokens: issues the devices' tokens.
        token_lifetime: life of a device's token.
    """

    def __init__(
        self, tokens: Tokens, *, token_lifetime: timedelta, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._tokens = tokens
        self._lifetime = token_lifetime
        self._now = now

    async def create(self, session: AsyncSession, by: Principal, device: DeviceCreate) -> DeviceToken:
        """Registers a device and issues its token.

        Raises:
            Forbidden: the role may not, or the site is not the principal's own.
            Conflict: the id is taken (in any site: topics carry no site); a revoked one of the same site is renewed.
        """
        by.require(Permission.MANAGE_DEVICES)
        if device.site != by.site_id:
            raise Forbidden(
                f"this token is for the site {by.site_id}, not {device.site}",
                code="other_site",
                hint="register the device with a token of its own site",
            )
        return await self._create(session, by, device)

    async def create_by_system(self, session: AsyncSession, device: DeviceCreate) -> DeviceToken:
        """The same for the command line, in any site; Conflict when the id is taken."""
        return await self._create(session, SYSTEM, device)

    async def _create(self, session: AsyncSession, by: Principal, device: DeviceCreate) -> DeviceToken:
        row = await session.get(DeviceRow, device.device)
        if row is not None and (row.revoked_at is None or row.site_id != device.site):
            raise Conflict(
                f"the device id {device.device!r} is taken",
                code="device_exists",
                hint="choose another id, or revoke the device first to issue a new token",
            )
        issued = await self._issue(session, by, device, row.principal_id if row else None)
        if row is None:
            await self._add(session, by, device, issued)
        else:
            row.revoked_at, row.revoked_by, row.label = None, None, device.label or row.label
        after = {"site": device.site, "label": device.label}
        action = "device.created" if row is None else "device.renewed"
        trail.record(session, by, action=action, subject=f"device/{device.device}", after=after, site_id=device.site)
        return DeviceToken(device=device.device, site=device.site, token=issued.token, expires_at=issued.expires_at)

    async def revoke(self, session: AsyncSession, by: Principal, device: str) -> None:
        """Ends a device: its tokens, its place in the lists and in the figures. Once more is no error."""
        by.require(Permission.MANAGE_DEVICES)
        row = await session.get(DeviceRow, device)
        if row is None or row.site_id != by.site_id:
            raise device_not_found(device)
        if row.revoked_at is not None:
            return
        row.revoked_at, row.revoked_by = self._now(), by.id
        ended = await self._tokens.revoke_all(session, by=by, principal_id=row.principal_id)
        trail.record(
            session,
            by,
            action="device.revoked",
            subject=f"device/{device}",
            before={"revoked": False},
            after={"revoked": True, "tokens_ended": ended},
        )

    async def _issue(
        self, session: AsyncSession, by: Principal, device: DeviceCreate, principal_id: str | None
    ) -> IssuedToken:
        return await self._tokens.issue(
            session,
            by=by,
            role=Role.DEVICE,
            site_id=device.site,
            name=device.device,
            lifetime=self._lifetime,
            device=device.device,
            principal_id=principal_id,
        )

    async def _add(self, session: AsyncSession, by: Principal, device: DeviceCreate, issued: IssuedToken) -> None:
        session.add(
            DeviceRow(
                device=device.device,
                site_id=device.site,
                principal_id=issued.principal.id,
                label=device.label,
                created_at=self._now(),
                created_by=by.id,
            )
        )
        await session.flush()
        session.add(DeviceStateRow(device=device.device, site_id=device.site, past_sessions=[]))
        await session.flush()
