"""What each device is to run: one signed document a device, whose version only grows."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.releases.signing import OnlineKey
from cloud.storage.tables import DesiredRow
from fleet.contract.codec import encode
from fleet.contract.messages import Activation, Desired


async def set_desired(
    session: AsyncSession,
    *,
    key: OnlineKey,
    device: str,
    site_id: str,
    release: str | None,
    counter: int,
    rollout: str | None,
    activation: Activation,
    by: str,
    now: datetime,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> int:
    """Writes what a device is to run under the next version; the worker that leads publishes it after the commit.

    Configuration and sampling of the version before stay as they are.

    Args:
        release: digest of the bundle; None for the one that it came with.
        counter: of the release.
        by: id of the principal who decides.

    Returns:
        The version, by which the device's reports tell whether it has taken it.
    """
    row = await session.get(DesiredRow, device, with_for_update=True)
    before = Desired.model_validate(row.document) if row else None
    desired = Desired(
        device=device,
        version=(row.version if row else 0) + 1,
        release=release,
        counter=counter,
        rollout=rollout,
        activation=activation,
        sampling=before.sampling if before else None,
        config=before.config if before else {},
        not_before=not_before,
        not_after=not_after,
    )
    if row is None:
        row = DesiredRow(device=device, site_id=site_id, published_version=0)
        session.add(row)
    row.version = desired.version
    row.document = desired.model_dump(mode="json", by_alias=True)
    row.envelope = encode(key.sign(desired)).decode()
    row.made_at, row.made_by = now, by
    await session.flush()
    return desired.version
