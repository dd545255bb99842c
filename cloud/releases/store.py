"""Writes trust documents, releases and wants, within the caller's transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.errors import Conflict
from cloud.releases.rules import documents
from cloud.storage.tables import NO_SITE, ChunkWantRow, DeviceRow, ReleaseRow, TrustDocumentRow
from cloud.storage.upserts import insert_new, insert_or_update
from fleet.contract.base import JsonObject
from fleet.contract.messages import Need
from fleet.contract.release import ReleaseTarget, Trust


class TrustChanged(Conflict):
    """Another change of the trust came first; nothing of this one is to be committed."""

    def __init__(self) -> None:
        super().__init__(
            "the trust has changed meanwhile", code="trust_changed", hint="fetch the trust again, and sign on top of it"
        )


async def read_trust(session: AsyncSession) -> Trust | None:
    """The trust as it stands; None before the first one was given."""
    rows = list((await session.scalars(select(TrustDocumentRow).order_by(TrustDocumentRow.version))).all())
    if not rows:
        return None
    newest = {row.role: row.document for row in rows}
    roots = tuple(row.document for row in rows if row.role == "root")
    return Trust(roots=roots, **{role: newest[role] for role in ("timestamp", "snapshot", "targets")})


async def save_trust(session: AsyncSession, before: Trust | None, after: Trust, *, by: str, now: datetime) -> None:
    """Replaces the trust that was read before by one that was signed on top of it.

    Every root stays, of the others only the newest. Two that sign on top of the same trust make the same versions, and
    a version is stored once: the second one fails.

    Raises:
        TrustChanged: another was first.
    """
    known = {(document.role, document.text) for document in documents(before)} if before else set()
    for document in documents(after):
        if (document.role, document.text) in known:
            continue
        row = {
            "role": document.role,
            "version": document.version,
            "site_id": NO_SITE,
            "document": document.text,
            "expires_at": document.expires_at,
            "stored_at": now,
            "stored_by": by,
        }
        if not await insert_new(session, TrustDocumentRow, [row], [TrustDocumentRow.version]):
            raise TrustChanged
        if document.role != "root":
            older = delete(TrustDocumentRow).where(
                TrustDocumentRow.role == document.role, TrustDocumentRow.version < document.version
            )
            await session.execute(older.execution_options(synchronize_session=False))


async def add_release(
    session: AsyncSession,
    target: ReleaseTarget,
    *,
    archive_sha256: str,
    evidence: JsonObject | None,
    site_id: str,
    by: str,
    now: datetime,
) -> None:
    """Adds the row of a signed release.

    Raises:
        TrustChanged: the counter is taken.
    """
    row: dict[str, Any] = {
        "counter": target.counter,
        "site_id": site_id,
        "digest": target.digest,
        "name": target.name,
        "version": target.version,
        "archive_sha256": archive_sha256,
        "size_bytes": target.size_bytes,
        "target": target.model_dump(mode="json", by_alias=True),
        "evidence": evidence,
        "checked": target.checked,
        "created_at": now,
        "created_by": by,
    }
    if not await insert_new(session, ReleaseRow, [row], [ReleaseRow.counter]):
        raise TrustChanged


async def remember_want(session: AsyncSession, need: Need, device: DeviceRow, *, now: datetime) -> None:
    """Keeps what a device lacks, in the place of what it lacked before."""
    row = {
        "device": device.device,
        "site_id": device.site_id,
        "digest": need.release,
        "missing": list(dict.fromkeys(need.missing)),
        "asked_at": now,
        "asked_by": device.principal_id,
        "served_at": None,
    }
    update = {name: value for name, value in row.items() if name != "device"}
    await insert_or_update(session, ChunkWantRow, row, key=["device"], update=update)
