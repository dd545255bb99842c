"""Access tokens: issued once, kept as a hash, good for a time, revocable."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Principal, Role
from cloud.errors import Unauthenticated
from cloud.storage.tables import NO_SITE, PrincipalRow, SiteRow, TokenRow
from cloud.storage.upserts import insert_new

SYSTEM = Principal(id="system", role=Role.SYSTEM, site_id=NO_SITE, name="ahs-cloud")
"""The program itself: ingest, the worker, the command line. It has a row from the first migration on."""

_PREFIX = "ahs_"
_RENEW = "an operator issues a new one: `ahs-cloud token create`, or POST /v1/devices for a device"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token in clear, seen this once."""

    token: str
    principal: Principal
    expires_at: datetime


class Tokens:
    """Issues and checks tokens. `now` is the wall clock."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now

    async def principal_of(self, session: AsyncSession, token: str) -> Principal:
        """Who a token belongs to; Unauthenticated (401) when it is unknown, expired or revoked."""
        return await self._principal(session, TokenRow.token_sha256 == hash_of(token))

    async def principal_of_id(self, session: AsyncSession, token_id: str) -> Principal:
        """The same for a token's id, from a signed cookie."""
        return await self._principal(session, TokenRow.id == token_id)

    async def issue(
        self,
        session: AsyncSession,
        *,
        by: Principal,
        role: Role,
        site_id: str,
        name: str,
        lifetime: timedelta,
        device: str | None = None,
        principal_id: str | None = None,
    ) -> IssuedToken:
        """Makes a token for a new principal (or one that is there) and records that; the site is made if new."""
        now = self._now()
        await insert_new(
            session, SiteRow, [{"site_id": site_id, "created_at": now, "created_by": by.id}], [SiteRow.site_id]
        )
        if principal_id is None:
            principal_id = uuid.uuid4().hex
            row = PrincipalRow(id=principal_id, site_id=site_id, role=role.value, name=name, device=device)
            row.created_at, row.created_by = now, by.id
            session.add(row)
            await session.flush()
        text = _PREFIX + secrets.token_urlsafe(32)
        token_id, expires_at = uuid.uuid4().hex, now + lifetime
        session.add(
            TokenRow(
                id=token_id,
                site_id=site_id,
                principal_id=principal_id,
                token_sha256=hash_of(text),
                created_at=now,
                created_by=by.id,
                expires_at=expires_at,
            )
        )
        after = {"role": role.value, "name": name, "token_id": token_id, "expires_at": expires_at.isoformat()}
        trail.record(
            session, by, action="token.issued", subject=f"principal/{principal_id}", after=after, site_id=site_id
        )
        principal = Principal(principal_id, role, site_id, name, device, token_id)
        return IssuedToken(text, principal, expires_at)

    async def revoke_all(self, session: AsyncSession, *, by: Principal, principal_id: str) -> int:
        """Ends all tokens of a principal; the number of those that were still good."""
        result = await session.execute(
            update(TokenRow)
            .where(TokenRow.principal_id == principal_id, TokenRow.revoked_at.is_(None))
            .values(revoked_at=self._now(), revoked_by=by.id)
            .returning(TokenRow.id)
        )
        return len(result.all())

    async def _principal(self, session: AsyncSession, condition: object) -> Principal:
        query = (
            select(TokenRow, PrincipalRow).join(PrincipalRow, PrincipalRow.id == TokenRow.principal_id).where(condition)  # type: ignore[arg-type]
        )
        found = (await session.execute(query)).first()
        if found is None:
            raise Unauthenticated("the access token is not known here", code="token_unknown", hint=_RENEW)
        token, row = found
        if token.revoked_at is not None:
            raise Unauthenticated("the access token has been revoked", code="token_revoked", hint=_RENEW)
        if token.expires_at <= self._now():
            ended = token.expires_at.isoformat(timespec="seconds")
            raise Unauthenticated(f"the access token expired at {ended}", code="token_expired", hint=_RENEW)
        return Principal(row.id, Role(row.role), row.site_id, row.name, row.device, token.id)


def hash_of(token: str) -> str:
    """SHA-256 of a token, which is all that is stored."""
    return hashlib.sha256(token.encode()).hexdigest()
