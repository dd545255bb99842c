"""Reading the trust and the releases. They are one for the whole fleet: every site reads them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from cloud.auth.principals import Principal
from cloud.errors import NotFound
from cloud.releases.rules import archive_hashes
from cloud.releases.store import read_trust
from cloud.storage.tables import DeviceRow, DeviceStateRow, PrincipalRow, ReleaseRow, TrustDocumentRow
from fleet.contract.http import ReleaseDetail, ReleasePage, ReleaseSummary
from fleet.contract.release import ReleaseTarget, Trust, target_path
from fleet.release.documents import RELEASES_FILL_BYTES, trust_bytes


async def get_trust(session: AsyncSession) -> Trust:
    """The trust as it stands; NotFound (404) before the first one was given."""
    trust = await read_trust(session)
    if trust is None:
        raise NotFound(
            "this cloud has no trust yet",
            code="no_trust",
            hint="give it the trust.json of `ahs-fleet factory` with POST /v1/trust",
        )
    return trust


async def list_releases(session: AsyncSession, principal: Principal) -> ReleasePage:
    """All releases, newest first; the devices that run each are counted in the principal's site alone."""
    running = await _running(session, principal)
    # Chunk lists and evaluations are long, and not shown here.
    query = (
        _releases().options(defer(ReleaseRow.target), defer(ReleaseRow.evidence)).order_by(ReleaseRow.counter.desc())
    )
    rows = (await session.execute(query)).all()
    named = await _named(session)
    items = [_summary(row, _name(by, principal), accepted, running, named) for row, by, accepted in rows]
    return ReleasePage(items=tuple(items))


async def get_release(session: AsyncSession, principal: Principal, counter: int) -> ReleaseDetail:
    """One release with its signed description; NotFound (404) otherwise."""
    found = (await session.execute(_releases().where(ReleaseRow.counter == counter))).first()
    if found is None:
        raise NotFound(f"there is no release {counter}", code="no_release", hint="see GET /v1/releases")
    row, by, accepted = found
    return ReleaseDetail(
        summary=_summary(
            row, _name(by, principal), accepted, await _running(session, principal), await _named(session)
        ),
        target=ReleaseTarget.model_validate(row.target),
        evidence=row.evidence,
    )


async def trust_expiry(session: AsyncSession) -> dict[str, datetime]:
    """When the newest document of each role runs out."""
    query = select(TrustDocumentRow.role, TrustDocumentRow.expires_at).order_by(TrustDocumentRow.version)
    return {str(role): expires_at for role, expires_at in (await session.execute(query)).all()}


async def trust_full_ratio(session: AsyncSession) -> float:
    """How much of the room for releases in the trust message is taken; 0 without a trust."""
    trust = await read_trust(session)
    return trust_bytes(trust) / RELEASES_FILL_BYTES if trust else 0.0


def _name(by: PrincipalRow, principal: Principal) -> str:
    """Releases are everybody's, and the people of a site its own."""
    return by.name if by.site_id == principal.site_id else ""


def _releases() -> Select[ReleaseRow, PrincipalRow, bool]:
    accepted = ReleaseRow.target["evidence"]["accepted"].as_boolean()
    query = select(ReleaseRow, PrincipalRow, accepted)
    return query.join(PrincipalRow, PrincipalRow.id == ReleaseRow.created_by)


async def _running(session: AsyncSession, principal: Principal) -> dict[str, int]:
    active = DeviceStateRow.reported["active"]["digest"].as_string()
    query = (
        select(active, func.count())
        .join(DeviceRow, DeviceRow.device == DeviceStateRow.device)
        .where(
            DeviceRow.site_id == principal.site_id,
            DeviceRow.revoked_at.is_(None),
            DeviceStateRow.reported.is_not(None),
        )
        .group_by(active)
    )
    return {str(digest): int(count) for digest, count in (await session.execute(query)).all()}


async def is_withdrawn(session: AsyncSession, digest: str, counter: int) -> bool:
    """Whether the signed list was pruned of a release; False while there is no list."""
    named = await _named(session)
    return named is not None and target_path(digest, counter) not in named


async def _named(session: AsyncSession) -> Collection[str] | None:
    trust = await read_trust(session)
    return archive_hashes(trust).keys() if trust else None


def _summary(
    row: ReleaseRow,
    created_by: str,
    accepted: bool | None,
    running: dict[str, int],
    named: Collection[str] | None,
) -> ReleaseSummary:
    return ReleaseSummary(
        digest=row.digest,
        counter=row.counter,
        name=row.name,
        version=row.version,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        created_by=created_by,
        checked=row.checked,
        evidence_accepted=accepted,
        devices_running=running.get(row.digest, 0),
        withdrawn=named is not None and target_path(row.digest, row.counter) not in named,
    )
