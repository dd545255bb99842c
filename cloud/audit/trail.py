"""Writes what was changed, by whom, in the transaction that changes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.storage.tables import AuditRow


def record(
    session: AsyncSession,
    principal: Principal,
    *,
    action: str,
    subject: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    site_id: str | None = None,
) -> None:
    """Adds one row to the open transaction: either both the change and its record are committed, or neither.

    Args:
        action: `what.done`, e.g. `device.revoked`; stored, never renamed.
        subject: what it was done to, e.g. `device/bench-1`.
        before, after: the values that changed, never a secret.
        site_id: where it happened, when that is not the principal's own site.
    """
    session.add(
        AuditRow(
            site_id=site_id or principal.site_id,
            at=datetime.now(UTC),
            principal_id=principal.id,
            principal_name=principal.name,
            role=principal.role.value,
            action=action,
            subject=subject,
            before=before,
            after=after,
        )
    )


async def latest(session: AsyncSession, *, site_id: str | None, limit: int) -> list[AuditRow]:
    """The newest records, newest first; of all sites only from the command line."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if site_id is not None:
        query = query.where(AuditRow.site_id == site_id)
    return list((await session.scalars(query)).all())
