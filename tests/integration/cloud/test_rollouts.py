"""Rollouts from REST to the devices' reports, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import update

from cloud.storage.tables import (
    AuditRow,
    RolloutRow,
)
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from tests.fakes.fleet_reports import GOOD, NEW, OLD, add_release
from tests.fakes.rollout_floor import TWO_WAVES, Floor, count, states

pytestmark = pytest.mark.anyio

NEWER = "sha256:" + "3" * 64
S, R = UpdateState, RolloutState


async def test_a_release_goes_from_wave_to_wave_and_every_decision_is_on_record(floor: Floor) -> None:
    rollout = await floor.create()
    assert await floor.state(rollout) is R.APPROVED

    await floor.look()
    desired = await floor.fleet.desired()
    assert desired["bench-1"].activation == "activate"
    assert {desired[name].activation for name in ("bench-2", "bench-3")} == {"download"}
    assert {told.release for told in desired.values()} == {NEW}
    assert {told.rollout for told in desired.values()} == {rollout}

    await floor.fleet.follow()
    await floor.look()
    found = await floor.get(rollout)
    assert found.summary.state is R.SOAKING
    assert states(found) == {"bench-1": "confirmed", "bench-2": "verified", "bench-3": "verified"}
    assert {gate.name: gate.passed for gate in found.gates}["soak"] is False

    await floor.go(61)
    assert await floor.state(rollout) is R.SOAKING
    await floor.go(61)
    found = await floor.get(rollout)
    assert found.summary.state is R.COMPLETED
    assert found.summary.confirmed == 3
    assert {device.active for device in floor.fleet.devices.values()} == {NEW}
    assert await floor.actions(rollout) == [
        *("approve", "open_wave", "offer_activation", "offer_download", "soak"),
        *("open_wave", "offer_activation", "soak", "complete"),
    ]
    passed = next(row for row in found.decisions if row.action == "open_wave")
    assert all(gate.passed for gate in passed.gates)
    assert {row.by for row in found.decisions} == {"a operator", "controller"}
    assert await floor.look() == 0


async def test_a_bad_model_stops_in_the_first_wave_and_the_devices_stay_on_the_old_one(floor: Floor) -> None:
    floor.fleet.devices["bench-1"].fails = "E_SELFTEST"
    rollout = await floor.create()
    await floor.go()
    found = await floor.get(rollout)
    assert found.summary.state is R.ABORTING
    assert found.summary.reason == "wave 0: bench-1 E_SELFTEST"
    await floor.go()
    found = await floor.get(rollout)
    assert found.summary.state is R.ABORTED
    assert found.summary.reason == "wave 0: bench-1 E_SELFTEST"
    assert states(found) == {"bench-1": "failed", "bench-2": "cancelled", "bench-3": "cancelled"}
    assert {device.active for device in floor.fleet.devices.values()} == {OLD}
    assert {told.release for told in (await floor.fleet.desired()).values()} == {OLD}
    stop = next(row for row in found.decisions if row.action == "abort")
    assert not {gate.name: gate.passed for gate in stop.gates}["bad"]
    assert await count(floor, AuditRow, AuditRow.action == "rollout.abort") == 1


async def test_live_fields_that_disagree_take_the_model_back(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.look()
    told = (await floor.fleet.desired())["bench-1"]
    bench = floor.fleet.devices["bench-1"]
    worse = GOOD.model_copy(update={"disagreement_ratio": 0.6})
    await bench.report(active=NEW, counter=2, state="unconfirmed", rollout=rollout, version=told.version, soak=worse)
    await floor.go()
    assert (await floor.get(rollout)).summary.reason == "wave 0: disagreement 60% of white cells named differently"
    await floor.go()
    assert await floor.state(rollout) is R.ABORTED
    assert bench.active == OLD


async def test_a_release_without_accepted_evidence_never_leaves_the_first_wave(floor: Floor) -> None:
    await add_release(floor.cloud.storage, 3, NEW, accepted=None)
    refused = await floor.post("/v1/rollouts", {"counter": 3, "waves": [{"percent": 100}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_evidence")

    rollout = await floor.create(counter=3)
    await floor.go()
    await floor.go(61)
    found = await floor.get(rollout)
    assert found.summary.state is R.PAUSED
    assert found.summary.reason.startswith("auto: the release has no accepted evaluation")
    assert set(await floor.fleet.desired()) == {"bench-1"}
    assert (await floor.command(rollout, "resume")).status_code == 200
    await floor.go(100)
    assert await floor.state(rollout) is R.PAUSED
    assert set(await floor.fleet.desired()) == {"bench-1"}


async def test_several_rollouts_do_not_bring_a_release_without_evidence_to_several_devices(floor: Floor) -> None:
    await add_release(floor.cloud.storage, 3, NEWER, accepted=None)
    rollout = await floor.create(counter=3, devices=["bench-1"], waves=[])
    body = {"counter": 3, "devices": ["bench-2"]}
    refused = await floor.post("/v1/rollouts", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_evidence")
    await floor.go()
    await floor.command(rollout, "abort")
    await floor.go()
    refused = await floor.post("/v1/rollouts", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_evidence")
    await floor.create(counter=3, devices=["bench-1"], waves=[])


async def test_the_evaluation_of_a_bundle_that_was_not_checked_counts_as_none(floor: Floor) -> None:
    await add_release(floor.cloud.storage, 3, NEWER, accepted=True, checked=False)
    refused = await floor.post("/v1/rollouts", {"counter": 3, "waves": [{"percent": 100}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_evidence")
    rollout = await floor.create(counter=3)
    await floor.look()
    assert set(await floor.fleet.desired()) == {"bench-1"}
    gates = {gate.name: gate.passed for gate in (await floor.get(rollout)).gates}
    assert gates["evidence"] is False


async def test_a_device_that_is_away_is_a_straggler_and_gets_the_release_on_its_return(floor: Floor) -> None:
    await floor.fleet.devices["bench-3"].leave()
    rollout = await floor.create()
    await floor.go()
    await floor.go(61)
    await floor.go(3601)
    await floor.go(61)
    found = await floor.get(rollout)
    assert found.summary.state is R.COMPLETED
    assert [member.device for member in found.members if member.straggler] == ["bench-3"]

    await floor.fleet.devices["bench-3"].connect()
    await floor.go()
    assert floor.fleet.devices["bench-3"].active == NEW
    assert (await floor.get(rollout)).summary.confirmed == 3
    assert await floor.look() == 0


async def test_a_silent_bench_pauses_the_rollout_and_a_person_goes_on_or_gives_up(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.look()
    floor.clock.pass_s(601)
    await floor.look()
    found = await floor.get(rollout)
    assert found.summary.state is R.PAUSED
    assert found.summary.reason == "auto: wave 0: insufficient evidence: bench-1 is online and idle"

    assert (await floor.command(rollout, "resume", "switched the lamp on")).json()["summary"]["state"] == "running"
    floor.clock.pass_s(-601)  # people's time is the real one
    await floor.look()
    assert await floor.state(rollout) is R.RUNNING
    assert (await floor.command(rollout, "abort", "not today")).json()["summary"]["reason"] == "manual: not today"
    await floor.go()
    assert await floor.state(rollout) is R.ABORTED
    assert (await floor.command(rollout, "abort")).status_code == 200
    assert (await floor.command(rollout, "resume")).status_code == 409


async def test_a_pause_offers_nothing_and_a_resume_goes_on_where_it_was(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.go()
    paused = await floor.command(rollout, "pause", "lunch")
    assert (paused.json()["summary"]["state"], paused.json()["summary"]["reason"]) == ("paused", "manual: lunch")
    await floor.go(1000)
    assert await floor.state(rollout) is R.PAUSED
    assert (await floor.fleet.desired())["bench-2"].activation == "download"
    assert (await floor.command(rollout, "resume")).json()["summary"]["state"] == "soaking"
    await floor.go()
    assert floor.fleet.devices["bench-2"].active == NEW


async def test_a_completed_rollout_is_rolled_back_and_not_when_a_later_one_has_been_there(floor: Floor) -> None:
    first = await floor.create()
    for _ in range(4):
        await floor.go(61)
    assert await floor.state(first) is R.COMPLETED
    assert (await floor.command(first, "abort")).json()["code"] == "wrong_state"
    assert (await floor.command(first, "rollback", "second thoughts")).json()["summary"]["state"] == "aborting"
    await floor.go()
    assert await floor.state(first) is R.ABORTED
    assert {device.active for device in floor.fleet.devices.values()} == {OLD}

    second, third = await floor.create(), ""
    for _ in range(4):
        await floor.go(61)
    await add_release(floor.cloud.storage, 3, "sha256:" + "3" * 64)
    third = await floor.create(counter=3)
    refused = await floor.command(second, "rollback")
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout_conflict")
    await floor.go()
    assert (await floor.command(third, "abort")).status_code == 200
    await floor.go()
    assert await floor.state(third) is R.ABORTED
    assert {device.active for device in floor.fleet.devices.values()} == {NEW}


async def test_two_rollouts_in_a_row_are_not_rolled_back_since_no_device_keeps_so_old_a_model(floor: Floor) -> None:
    first = await floor.create()
    for _ in range(4):
        await floor.go(61)
    await add_release(floor.cloud.storage, 3, NEWER)
    second = await floor.create(counter=3, waves=[{"percent": 100}])
    await floor.look()
    for name, told in (await floor.fleet.desired()).items():
        device = floor.fleet.devices[name]
        device.previous, device.soak = device.active, GOOD
        await device.report(active=NEWER, counter=3, state="confirmed", rollout=second, version=told.version)
    for _ in range(2):
        await floor.go(61)
    assert await floor.state(second) is R.COMPLETED
    refused = await floor.command(first, "rollback")
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout_superseded")
    assert "release it again under a new counter" in refused.json()["hint"]
    assert (await floor.command(second, "rollback")).status_code == 200
    await floor.go()
    assert await floor.state(second) is R.ABORTED
    assert {device.active for device in floor.fleet.devices.values()} == {NEW}
    refused = await floor.command(first, "rollback")
    assert (refused.status_code, refused.json()["code"]) == (409, "cannot_return")
    assert "release it again under a new counter" in refused.json()["hint"]


async def test_a_rollback_is_refused_when_a_device_does_not_say_what_it_has_kept(floor: Floor) -> None:
    rollout = await floor.create()
    for _ in range(4):
        await floor.go(61)
    await floor.fleet.devices["bench-2"].report(previous=None)
    refused = await floor.command(rollout, "rollback")
    assert (refused.status_code, refused.json()["code"]) == (409, "cannot_return")
    assert "bench-2" in refused.json()["detail"]
    assert await floor.state(rollout) is R.COMPLETED


async def test_a_device_that_runs_the_release_already_or_takes_it_up_again_needs_no_new_soak(floor: Floor) -> None:
    bench = floor.fleet.devices["bench-2"]
    await bench.report(active=NEW, counter=2)
    in_place = await floor.create(devices=["bench-2"], waves=[])
    await floor.go()
    await floor.go(61)
    assert await floor.state(in_place) is R.COMPLETED

    first = await floor.create(devices=["bench-1"], waves=[])
    for _ in range(2):
        await floor.go(61)
    await floor.command(first, "rollback")
    await floor.go()
    assert await floor.state(first) is R.ABORTED
    again = await floor.create(devices=["bench-1"], waves=[])
    await floor.look()
    told = (await floor.fleet.desired())["bench-1"]
    await floor.fleet.devices["bench-1"].report(
        active=NEW, previous=OLD, counter=2, state="confirmed", rollout=again, version=told.version, soak=None
    )
    await floor.look()
    await floor.go(61)
    assert await floor.state(again) is R.COMPLETED


async def test_a_device_that_owes_a_return_owes_it_to_the_next_rollout_too(floor: Floor) -> None:
    rollout = await floor.create(devices=["bench-1"], waves=[])
    await floor.go()
    bench = floor.fleet.devices["bench-1"]
    assert bench.active == NEW
    await bench.leave()
    await floor.command(rollout, "abort")
    await floor.go()
    await floor.go(3601)
    assert await floor.state(rollout) is R.ABORTED
    assert "offline, and told to go back: bench-1" in (await floor.get(rollout)).summary.reason
    await add_release(floor.cloud.storage, 3, NEWER)
    await bench.connect()
    later = await floor.create(counter=3, devices=["bench-1"], waves=[])
    await floor.look()
    await floor.command(later, "abort")
    await floor.go()
    assert bench.active == OLD
    assert await floor.state(later) is R.ABORTED


async def test_a_device_that_refuses_the_wish_itself_stops_the_rollout_with_its_code(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.look()
    floor.clock.pass_s(1)
    await floor.fleet.devices["bench-2"].report(state="rejected", code="E_SIG")
    await floor.look()
    found = await floor.get(rollout)
    assert (found.summary.state, found.summary.reason) == (R.ABORTING, "wave 1: bench-2 E_SIG")
    assert states(found)["bench-2"] == "rejected"


async def test_a_device_that_refuses_to_go_back_is_named_and_does_not_hold_up_the_end(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.go()
    await floor.command(rollout, "abort", "not today")
    await floor.look()
    told = (await floor.fleet.desired())["bench-1"]
    await floor.fleet.devices["bench-1"].report(state="rejected", code="E_ROLLBACK", version=told.version)
    await floor.fleet.follow()
    await floor.look()
    found = await floor.get(rollout)
    assert found.summary.state is R.ABORTED
    assert found.summary.reason == "manual: not today; the others are back; not back: bench-1 (E_ROLLBACK)"


async def test_an_abort_ends_though_a_device_stays_away_which_goes_back_when_it_returns(floor: Floor) -> None:
    rollout = await floor.create()
    await floor.go()
    bench = floor.fleet.devices["bench-1"]
    await bench.leave()
    await floor.command(rollout, "abort")
    await floor.go()
    assert await floor.state(rollout) is R.ABORTING
    await floor.go(3601)
    assert await floor.state(rollout) is R.ABORTED
    await bench.connect()
    await floor.fleet.follow()
    assert bench.active == OLD


async def test_a_device_belongs_to_one_rollout_at_a_time_and_the_refusal_names_it(floor: Floor) -> None:
    rollout = await floor.create()
    again = await floor.post("/v1/rollouts", {"counter": 2, "devices": ["bench-3"]})
    assert again.status_code == 409
    assert rollout in again.json()["detail"]
    assert "bench-3" in again.json()["detail"]


async def test_a_straggler_of_an_ended_rollout_belongs_to_the_next_one(floor: Floor) -> None:
    await floor.fleet.devices["bench-3"].leave()
    first = await floor.create()
    await floor.go()
    await floor.go(61)
    await floor.go(3601)
    await floor.go(61)
    assert await floor.state(first) is R.COMPLETED
    await add_release(floor.cloud.storage, 3, "sha256:" + "3" * 64)
    await floor.create(counter=3, devices=["bench-3"], waves=[])
    await floor.fleet.devices["bench-3"].connect()
    await floor.go()
    assert floor.fleet.devices["bench-3"].active == "sha256:" + "3" * 64
    assert states(await floor.get(first))["bench-3"] == "superseded"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"counter": 9}, 404, "no_release"),
        ({"devices": ["bench-1", "bench-9"]}, 422, "unknown_device"),
        ({"waves": [{"devices": ["bench-9"]}]}, 422, "unknown_device"),
        ({"waves": [{"percent": 50}]}, 422, "bad_waves"),
        ({"waves": [{"devices": ["bench-1"]}, {"devices": ["bench-1"]}]}, 422, "bad_waves"),
        ({"waves": [{}]}, 422, "invalid_request"),
        ({"thresholds": {"p_ok": "most"}}, 422, "invalid_request"),
        ({"thresholds": {"p_ok": 0}}, 422, "invalid_request"),
        ({"thresholds": {"p_eror": 0.1}}, 422, "invalid_request"),
        ({"thresholds": {"p_error": True}}, 422, "invalid_request"),
        ({"thresholds": {"soak_s": "60"}}, 422, "invalid_request"),
        ({"thresholds": None}, 422, "invalid_request"),
        ({"treshholds": {}}, 422, "invalid_request"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_nothing_is_kept(
    floor: Floor, changes: dict[str, Any], status: int, code: str
) -> None:
    answer = await floor.post("/v1/rollouts", {"counter": 2, "waves": TWO_WAVES} | changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert await count(floor, RolloutRow) == 0


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_threshold_that_is_no_number_is_refused(floor: Floor, value: str) -> None:
    headers = floor.headers | {"content-type": "application/json"}
    for name in ("p_ok", "p_error", "soak_s", "max_disagreement", "wave_deadline_s", "min_fields", "max_latency_ratio"):
        body = json.dumps({"counter": 2, "thresholds": {}}).replace("{}", f'{{"{name}": {value}}}')
        answer = await floor.cloud.http.post("/v1/rollouts", content=body, headers=headers)
        assert answer.status_code == 422, (name, answer.text)
    assert await count(floor, RolloutRow) == 0


async def test_without_the_online_key_no_rollout_is_started(sqlite_app: Any, tools: Any) -> None:
    headers = tools.bearer(await sqlite_app.token())
    answer = await sqlite_app.http.post("/v1/rollouts", json={"counter": 2}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "releases_off")


async def test_only_who_may_starts_or_stops_and_another_site_sees_nothing(floor: Floor, tools: Any) -> None:
    rollout = await floor.create()
    viewer = tools.bearer(await floor.cloud.token("viewer"))
    stranger = tools.bearer(await floor.cloud.token("operator", site="lab-b"))
    assert (await floor.post("/v1/rollouts", {"counter": 2}, viewer)).status_code == 403
    for name in ("pause", "resume", "abort", "rollback"):
        assert (await floor.post(f"/v1/rollouts/{rollout}/{name}", None, viewer)).status_code == 403
        assert (await floor.post(f"/v1/rollouts/{rollout}/{name}", None, stranger)).status_code == 404
    assert (await floor.cloud.http.get(f"/v1/rollouts/{rollout}", headers=viewer)).status_code == 200
    assert (await floor.cloud.http.get(f"/v1/rollouts/{rollout}", headers=stranger)).status_code == 404
    page = await floor.cloud.http.get("/v1/rollouts", headers=stranger)
    assert page.json()["items"] == []
    page = await floor.cloud.http.get("/v1/rollouts", headers=viewer)
    assert [item["id"] for item in page.json()["items"]] == [rollout]


async def test_stored_thresholds_that_cannot_be_read_open_nothing(floor: Floor) -> None:
    rollout = await floor.create()
    async with floor.cloud.storage.writing() as session:
        await session.execute(update(RolloutRow).values(thresholds={"p_ok": "lost"}))
    await floor.go()
    found = await floor.get(rollout)
    assert (found.summary.state, found.summary.reason) == (R.PAUSED, "auto: the thresholds cannot be read")
    assert await floor.fleet.desired() == {}
