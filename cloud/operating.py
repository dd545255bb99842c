"""What the command line does on the database: tokens and the audit trail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import TypeAdapter, ValidationError

from cloud.audit import trail
from cloud.auth.principals import Role
from cloud.auth.tokens import SYSTEM, Tokens
from cloud.config import Settings
from cloud.errors import ConfigurationError, NotFound
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.migrating import migrate
from cloud.storage.tables import PrincipalRow
from fleet.contract.base import SiteId

_SITE: TypeAdapter[str] = TypeAdapter(SiteId)
_HUMAN_ROLES = [role for role in Role if role not in {Role.DEVICE, Role.SYSTEM}]


async def issue_token(settings: Settings, *, role: str, site: str, name: str, lifetime: timedelta) -> str:
    """A token for a new principal; ConfigurationError for a role or site that cannot be."""
    if role not in _HUMAN_ROLES:
        hint = "; devices get theirs from POST /v1/devices" if role == Role.DEVICE else ""
        raise ConfigurationError(f"there is no role {role!r} to issue: use one of {', '.join(_HUMAN_ROLES)}{hint}")
    try:
        _SITE.validate_python(site)
    except ValidationError as exc:
        raise ConfigurationError(f"the site {site!r} cannot be used: lower case, digits and dashes, 2 to 63") from exc
    if not name.strip() or len(name) > 120:
        raise ConfigurationError("the name must have 1 to 120 characters")
    async with _storage(settings) as storage, storage.writing() as session:
        issued = await Tokens().issue(
            session, by=SYSTEM, role=Role(role), site_id=site, name=name.strip(), lifetime=lifetime
        )
    return issued.token


async def revoke_tokens(settings: Settings, principal_id: str) -> int:
    """Ends all tokens of a principal; NotFound when there is none of this id."""
    async with _storage(settings) as storage, storage.writing() as session:
        row = await session.get(PrincipalRow, principal_id)
        if row is None:
            raise NotFound(f"there is no principal {principal_id!r}", code="no_principal")
        ended = await Tokens().revoke_all(session, by=SYSTEM, principal_id=principal_id)
        after = {"tokens_ended": ended}
        subject = f"principal/{principal_id}"
        trail.record(session, SYSTEM, action="token.revoked", subject=subject, after=after, site_id=row.site_id)
    return ended


async def read_audit(settings: Settings, *, site: str | None, limit: int) -> list[str]:
    """The newest records as JSON lines, newest first."""
    async with _storage(settings) as storage, storage.reading() as session:
        rows = await trail.latest(session, site_id=site, limit=limit)
    return [
        json.dumps(
            {
                "id": row.id,
                "at": row.at.isoformat(timespec="milliseconds"),
                "site": row.site_id,
                "principal": row.principal_id,
                "name": row.principal_name,
                "role": row.role,
                "action": row.action,
                "subject": row.subject,
                "before": row.before,
                "after": row.after,
            }
        )
        for row in rows
    ]


@asynccontextmanager
async def _storage(settings: Settings) -> AsyncIterator[Storage]:
    await asyncio.to_thread(migrate, settings.database_url, settings.database)
    storage = Storage(settings.database_url, settings.database)
    try:
        yield storage
    finally:
        await storage.close()
