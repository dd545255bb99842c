"""Publishes what the database says: the trust, what each device is to run, and the chunks that devices lack.

The database is the truth and the broker a memory of it. With each new connection everything retained is published
again, and then whatever changes; a broker that has lost its store is filled again without being asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.config import ReleaseSettings
from cloud.errors import StorageUnavailable
from cloud.ingest.bus import Bus
from cloud.metrics import Metrics
from cloud.releases.rules import Due, Places, Sent, Want, is_shared, places_of, plan
from cloud.releases.store import read_trust
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.storage.leases import Held, require_held
from cloud.storage.tables import ChunkWantRow, DesiredRow, DeviceRow, ReleaseRow, TrustDocumentRow
from fleet.contract import topics
from fleet.contract.codec import encode
from fleet.contract.release import ReleaseTarget

log = structlog.get_logger()

AT_ONCE = 20
"""Retained messages that are on their way to the broker together."""

PAGE = 200
SLICE_S = 1.0
"""Length of one run of chunks; then it is looked again at what is wanted and what else has changed."""

MAX_WANTS = 200
"""Wants that are planned together, those that wait longest first."""

KEPT_RELEASES = 8
"""Releases whose chunk lists are kept in memory."""


@dataclass(slots=True)
class _Link:
    """What one connection was given."""

    trust: tuple[tuple[str, int], ...] = ()
    filled_s: float | None = None
    seen: dict[tuple[str, datetime], float] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    places: dict[str, Places] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    next_s: float = 0.0


class Publisher:
    """For the worker that leads. `clock_s` is the monotonic clock."""

    def __init__(
        self,
        *,
        storage: Storage,
        images: ImageStore,
        settings: ReleaseSettings,
        metrics: Metrics,
        poll_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._images = images
        self._settings = settings
        self._metrics = metrics
        self._poll_s = poll_s
        self._clock_s = clock_s

    async def serve(self, bus: Bus, held: Held) -> None:
        """Publishes on one connection until it is lost.

        Raises:
            BrokerDown, StorageUnavailable: try again later. LeaseLost: stand down.
        """
        link = _Link()
        while True:
            await self._retained(bus, held, link)
            if not await self._chunks(bus, held, link):
                await bus.receive(limit=1, wait_s=self._poll_s)

    async def _retained(self, bus: Bus, held: Held, link: _Link) -> None:
        now_s = self._clock_s()
        whole = link.filled_s is None or now_s - link.filled_s >= self._settings.republish_s
        await self._trust(bus, link, whole=whole)
        await self._desired(bus, held, whole=whole)
        if whole:
            link.filled_s = now_s

    async def _trust(self, bus: Bus, link: _Link, *, whole: bool) -> None:
        async with self._storage.reading() as session:
            marks = select(TrustDocumentRow.role, TrustDocumentRow.version).order_by(
                TrustDocumentRow.role, TrustDocumentRow.version
            )
            found = tuple((str(role), int(version)) for role, version in (await session.execute(marks)).all())
            if not found or (found == link.trust and not whole):
                return
            trust = await read_trust(session)
        if trust is not None:
            await bus.publish(topics.TRUST, encode(trust), retain=True)
            self._metrics.release_messages.labels("trust").inc()
            link.trust = found

    async def _desired(self, bus: Bus, held: Held, *, whole: bool) -> None:
        after = ""
        while True:
            async with self._storage.reading() as session:
                rows = (await session.execute(_desired_page(after, whole=whole))).all()
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                await asyncio.gather(
                    *(bus.publish(topics.down(d, "desired"), (text or "").encode(), retain=True) for d, _, text in part)
                )
                self._metrics.release_messages.labels("desired").inc(len(part))
            await self._mark_desired([(device, version) for device, version, _ in rows], held)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    async def _mark_desired(self, published: Sequence[tuple[str, int]], held: Held) -> None:
        if not published:
            return
        async with self._storage.writing() as session:
            await require_held(session, held)
            for device, version in published:
                # A version that was written meanwhile stays to be published.
                mark = update(DesiredRow).where(DesiredRow.device == device, DesiredRow.published_version < version)
                await session.execute(
                    mark.values(published_version=version).execution_options(synchronize_session=False)
                )

    async def _chunks(self, bus: Bus, held: Held, link: _Link) -> bool:
        """One run of chunks; whether there was anything to do."""
        async with self._storage.reading() as session:
            wants = await self._open_wants(session, link)
            if not wants or self._clock_s() - wants[0].seen_s < self._settings.collect_s:
                return False
            await _learn_places(session, wants, link)
        planned = plan(wants, link.places, link.sent, repeat_s=self._settings.repeat_s)
        ends_s = self._clock_s() + SLICE_S
        for due in planned.chunks:
            await self._publish(bus, due, link)
            if self._clock_s() >= ends_s:
                break
        await self._mark_served(planned.served, held, link)
        return True

    async def _open_wants(self, session: AsyncSession, link: _Link) -> list[Want]:
        query = (
            select(ChunkWantRow)
            .join(DeviceRow, DeviceRow.device == ChunkWantRow.device)
            .where(ChunkWantRow.served_at.is_(None), DeviceRow.revoked_at.is_(None))
            .order_by(ChunkWantRow.asked_at)
            .limit(MAX_WANTS)
        )
        rows = (await session.scalars(query)).all()
        now_s = self._clock_s()
        link.seen = {mark: link.seen.get(mark, now_s) for mark in ((row.device, row.asked_at) for row in rows)}
        if not rows:
            # Nobody waits: what matters of the past is only what was published a moment ago.
            link.sent = {key: sent for key, sent in link.sent.items() if sent.at_s + self._settings.repeat_s > now_s}
        wants = [
            Want(row.device, row.digest, tuple(row.missing), row.asked_at, link.seen[row.device, row.asked_at])
            for row in rows
        ]
        return sorted(wants, key=lambda want: want.seen_s)

    async def _publish(self, bus: Bus, due: Due, link: _Link) -> None:
        """One chunk, in its time; one whose bytes are not there is counted and left out (its askers ask again)."""
        place, problem = due.place, ""
        try:
            data = await self._images.get_range(
                place.archive_sha256, start_byte=place.start_byte, size_bytes=place.size_bytes
            )
        except StorageUnavailable as exc:
            problem = str(exc)
        else:
            if hashlib.sha256(data).hexdigest() != due.sha256:
                problem = "the bytes in the store are not those that were signed"
        if not problem:
            await asyncio.sleep(max(0.0, link.next_s - self._clock_s()))
            link.next_s = max(link.next_s, self._clock_s()) + len(data) / self._settings.bytes_per_s
            await bus.publish(topics.chunk(due.sha256), data, expiry_s=self._settings.chunk_expiry_s, qos=0)
            self._metrics.chunk_bytes.inc(len(data))
        elif place.archive_sha256 not in link.unreadable:
            link.unreadable.add(place.archive_sha256)
            log.warning("chunk_not_read", sha256=due.sha256, archive=place.archive_sha256, error=problem)
        self._metrics.chunks.labels("unreadable" if problem else "published").inc()
        link.sent[due.sha256] = Sent(self._clock_s(), due.device)

    async def _mark_served(self, served: Sequence[Want], held: Held, link: _Link) -> None:
        if not served:
            return
        now = datetime.now(UTC)
        async with self._storage.writing() as session:
            await require_held(session, held)
            for want in served:
                # What was asked meanwhile is another want and stays open.
                mark = update(ChunkWantRow).where(
                    ChunkWantRow.device == want.device, ChunkWantRow.asked_at == want.asked_at
                )
                await session.execute(mark.values(served_at=now).execution_options(synchronize_session=False))
        for want in served:
            known = link.places.get(want.digest, {})
            unknown = sum(sha256 not in known for sha256 in want.missing)
            self._metrics.chunks_asked.labels("known").inc(len(want.missing) - unknown)
            self._metrics.chunks_asked.labels("unknown").inc(unknown)
            outcome = "merged" if is_shared(want, known, link.sent) else "alone"
            self._metrics.wants.labels("unknown" if unknown == len(want.missing) else outcome).inc()


def _desired_page(after: str, *, whole: bool) -> Select[str, int, str | None]:
    query = (
        select(DesiredRow.device, DesiredRow.version, DesiredRow.envelope)
        .join(DeviceRow, DeviceRow.device == DesiredRow.device)
        .where(DesiredRow.device > after, DesiredRow.envelope.is_not(None), DeviceRow.revoked_at.is_(None))
        .order_by(DesiredRow.device)
        .limit(PAGE)
    )
    return query if whole else query.where(DesiredRow.version > DesiredRow.published_version)


async def _learn_places(session: AsyncSession, wants: Sequence[Want], link: _Link) -> None:
    """Reads the chunk lists of the releases that are wanted; one that is not there yet is looked for again."""
    needed = {want.digest for want in wants}
    for digest in needed - set(link.places):
        # The same bundle may have been released again, under a higher counter: the archive is the same.
        query = select(ReleaseRow).where(ReleaseRow.digest == digest).order_by(ReleaseRow.counter.desc()).limit(1)
        row = await session.scalar(query)
        if row is not None:
            target = ReleaseTarget.model_validate(row.target)
            link.places[digest] = places_of(target, row.archive_sha256)
    for digest in [key for key in link.places if key not in needed][: max(0, len(link.places) - KEPT_RELEASES)]:
        del link.places[digest]
