"""What a rollout must not do by the back door: spread without evidence, pass unseen, lose what is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from cloud.auth.principals import Principal, Role
from cloud.auth.tokens import SYSTEM
from cloud.releases.store import save_trust
from cloud.rollouts import service
from cloud.storage.tables import AuditRow, DeviceRow, RolloutRow
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from tests.fakes.fleet_reports import GOOD, NEW, OLD, SITE, add_release, digest_of
from tests.fakes.releases import ReleaseDesk
from tests.fakes.rollout_floor import Floor

pytestmark = pytest.mark.anyio

NEWER = digest_of("newer")
R = RolloutState
BY = Principal(id=SYSTEM.id, role=Role.OPERATOR, site_id=SITE, name="an operator")
ALL_AT_ONCE = [{"percent": 100}]
FEW = GOOD.model_copy(update={"fields": 3})


async def confirm(floor: Floor, rollout: str, device: str, soak: Any) -> None:
    """A device reports the release as its own, after so many fields."""
    told = (await floor.fleet.desired())[device]
    await floor.fleet.devices[device].report(
        active=NEW, previous=OLD, counter=2, state="confirmed", rollout=rollout, version=told.version, soak=soak
    )


async def test_a_model_without_evidence_stays_on_its_bench_under_every_counter(floor: Floor) -> None:
    for counter in (3, 4):
        await add_release(floor.cloud.storage, counter, NEWER, accepted=None)
    rollout = await floor.create(counter=3, devices=["bench-1"], waves=[])
    body = {"counter": 4, "devices": ["bench-2"]}
    refused = await floor.post("/v1/rollouts", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_evidence")
    assert "bench-1 was offered its model" in refused.json()["detail"]
    await floor.go()
    await floor.command(rollout, "abort")
    await floor.go()
    assert (await floor.post("/v1/rollouts", body)).json()["code"] == "no_evidence"
    await floor.create(counter=4, devices=["bench-1"], waves=[])


async def test_of_two_counters_of_a_model_without_evidence_that_start_at_once_one_is_refused(floor: Floor) -> None:
    for counter in (3, 4):
        await add_release(floor.cloud.storage, counter, NEWER, accepted=None)
    bodies = [{"counter": 3, "devices": ["bench-1"]}, {"counter": 4, "devices": ["bench-2"]}]
    answers = await asyncio.gather(*(floor.post("/v1/rollouts", body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201, 409]


async def test_what_was_released_with_evidence_before_does_not_keep_its_model_from_a_bench(floor: Floor) -> None:
    await add_release(floor.cloud.storage, 3, NEW, accepted=None)
    await floor.create(counter=2, devices=["bench-1"], waves=[])
    await floor.go()
    await floor.create(counter=3, devices=["bench-2"], waves=[])


async def test_a_straggler_that_comes_back_after_the_waiver_owes_its_own_fields(floor: Floor) -> None:
    await floor.fleet.devices["bench-2"].leave()
    rollout = await floor.create(devices=["bench-1", "bench-2"], waves=ALL_AT_ONCE)
    await floor.look()
    await confirm(floor, rollout, "bench-1", FEW)
    await floor.look()
    floor.clock.pass_s(3601)
    await floor.look()
    assert await floor.state(rollout) is R.PAUSED
    assert (await floor.command(rollout, "waive", "a quiet night")).status_code == 200
    assert not [member for member in (await floor.get(rollout)).members if member.straggler]
    floor.clock.pass_s(-3601)  # people's time is the real one

    await floor.fleet.devices["bench-2"].connect()
    await floor.look()
    await confirm(floor, rollout, "bench-2", None)
    await floor.look()
    assert await floor.state(rollout) is R.RUNNING
    floor.clock.pass_s(3000)
    await floor.look()
    found = await floor.get(rollout)
    assert (found.summary.state, "too few fields" in found.summary.reason) == (R.PAUSED, True)

    again = await floor.command(rollout, "waive", "the other one, too")
    assert again.status_code == 200, again.text
    await floor.look()
    assert await floor.state(rollout) is R.SOAKING
    async with floor.cloud.storage.reading() as session:
        trail = await session.scalars(select(AuditRow.after).where(AuditRow.action == "rollout.waive"))
        assert [row["devices"] for row in trail] == [["bench-1"], ["bench-1", "bench-2"]]


async def test_a_waiver_that_names_no_device_holds_for_none(floor: Floor) -> None:
    """As those from before the names were kept."""
    rollout = await floor.create(devices=["bench-1"], waves=[])
    await floor.look()
    await confirm(floor, rollout, "bench-1", FEW)
    async with floor.cloud.storage.writing() as session:
        await session.execute(update(RolloutRow).values(waived_wave=0))
    await floor.look()
    assert await floor.state(rollout) is R.RUNNING
    assert (await floor.command(rollout, "waive", "a quiet night")).status_code == 200
    await floor.look()
    assert await floor.state(rollout) is R.SOAKING


async def test_a_release_that_a_straggler_is_still_to_get_is_needed_until_it_is_revoked(floor: Floor) -> None:
    await floor.cloud.device("ward-9", SITE)  # it has never been there, so that it is told nothing
    first = await floor.create(devices=["bench-1", "ward-9"], waves=ALL_AT_ONCE)
    await floor.go()
    await floor.go(3601)
    await floor.go(61)
    assert await floor.state(first) is R.COMPLETED
    await add_release(floor.cloud.storage, 3, NEWER)
    second = await floor.create(counter=3, devices=["bench-1"], waves=[], thresholds={"soak_s": 1, "min_fields": 1})
    await floor.go()
    await floor.fleet.devices["bench-1"].report(soak=GOOD, previous=OLD)
    await floor.go()
    await floor.go(61)
    assert await floor.state(second) is R.COMPLETED

    async def needed() -> list[int]:
        answer = await floor.cloud.http.get("/v1/releases/needed", headers=floor.headers)
        return list(answer.json()["counters"])

    assert await needed() == [1, 2, 3]
    async with floor.cloud.storage.writing() as session:
        gone = update(DeviceRow).where(DeviceRow.device == "ward-9").values(revoked_at=floor.clock.now)
        await session.execute(gone)
    assert await needed() == [1, 3]


async def test_a_straggler_is_not_offered_a_release_that_was_left_out(floor: Floor, tmp_path: Path) -> None:
    straggler = floor.fleet.devices["bench-3"]
    await straggler.leave()
    rollout = await floor.create(devices=["bench-1", "bench-3"], waves=ALL_AT_ONCE)
    await floor.go()
    await floor.go(3601)
    await floor.go(61)
    assert await floor.state(rollout) is R.COMPLETED
    async with floor.cloud.storage.writing() as session:
        trust = ReleaseDesk(tmp_path / "others").trust  # its list has none of these releases
        await save_trust(session, None, trust, by=SYSTEM.id, now=floor.clock.now)
    await straggler.connect()
    await floor.go()
    assert (await floor.fleet.desired())["bench-3"].activation == "download"
    assert straggler.active == OLD
    assert await floor.look() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_rollback_takes_its_devices_before_its_rollout_as_a_replacing_rollout_does(floor: Floor) -> None:
    rollout = await floor.create(devices=["bench-1"], waves=[])
    await floor.go()
    await floor.go(61)
    assert await floor.state(rollout) is R.COMPLETED
    storage = floor.cloud.storage

    async def roll_back() -> None:
        async with storage.writing() as session:
            await service.roll_back(session, BY, rollout, "", now=floor.clock.now)

    async with storage.writing() as session:
        own = select(DeviceRow.device).where(DeviceRow.device == "bench-1")
        await session.execute(own.with_for_update(key_share=True))
        behind = asyncio.create_task(roll_back())
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(60):
            while True:
                async with storage.reading() as other:
                    if await other.scalar(waiting):
                        break
                await asyncio.sleep(0.05)
        free = select(RolloutRow.id).where(RolloutRow.id == rollout).with_for_update(skip_locked=True)
        assert await session.scalar(free) == rollout
    await behind
    assert await floor.state(rollout) is R.ABORTING
    assert UpdateState((await floor.get(rollout)).members[0].state) is UpdateState.CONFIRMED
