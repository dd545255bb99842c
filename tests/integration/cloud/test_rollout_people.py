"""What a person may decide about a rollout under way: replace it, waive what was not observed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from cloud.storage.tables import (
    AuditRow,
    RolloutRow,
)
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from tests.fakes.fleet_reports import GOOD, NEW, OLD, add_release
from tests.fakes.rollout_floor import QUICK, TWO_WAVES, Floor, count, states

pytestmark = pytest.mark.anyio

NEWER = "sha256:" + "3" * 64
S, R = UpdateState, RolloutState


async def supersede(floor: Floor, **changes: Any) -> Any:
    return await floor.post("/v1/rollouts", {"counter": 3, "waves": TWO_WAVES, "thresholds": QUICK} | changes)


async def test_a_newer_rollout_takes_the_place_of_one_that_is_under_way_and_its_devices_follow_it(floor: Floor) -> None:
    await add_release(floor.cloud.storage, 3, NEWER)
    first = await floor.create()
    await floor.go()
    assert await floor.state(first) is R.SOAKING
    assert (await supersede(floor)).json()["code"] == "rollout_conflict"
    answer = await supersede(floor, supersede=True)
    assert answer.status_code == 201, answer.text
    second = answer.json()["summary"]["id"]
    old = await floor.get(first)
    assert old.summary.state is R.SUPERSEDED
    assert old.summary.reason == f"replaced by the rollout {second} of release 3"
    assert states(old) == {"bench-1": "confirmed", "bench-2": "superseded", "bench-3": "superseded"}
    assert (old.decisions[0].action, old.decisions[0].by) == ("supersede", "a operator")
    assert first in (await floor.get(second)).decisions[0].reason
    await floor.look()
    desired = await floor.fleet.desired()
    assert {told.rollout for told in desired.values()} == {second}
    assert {told.release for told in desired.values()} == {NEWER}
    assert await floor.state(first) is R.SUPERSEDED
    await floor.fleet.follow()
    assert {name: device.active for name, device in floor.fleet.devices.items()} == {
        "bench-1": NEWER,
        "bench-2": OLD,
        "bench-3": OLD,
    }
    assert (await floor.command(first, "resume")).json()["code"] == "wrong_state"
    assert (await floor.command(second, "abort")).status_code == 200
    await floor.go()
    # The bench device had confirmed the first model; the others had only downloaded it.
    assert {name: told.release for name, told in (await floor.fleet.desired()).items()} == {
        "bench-1": NEW,
        "bench-2": OLD,
        "bench-3": OLD,
    }


@pytest.mark.parametrize("told_by_the_second", [False, True])
async def test_a_device_in_the_middle_of_a_replaced_rollout_goes_back_to_what_it_ran_before_both(
    floor: Floor, told_by_the_second: bool
) -> None:
    await add_release(floor.cloud.storage, 3, NEWER)
    first = await floor.create(devices=["bench-1"], waves=[])
    await floor.look()
    told = (await floor.fleet.desired())["bench-1"]
    bench = floor.fleet.devices["bench-1"]
    await bench.report(
        active=NEW, previous=OLD, counter=2, state="unconfirmed", rollout=first, version=told.version, soak=GOOD
    )
    second = (await supersede(floor, devices=["bench-1"], waves=[], supersede=True)).json()["summary"]["id"]
    assert states(await floor.get(first)) == {"bench-1": "superseded"}
    if told_by_the_second:
        await floor.look()
    await floor.command(second, "abort")
    await floor.look()
    told = (await floor.fleet.desired())["bench-1"]
    assert (told.release, told.counter, told.rollout) == (OLD, 1, second)
    await floor.go()
    assert (bench.active, await floor.state(second)) == (OLD, R.ABORTED)


async def test_a_rollout_that_cannot_be_replaced_is_a_conflict_with_its_reason(floor: Floor) -> None:
    await add_release(floor.cloud.storage, 3, NEWER)
    await add_release(floor.cloud.storage, 4, "sha256:" + "4" * 64, accepted=None)
    first = await floor.create()
    await floor.go()
    for changes, words in (
        ({"devices": ["bench-2"], "waves": []}, "has told devices that this one does not have: bench-1, bench-3"),
        ({"counter": 2}, "brings the same model"),
        ({"counter": 4}, "has no accepted evaluation, and beyond its first wave"),
    ):
        refused = await supersede(floor, supersede=True, **changes)
        assert (refused.status_code, refused.json()["code"]) == (409, "rollout_conflict")
        assert words in refused.json()["detail"]
    await floor.command(first, "abort")
    refused = await supersede(floor, supersede=True)
    assert "takes its devices back" in refused.json()["detail"]
    assert await count(floor, RolloutRow) == 1
    assert await floor.state(first) is R.ABORTING


async def test_missing_observations_are_waived_on_record_and_the_rollout_goes_on(floor: Floor, tools: Any) -> None:
    rollout = await floor.create()
    await floor.look()
    told = (await floor.fleet.desired())["bench-1"]
    few = GOOD.model_copy(update={"fields": 3})
    await floor.fleet.devices["bench-1"].report(
        active=NEW, previous=OLD, counter=2, state="confirmed", rollout=rollout, version=told.version, soak=few
    )
    await floor.look()
    floor.clock.pass_s(601)
    await floor.look()
    found = await floor.get(rollout)
    assert (found.summary.state, "too few fields" in found.summary.reason) == (R.PAUSED, True)
    missing = await floor.command(rollout, "waive", "  ")
    assert (missing.status_code, missing.json()["code"]) == (422, "reason_missing")
    viewer = tools.bearer(await floor.cloud.token("viewer"))
    assert (await floor.post(f"/v1/rollouts/{rollout}/waive", {"reason": "x"}, viewer)).status_code == 403

    waived = await floor.command(rollout, "waive", "a quiet night, seen by the chief")
    assert waived.status_code == 200, waived.text
    assert waived.json()["summary"]["state"] == "running"
    decisions = {row.action: row for row in (await floor.get(rollout)).decisions}
    assert decisions["waive"].by == "a operator"
    assert decisions["waive"].reason.startswith("wave 0, fields, disagreement")
    assert decisions["waive"].reason.endswith(": a quiet night, seen by the chief")
    assert {gate.name: gate.passed for gate in decisions["waive"].gates}["fields"] is False
    again = await floor.command(rollout, "waive", "once more")
    assert (again.status_code, again.json()["code"]) == (409, "not_waivable")
    await floor.look()
    assert await floor.state(rollout) is R.SOAKING
    await floor.go(61)
    found = await floor.get(rollout)
    assert (found.summary.wave, found.summary.state) == (1, R.SOAKING)
    async with floor.cloud.storage.reading() as session:
        assert await session.scalar(select(func.count()).where(AuditRow.action == "rollout.waive")) == 1
        assert await session.scalar(select(RolloutRow.waived_wave)) == 0


async def test_what_failed_is_not_decided_or_lacks_the_releases_evaluation_is_not_waived(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.look()
    refused = await floor.command(rollout, "waive", "it will do")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_waivable")
    assert "not decided yet" in refused.json()["detail"]
    await floor.command(rollout, "abort")
    await floor.go()
    assert (await floor.command(rollout, "waive", "it will do")).json()["code"] == "wrong_state"

    await add_release(floor.cloud.storage, 3, NEWER, accepted=None)
    unproven = await floor.create(counter=3)
    await floor.go()
    told = (await floor.fleet.desired())["bench-1"]
    await floor.fleet.devices["bench-1"].report(rollout=unproven, version=told.version, soak=GOOD)
    await floor.look()
    await floor.go(61)
    assert await floor.state(unproven) is R.PAUSED
    refused = await floor.command(unproven, "waive", "we trust it")
    assert "no observations are lacking" in refused.json()["detail"]
    assert await floor.state(unproven) is R.PAUSED
