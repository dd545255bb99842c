"""What the leader tells the broker: each device's wish and the trust, once, and all of it again after a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from cloud.auth.tokens import SYSTEM
from cloud.config import ReleaseSettings
from cloud.errors import LeaseLost
from cloud.releases.publisher import PAGE, Publisher
from cloud.releases.store import remember_want
from cloud.storage.leases import Held, Leases
from cloud.storage.tables import ChunkWantRow, DesiredRow, DeviceRow, ReleaseRow
from fleet.contract import topics
from fleet.contract.messages import Need
from tests.fakes.quiet_bus import QuietBus
from tests.fakes.releasing import Releasing, leading

pytestmark = pytest.mark.anyio


@dataclass
class KeepingBus(QuietBus):
    """A broker that keeps what it is given, each message once more in `sent`."""

    retained: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None, qos: int = 1
    ) -> None:
        self.sent.append(topic)
        if retain:
            self.retained[topic] = payload


@contextlib.asynccontextmanager
async def publishing(fleet: Releasing, held: Held, clock: Callable[[], float]) -> AsyncIterator[KeepingBus]:
    bus = KeepingBus()
    parts = fleet.cloud.app.state.parts
    settings = ReleaseSettings(republish_s=900, collect_s=0)
    publisher = Publisher(
        storage=parts.storage,
        images=parts.images,
        settings=settings,
        metrics=parts.metrics,
        poll_s=0.01,
        clock_s=clock,
    )
    task = asyncio.create_task(publisher.serve(bus, held))
    try:
        yield bus
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_fleet_of_several_pages_is_told_once_then_only_what_changes_and_all_of_it_after_a_while(
    fleet: Releasing, tools: Any
) -> None:
    devices = [f"bench-{number:03}" for number in range(PAGE + 7)]
    operator = await fleet.cloud.device("bench-x")
    assert operator
    async with fleet.cloud.storage.writing() as session:
        principal_id = await session.scalar(select(DeviceRow.principal_id).where(DeviceRow.device == "bench-x"))
        now = datetime.now(UTC)
        for device in devices:
            row = DeviceRow(
                device=device,
                site_id="lab-a",
                principal_id=principal_id,
                label="",
                created_at=now,
                created_by=SYSTEM.id,
            )
            session.add(row)
    for device in devices:
        await fleet.wish(device)
    clock_s = [100.0]
    async with publishing(fleet, await leading(fleet.cloud.storage), lambda: clock_s[0]) as bus:
        await tools.eventually(lambda: len(bus.sent) >= len(devices) + 1)
        await tools.eventually(lambda: everything_is_marked(fleet))
        assert sorted(bus.sent) == sorted([topics.TRUST, *(topics.down(device, "desired") for device in devices)])

        bus.sent.clear()
        await fleet.wish(devices[3])
        await tools.eventually(lambda: everything_is_marked(fleet))
        assert bus.sent == [topics.down(devices[3], "desired")]

        bus.sent.clear()
        bus.retained.clear()  # lost without a word
        clock_s[0] += 901
        await tools.eventually(lambda: len(bus.retained) == len(devices) + 1)


async def everything_is_marked(fleet: Releasing) -> bool:
    async with fleet.cloud.storage.reading() as session:
        left = select(DesiredRow.device).where(DesiredRow.version > DesiredRow.published_version)
        return not (await session.scalars(left)).all()


async def test_a_deposed_leader_marks_nothing_as_published(sqlite_fleet: Releasing) -> None:
    storage = sqlite_fleet.cloud.storage
    await sqlite_fleet.cloud.device()
    await sqlite_fleet.wish("bench-1")
    held = await leading(storage)
    await Leases(storage, lease_s=60).release(held)
    await leading(storage)
    with pytest.raises(LeaseLost):
        async with publishing(sqlite_fleet, held, lambda: 0.0) as bus:
            await asyncio.sleep(0.5)
    assert topics.down("bench-1", "desired") in bus.sent, "the version stays to be published by who leads now"
    assert not await everything_is_marked(sqlite_fleet)


async def test_a_revoked_device_is_told_nothing(sqlite_fleet: Releasing, tools: Any) -> None:
    for device in ("bench-1", "bench-2"):
        await sqlite_fleet.cloud.device(device)
        await sqlite_fleet.wish(device)
    revoked = await sqlite_fleet.http.post("/v1/devices/bench-1/revoke", headers=sqlite_fleet.operator)
    assert revoked.status_code == 204
    async with publishing(sqlite_fleet, await leading(sqlite_fleet.cloud.storage), lambda: 0.0) as bus:
        await tools.eventually(lambda: topics.down("bench-2", "desired") in bus.sent)
    assert topics.down("bench-1", "desired") not in bus.sent


@pytest.mark.parametrize("damage", ["damaged", "gone"])
async def test_a_chunk_that_cannot_be_read_is_counted_and_the_rest_goes_out(
    sqlite_fleet: Releasing, tools: Any, damage: str
) -> None:
    detail = await sqlite_fleet.release()
    await sqlite_fleet.cloud.device()
    parts = sqlite_fleet.cloud.app.state.parts
    async with parts.storage.reading() as session:
        sha256 = await session.scalar(select(ReleaseRow.archive_sha256).where(ReleaseRow.counter == 2))
    stored = sqlite_fleet.cloud.settings.data_dir / "images" / sha256[:2] / sha256[2:4] / sha256
    if damage == "gone":
        stored.unlink()
    else:
        content = bytearray(stored.read_bytes())
        content[10] ^= 1
        stored.write_bytes(content)
    names = list(dict.fromkeys(chunk.sha256 for chunk in detail.target.chunks))
    async with parts.storage.writing() as session:
        device = await session.get(DeviceRow, "bench-1")
        need = Need(
            message_id="need-0001",
            device="bench-1",
            boot=1,
            seq=1,
            sent_at=datetime.now(UTC),
            release=detail.target.digest,
            missing=tuple(names),
            max_packet_bytes=70_000,
        )
        await remember_want(session, need, device, now=datetime.now(UTC))
    async with publishing(sqlite_fleet, await leading(parts.storage), time.monotonic) as bus:

        async def served() -> bool:
            async with parts.storage.reading() as session:
                row = await session.get(ChunkWantRow, "bench-1")
                return row.served_at is not None

        await tools.eventually(served)
    out = [topic for topic in bus.sent if "/chunk/" in topic]
    expected = [] if damage == "gone" else [topics.chunk(name) for name in names[1:]]
    assert out == expected
    counted = parts.metrics.registry.get_sample_value("ahs_cloud_release_chunks_total", {"outcome": "unreadable"})
    assert counted == len(names) - len(out)
