"""Keeps snapshot and timestamp fresh: without it devices take no release, though they go on with the one they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from cloud.auth.tokens import SYSTEM
from cloud.errors import StorageUnavailable
from cloud.metrics import Metrics
from cloud.releases.rules import documents, is_due
from cloud.releases.signing import OnlineKey
from cloud.releases.store import TrustChanged, read_trust, save_trust
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.leases import Held, require_held
from fleet.contract.release import Trust
from fleet.release.errors import ReleaseError

log = structlog.get_logger()

CHECK_PERIOD_S = 30.0


class Signer:
    """For the worker that leads.

    Args:
        key: None signs nothing: the operator's figures then show the documents running out.
        now: the wall clock.
    """

    def __init__(
        self,
        storage: Storage,
        key: OnlineKey | None,
        metrics: Metrics,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage = storage
        self._key = key
        self._metrics = metrics
        self._now = now

    async def run(self, held: Held) -> None:
        """Looks every half minute, until it is cancelled; LeaseLost: stand down."""
        while True:
            try:
                await self.renew(held)
            except (StorageUnavailable, ReleaseError) as exc:
                self._metrics.signings.labels("failed").inc()
                log.error("trust_not_signed", error=str(exc))
            await asyncio.sleep(CHECK_PERIOD_S)

    async def renew(self, held: Held) -> bool:
        """Signs snapshot and timestamp again when half of the life of one of them is over; whether it did.

        Raises:
            StorageUnavailable, ReleaseError: nothing was signed. LeaseLost: stand down.
        """
        if self._key is None:
            return False
        async with self._storage.reading() as session:
            before = await read_trust(session)
        now = self._now()
        if before is None or not self._is_due(before, self._key, now):
            return False
        after = await asyncio.to_thread(self._key.resign, before, now)
        try:
            async with self._storage.writing() as session:
                await require_held(session, held)
                await save_trust(session, before, after, by=SYSTEM.id, now=now)
        except TrustChanged:
            # A release came in between, and was signed with everything else.
            return False
        self._metrics.signings.labels("signed").inc()
        log.info("trust_signed_again", expires={d.role: d.expires_at.isoformat() for d in documents(after)})
        return True

    def _is_due(self, trust: Trust, key: OnlineKey, now: datetime) -> bool:
        lives = {"snapshot": key.snapshot_life, "timestamp": key.timestamp_life}
        return any(
            is_due(document.expires_at, life=lives[document.role], now=now)
            for document in documents(trust)
            if document.role in lives
        )
