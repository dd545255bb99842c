"""Rollouts through the death and the deposing of the worker that leads: it goes on, and nobody is told twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from cloud.auth.principals import Principal, Role
from cloud.auth.tokens import SYSTEM
from cloud.config import Settings
from cloud.metrics import Metrics
from cloud.releases.signing import OnlineKey, load_online_key
from cloud.rollouts import queries, service
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import LeaseRow
from cloud.worker import Worker
from fleet.contract.http import RolloutCreate, RolloutDetail
from fleet.contract.release import RolloutState, Thresholds, WavePlan
from fleet.release.keys import make_keys, save_keys
from tests.fakes.fleet_reports import NEW, OLD, SITE, ReportedFleet, add_release

pytestmark = pytest.mark.anyio

NAMES = ("bench-1", "bench-2", "bench-3", "bench-4")
BY = Principal(id=SYSTEM.id, role=Role.OPERATOR, site_id=SITE, name="an operator")
WORKER = {
    "lease_s": 1.0,
    "rollouts_period_s": 0.05,
    "figures_period_s": 60.0,
    "max_backoff_s": 0.3,
    "status_port": None,
}


def now() -> datetime:
    return datetime.now(UTC)


async def filled(storage: Storage) -> tuple[ReportedFleet, str]:
    """Four devices on the old model, and a rollout of two waves that nobody has carried on yet."""
    fleet = ReportedFleet(storage, now)
    await fleet.add(*NAMES)
    await add_release(storage, 1, OLD)
    await add_release(storage, 2, NEW)
    wanted = RolloutCreate(
        counter=2,
        waves=(WavePlan(percent=50), WavePlan(percent=100)),
        thresholds=Thresholds(soak_s=0.3, min_fields=10),
    )
    async with storage.writing() as session:
        return fleet, await service.create(session, BY, wanted, now=now())


async def detail_of(storage: Storage, rollout: str) -> RolloutDetail:
    async with storage.reading() as session:
        return await queries.get_rollout(session, BY, rollout, now=now())


def assert_nothing_twice(found: RolloutDetail, fleet: ReportedFleet) -> None:
    """Each decision once; each device was told to download at most once, and to activate exactly once."""
    actions = [row.action for row in reversed(found.decisions)]
    once = {"approve": 1, "open_wave": 2, "offer_activation": 2, "soak": 2, "complete": 1}
    assert {name: actions.count(name) for name in once} == once, actions
    assert actions.count("offer_download") <= 1
    for device in fleet.devices.values():
        kinds = [activation for _, _, activation in device.orders]
        assert kinds.count("activate") == 1, (device.name, device.orders)
        assert device.version <= 2


@contextlib.asynccontextmanager
async def leading(storage: Storage, key: OnlineKey) -> AsyncIterator[Worker]:
    worker = Worker(settings=Settings(worker=WORKER), storage=storage, metrics=Metrics(), key=key)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    save_keys(tmp_path / "keys", make_keys())
    return tmp_path / "keys" / "online.key"


async def test_a_second_worker_goes_on_when_the_first_loses_its_lease_in_the_middle_of_a_wave(
    storage: Storage, key_file: Path, tools: Any
) -> None:
    key = load_online_key(Settings(releases={"online_key_file": key_file}).releases)
    assert key is not None
    fleet, rollout = await filled(storage)
    async with leading(storage, key) as first:
        await tools.eventually(lambda: first.epoch is not None)
        await tools.eventually(fleet.desired)
        await fleet.follow("bench-1")
        async with leading(storage, key) as second:
            async with storage.writing() as session:
                taken = update(LeaseRow).values(epoch=LeaseRow.epoch + 1, holder="nobody", expires_at_s=0.0)
                await session.execute(taken)

            async def ended() -> bool:
                await fleet.follow()
                return (await detail_of(storage, rollout)).summary.state is RolloutState.COMPLETED

            await tools.eventually(ended, timeout_s=30)
            assert first.epoch is None or second.epoch is None
    assert_nothing_twice(await detail_of(storage, rollout), fleet)
    assert {device.active for device in fleet.devices.values()} == {NEW}


PROGRAM = """\
import asyncio, json, sys
from cloud.config import Settings
from cloud.serving import serve
asyncio.run(serve(Settings(**json.loads(sys.argv[1])), web=False, worker=True))
"""


@pytest.mark.slow
async def test_a_worker_killed_again_and_again_brings_the_rollout_to_its_end(
    sqlite_settings: Callable[..., Settings], key_file: Path, tools: Any
) -> None:
    settings = sqlite_settings(releases={"online_key_file": key_file}, worker=WORKER)
    storage = Storage(settings.database_url, settings.database)
    arguments = settings.model_dump_json(include={"data_dir", "releases", "worker"})
    fleet, rollout = await filled(storage)
    chance = random.Random(7)
    kills = 0

    async def epoch() -> int:
        async with storage.reading() as session:
            return int(await session.scalar(select(LeaseRow.epoch)) or 0)

    async def ended() -> bool:
        return (await detail_of(storage, rollout)).summary.state is RolloutState.COMPLETED

    while not await ended():
        before = await epoch()
        worker = subprocess.Popen([sys.executable, "-c", PROGRAM, arguments], stdout=subprocess.DEVNULL)
        try:
            await tools.eventually(lambda before=before: _grown(epoch, before), timeout_s=60)
            await asyncio.sleep(chance.uniform(0.0, 0.25) if kills < 6 else 1.0)
            await fleet.follow(*chance.sample(NAMES, 3))
            await asyncio.sleep(chance.uniform(0.0, 0.25))
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        kills += 1
        assert kills < 40
    await fleet.follow()
    assert_nothing_twice(await detail_of(storage, rollout), fleet)
    await storage.close()


async def _grown(epoch: Any, before: int) -> bool:
    return bool(await epoch() > before)
