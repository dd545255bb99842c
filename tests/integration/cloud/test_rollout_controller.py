"""The controller: killed, deposed, one broken rollout, a wave of many, its figures."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from cloud.errors import LeaseLost
from cloud.rollouts.figures import RolloutFigures, read_rollout_figures
from cloud.storage.leases import Held
from cloud.storage.tables import (
    DesiredRow,
    LeaseRow,
    RolloutMemberRow,
    RolloutRow,
)
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from tests.fakes.fleet_reports import NEW, OLD
from tests.fakes.rollout_floor import Floor, Killed, count

pytestmark = pytest.mark.anyio

NEWER = "sha256:" + "3" * 64
S, R = UpdateState, RolloutState


async def test_a_controller_killed_between_any_two_steps_is_followed_by_one_that_tells_nobody_twice(
    floor: Floor,
) -> None:
    rollout = await floor.create(waves=[{"percent": 100}])
    for calls in range(3):
        with pytest.raises(Killed):
            await floor.new_controller(floor.dying_after(calls)).look(floor.held)
        assert await floor.fleet.desired() == {}
    for _ in range(3):
        await floor.new_controller().look(floor.held)
    assert {told.version for told in (await floor.fleet.desired()).values()} == {1}

    await floor.fleet.follow("bench-1")
    await floor.new_controller().look(floor.held)
    await floor.command(rollout, "abort")
    for calls in range(3):
        with pytest.raises(Killed):
            await floor.new_controller(floor.dying_after(calls)).look(floor.held)
    await floor.new_controller().look(floor.held)
    await floor.fleet.follow()
    await floor.new_controller().look(floor.held)
    assert await floor.state(rollout) is R.ABORTED
    assert {told.version for told in (await floor.fleet.desired()).values()} == {2}
    assert [order[0] for order in floor.fleet.devices["bench-1"].orders] == [1, 2]
    actions = await floor.actions(rollout)
    assert sorted(actions) == sorted(["approve", "open_wave", "offer_activation", "abort", "return", "returned"])


async def test_a_deposed_leaders_late_step_is_not_kept(floor: Floor) -> None:
    rollout = await floor.create()
    async with floor.cloud.storage.writing() as session:
        await session.execute(update(LeaseRow).values(epoch=LeaseRow.epoch + 1, holder="another"))
    with pytest.raises(LeaseLost):
        await floor.look()
    assert await floor.state(rollout) is R.APPROVED
    assert await floor.fleet.desired() == {}

    successor = Held(floor.held.name, "another", floor.held.epoch + 1)
    await floor.new_controller().look(successor)
    before = await floor.fleet.desired()
    assert before["bench-1"].release == NEW
    await floor.command(rollout, "abort")
    with pytest.raises(LeaseLost):
        await floor.look()
    assert await floor.fleet.desired() == before
    async with floor.cloud.storage.reading() as session:
        assert (await session.scalars(select(RolloutRow.epoch))).all() == [successor.epoch]


async def test_a_leader_that_loses_the_lease_in_the_middle_of_its_step_keeps_none_of_it(floor: Floor) -> None:
    """The step has begun, and another takes over before it is committed: on PostgreSQL that one waits for the end."""
    await floor.create()
    newer = Held(floor.held.name, floor.held.holder, floor.held.epoch)
    async with floor.cloud.storage.writing() as session:
        await session.execute(update(RolloutRow).values(epoch=newer.epoch + 5))
    with pytest.raises(LeaseLost):
        await floor.look()
    assert await floor.fleet.desired() == {}


async def test_one_rollout_that_cannot_be_carried_on_does_not_hold_up_the_others(floor: Floor) -> None:
    broken = await floor.create(devices=["bench-1"], waves=[])
    sound = await floor.create(devices=["bench-2", "bench-3"], waves=[])

    async def refusing(session: Any, **told: Any) -> int:
        if told["device"] == "bench-1":
            raise RuntimeError("no key")
        version: int = await floor.set_desired(session, **told)
        return version

    controller = floor.new_controller(refusing)
    await controller.look(floor.held)
    assert set(await floor.fleet.desired()) == {"bench-2", "bench-3"}
    assert await floor.state(sound) is R.RUNNING
    assert await count(floor, RolloutMemberRow, RolloutMemberRow.desired_version.is_not(None)) == 2
    assert (await floor.get(broken)).members[0].offered is False


async def test_a_large_wave_is_told_in_several_steps(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.rollouts.controller.DEVICES_A_STEP", 2)
    rollout = await floor.create(waves=[{"percent": 100}])
    await floor.look()
    assert len(await floor.fleet.desired()) == 3
    offers = [row for row in (await floor.get(rollout)).decisions if row.action == "offer_activation"]
    assert len(offers) == 2
    assert await count(floor, DesiredRow, DesiredRow.version == 1) == 3


async def test_the_figures_tell_of_stops_and_of_standing_still(floor: Floor) -> None:
    async def figures() -> RolloutFigures:
        async with floor.cloud.storage.reading() as session:
            return await read_rollout_figures(session, now=floor.clock.now)

    before = await figures()
    assert (set(before.states.values()), before.stops, before.still_s) == ({0}, {"abort": 0, "pause": 0}, 0.0)
    floor.clock.pass_s(10)
    rollout = await floor.create()
    await floor.go()
    assert (await figures()).states["soaking"] == 1
    floor.clock.pass_s(60)
    assert (await figures()).still_s == 0.0
    floor.clock.pass_s(600)
    assert (await figures()).still_s == pytest.approx(600, abs=1)
    await floor.command(rollout, "pause")
    assert ((await figures()).still_s, (await figures()).stops["pause"]) == (0.0, 0)
    await floor.command(rollout, "resume")
    await floor.fleet.devices["bench-1"].report(active=OLD, state="rolled_back", code="E_QUALITY")
    await floor.go()
    assert (await figures()).stops == {"abort": 1, "pause": 0}
