"""Who leads, by a row in the database. Each new holder raises the epoch; a write of an old one is refused."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.errors import LeaseLost
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import NO_SITE, LeaseRow
from cloud.storage.upserts import insert_new


@dataclass(frozen=True, slots=True)
class Held:
    """A lease in hand."""

    name: str
    holder: str
    epoch: int


class Leases:
    """Takes, renews and gives back leases.

    Args:
        lease_s: how long a silent holder keeps it.
    """

    def __init__(self, storage: Storage, *, lease_s: float) -> None:
        self._storage = storage
        self.lease_s = lease_s

    async def acquire(self, name: str, holder: str) -> Held | None:
        """The lease under a new epoch, if nobody holds it; None otherwise."""
        async with self._storage.writing() as session:
            now_s = await clock_s(session)
            first = {"name": name, "site_id": NO_SITE, "holder": "", "epoch": 0, "expires_at_s": 0.0}
            await insert_new(session, LeaseRow, [first], [LeaseRow.name])
            taken = await session.scalar(
                update(LeaseRow)
                .where(LeaseRow.name == name, LeaseRow.expires_at_s <= now_s)
                .values(holder=holder, epoch=LeaseRow.epoch + 1, expires_at_s=now_s + self.lease_s)
                .returning(LeaseRow.epoch)
                .execution_options(synchronize_session=False)
            )
        return Held(name, holder, taken) if taken is not None else None

    async def renew(self, held: Held) -> None:
        """Keeps the lease; LeaseLost when another has it."""
        await self._set_end(held, self.lease_s)

    async def release(self, held: Held) -> None:
        """Gives the lease back at once, so that the next need not wait; LeaseLost when another has it."""
        await self._set_end(held, 0.0)

    async def _set_end(self, held: Held, seconds: float) -> None:
        async with self._storage.writing() as session:
            now_s = await clock_s(session)
            kept = await session.scalar(
                update(LeaseRow)
                .where(LeaseRow.name == held.name, LeaseRow.epoch == held.epoch, LeaseRow.holder == held.holder)
                .values(expires_at_s=now_s + seconds)
                .returning(LeaseRow.epoch)
                .execution_options(synchronize_session=False)
            )
        if kept is None:
            raise LeaseLost(f"the lease {held.name} has gone to another worker")


async def require_held(session: AsyncSession, held: Held) -> None:
    """Within a leader's write transaction: LeaseLost, and so no commit, when the epoch is over."""
    epoch = await session.scalar(select(LeaseRow.epoch).where(LeaseRow.name == held.name).with_for_update())
    if epoch != held.epoch:
        raise LeaseLost(f"the lease {held.name} has gone to epoch {epoch}")


async def clock_s(session: AsyncSession) -> float:
    """Seconds since 1970 by the one clock that all holders share: PostgreSQL's, or this machine's for SQLite."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()
    return float(await session.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
