"""Sends what is written for devices: at least once, by the worker that leads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update

from cloud.ingest.bus import Bus
from cloud.metrics import Metrics
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.leases import Held, require_held
from cloud.storage.tables import OutboxRow

BATCH = 100
KEPT_FOR = timedelta(days=14)
"""How long what was sent or has expired is kept to look at; the opinions themselves stay."""

PRUNED_AT_ONCE = 1000
"""Rows deleted in one transaction, so that nobody waits long for the write lock."""


class Outbox:
    """Publishes waiting rows in order. `now` is the wall clock."""

    def __init__(
        self, storage: Storage, metrics: Metrics, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._storage = storage
        self._metrics = metrics
        self._now = now

    async def publish_waiting(self, bus: Bus, held: Held) -> int:
        """Publishes up to a batch and marks what the broker has taken; the number of rows done.

        Killed between publishing and marking, the message is published again: its id lets the device see that.

        Raises:
            BrokerDown, StorageUnavailable: try again later. LeaseLost: stand down.
        """
        async with self._storage.reading() as session:
            query = select(OutboxRow).where(OutboxRow.published_at.is_(None)).order_by(OutboxRow.id).limit(BATCH)
            rows = list((await session.scalars(query)).all())
        outcomes: dict[int, str] = {}
        try:
            for row in rows:
                left_s = int((row.not_after - self._now()).total_seconds())
                if left_s > 0:
                    await bus.publish(row.topic, row.payload, expiry_s=left_s)
                outcomes[row.id] = "sent" if left_s > 0 else "expired"
        finally:
            if outcomes:
                await self._mark(outcomes, held)
        return len(outcomes)

    async def prune(self, held: Held) -> int:
        """Deletes what was published, or had expired, longer ago than `KEPT_FOR`; the number of rows, at most a batch.

        Raises:
            StorageUnavailable: try again later. LeaseLost: stand down.
        """
        old = (
            select(OutboxRow.id)
            .where(OutboxRow.published_at < self._now() - KEPT_FOR)
            .order_by(OutboxRow.id)
            .limit(PRUNED_AT_ONCE)
        )
        async with self._storage.writing() as session:
            await require_held(session, held)
            ids = (await session.scalars(old)).all()
            if ids:
                await session.execute(
                    delete(OutboxRow).where(OutboxRow.id.in_(ids)).execution_options(synchronize_session=False)
                )
        return len(ids)

    async def _mark(self, outcomes: dict[int, str], held: Held) -> None:
        now = self._now()
        async with self._storage.writing() as session:
            await require_held(session, held)
            for outcome in ("sent", "expired"):
                ids = [row_id for row_id, value in outcomes.items() if value == outcome]
                if ids:
                    await session.execute(
                        update(OutboxRow)
                        .where(OutboxRow.id.in_(ids))
                        .values(published_at=now, published_epoch=held.epoch, outcome=outcome)
                        .execution_options(synchronize_session=False)
                    )
        for outcome in outcomes.values():
            self._metrics.outbox_published.labels(outcome).inc()
