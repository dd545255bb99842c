"""What the worker says of its parts, what it sweeps away, and how the service is taken apart when a part fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from cloud.auth.tokens import SYSTEM
from cloud.config import Settings
from cloud.errors import LeaseLost, StorageUnavailable
from cloud.ingest.bus import Bus, Will
from cloud.ingest.outbox import KEPT_FOR, Outbox
from cloud.metrics import Metrics
from cloud.opinions.service import OpinionService
from cloud.storage.leases import Held, Leases
from cloud.storage.tables import NO_SITE, LeaseRow, OutboxRow
from cloud.worker import LEASE_NAME, Worker
from tests.fakes.quiet_bus import QuietBus

pytestmark = pytest.mark.anyio


class Broker:
    """Opens quiet links; the host's can be made to fail in a way nobody has foreseen."""

    def __init__(self) -> None:
        self.host_fails = False

    def open(self, client_id: str, subscriptions: list[str], will: Will | None) -> Bus:
        if self.host_fails and client_id.startswith("ahs-host"):
            raise RuntimeError("db7.internal:5432 as ahs_admin")
        return QuietBus()


@contextlib.asynccontextmanager
async def working(storage: Any, broker: Broker) -> AsyncIterator[Worker]:
    settings = Settings(
        broker={"host": "127.0.0.1"},
        worker={"lease_s": 1.0, "outbox_poll_s": 0.05, "figures_period_s": 0.1, "max_backoff_s": 0.3},
    )
    worker = Worker(settings=settings, storage=storage, metrics=Metrics(), open_bus=broker.open)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


READY = {"broker": "ok", "leader": "ok"}


async def test_a_worker_that_lost_its_lease_stands_by_and_stays_ready(storage: Any, tools: Any) -> None:
    async with working(storage, Broker()) as worker:
        await tools.eventually(lambda: worker.health.parts == READY)
        ends_s = datetime.now(UTC).timestamp() + 3600
        async with storage.writing() as session:
            taken = update(LeaseRow).values(epoch=LeaseRow.epoch + 1, holder="another", expires_at_s=ends_s)
            await session.execute(taken)

        await tools.eventually(lambda: worker.epoch is None)
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert worker.health.parts["broker"] == "ok"
            assert worker.health.ok, worker.health.parts
        assert worker.health.parts["leader"] == "standing by"


async def test_a_failure_of_the_leader_is_told_of_the_leader_in_our_own_words_until_it_is_over(
    storage: Any, tools: Any
) -> None:
    broker = Broker()
    broker.host_fails = True
    async with working(storage, broker) as worker:
        await tools.eventually(lambda: "unexpected failure" in worker.health.parts["leader"])
        assert worker.health.parts["broker"] == "ok"
        assert "db7" not in str(worker.health.parts)
        assert not worker.health.ok

        broker.host_fails = False
        await tools.eventually(lambda: worker.health.parts == READY)


async def test_a_broker_that_is_away_is_told_to_strangers_without_its_address(sqlite_settings: Any, tools: Any) -> None:
    port = tools.free_port()
    settings = sqlite_settings(broker={"host": "127.0.0.1", "port": port}, worker={"max_backoff_s": 0.3})
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:

        async def told() -> str:
            answer = await cloud.http.get("/readyz")
            return str(answer.text) if "does not answer" in answer.json()["parts"]["broker"] else ""

        text = await tools.eventually(told)
        assert str(port) not in text
        assert "127.0.0.1" not in text


async def held(storage: Any) -> Held:
    found = await Leases(storage, lease_s=60).acquire(LEASE_NAME, "a test")
    assert found is not None
    return found


async def test_what_was_published_long_ago_is_swept_away_and_what_waits_is_kept(storage: Any) -> None:
    now = datetime.now(UTC)
    ages = {"waits": None, "young": KEPT_FOR - timedelta(hours=1), "old": KEPT_FOR + timedelta(hours=1)}
    async with storage.writing() as session:
        for name, age in ages.items():
            row = OutboxRow(site_id=NO_SITE, topic=name, payload=b"", not_after=now, created_at=now)
            row.created_by, row.published_at = SYSTEM.id, now - age if age else None
            session.add(row)
    lease, outbox = await held(storage), Outbox(storage, Metrics(), now=lambda: now)

    with pytest.raises(LeaseLost):
        await outbox.prune(Held(lease.name, "a leader before", lease.epoch - 1))
    assert await outbox.prune(lease) == 1

    assert await outbox.prune(lease) == 0
    async with storage.reading() as session:
        assert set((await session.scalars(select(OutboxRow.topic))).all()) == {"waits", "young"}


async def test_a_task_that_fails_is_told_at_once_and_everything_is_closed_at_the_end(
    sqlite_settings: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    close = OpinionService.close

    async def closing(service: OpinionService) -> None:
        await close(service)
        closed.append("opinions")

    async def failing(worker: Worker) -> None:
        raise BaseExceptionGroup("the worker's loops", [StorageUnavailable("db7.internal")])

    def self_test() -> list[str]:
        raise RuntimeError("the golden inputs of db7 cannot be read")

    monkeypatch.setattr(OpinionService, "close", closing)
    monkeypatch.setattr(Worker, "run", failing)
    analyser = tools.StagedAnalyser()
    monkeypatch.setattr(analyser, "self_test", self_test)
    async with tools.running(sqlite_settings(), analyser, worker=True) as cloud:
        ready = await tools.eventually(lambda: cloud.http.get("/readyz"))
        parts = ready.json()["parts"]
        assert parts["worker"] == "down: it ended; see the log"
        assert parts["model"] == "the bundle could not be tested; see the log"
        assert "db7" not in ready.text
    assert closed == ["opinions"]
