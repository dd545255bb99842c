"""A release on its way to two real agents: sent once for both, and carried on by whoever was killed in the middle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fleet.client.errors import ClientError
from fleet.contract.http import RolloutCreate, RolloutDetail
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState, Thresholds, WavePlan
from fleet.local.broker import CLOUD_USER
from fleet.local.system import LocalSystem, run_module
from models.bundle import Bundle, read_bundle, write_bundle
from tests.fakes.evaluations import evidence_bytes

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto, pytest.mark.timeout(600)]

DEVICES = ("bench-1", "bench-2")
WAIT_S = 180.0
NEW_BYTES = 1_500_000
"""Of the release, that no device has: enough for the rest of the traffic not to matter."""
ENDED = (RolloutState.COMPLETED, RolloutState.ABORTED, RolloutState.PAUSED)


def wait_until(what: Callable[[], bool], *, why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s in vain: {why}"
        time.sleep(0.1)


@contextmanager
def bytes_published(system: LocalSystem) -> Iterator[Callable[[], int]]:
    """The broker's own count of the PUBLISH bytes it has received."""
    newest: list[int] = []
    there = threading.Event()

    def on_message(_client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        newest.append(int(message.payload))
        there.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="counter", protocol=mqtt.MQTTv5)
    client.username_pw_set(CLOUD_USER, system.cloud_password)
    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("$SYS/broker/publish/bytes/received")
    client.connect(system.broker.host, system.broker.port)
    client.loop_start()

    def count() -> int:
        there.clear()
        assert there.wait(WAIT_S), "the broker tells its figures"
        return newest[-1]

    try:
        yield count
    finally:
        client.disconnect()
        client.loop_stop()


def live(seed: int) -> dict[str, dict[str, object]]:
    return {
        "source": {"spec": "sim", "fields_per_s": 3.0, "simulated": {"seed": seed}},
        "sampling": {"per_hour": 0, "audit_ratio": 0.0},
        "slide": {"name": "rollout", "target_white_cells": 10_000},
        "inference": {"threads": 1},
        "update": {
            "soak_fields": 4,
            "soak_s": 0.5,
            "max_latency_ratio": 100.0,  # a loaded machine is no slow model
            "wait_for_slide_s": 0.0,
            "need_first_s": 2.0,
        },
    }


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    with LocalSystem(tmp_path / "system", cloud_settings={"worker": {"lease_s": 3.0}}) as system:
        system.start_cloud()
        for number, device in enumerate(DEVICES):
            system.add_agent(device, live(21 + number))
        system.start_broker()
        for agent in system.agents.values():
            system.start_agent(agent)
        wait_until(
            lambda: set(running(system)) == {read_bundle(system.edge_bundle).digest}, why="both report release 1"
        )
        yield system


def heavier_bundle(system: LocalSystem) -> Bundle:
    """The shipped bundle with one large file more: the same answers, another digest, much that is new."""
    old = read_bundle(system.edge_bundle)
    fields = old.manifest.model_dump(mode="json", by_alias=True)
    fields = {key: value for key, value in fields.items() if key not in ("schema", "files")} | {"version": "1.0.1"}
    ballast = np.random.default_rng(3).bytes(NEW_BYTES)
    return write_bundle(system.folder / "heavier", fields, {**old.files, "golden/ballast.bin": ballast})


def release(system: LocalSystem) -> str:
    """Signs and uploads it; its digest."""
    bundle = heavier_bundle(system)
    champion = read_bundle(system.edge_bundle).digest
    evidence = system.folder / "evidence.json"
    evidence.write_bytes(evidence_bytes(bundle.digest, champion))
    run_module(
        *("fleet", "release", "create", "--bundle", str(bundle.path), "--keys", str(system.keys)),
        *("--evidence", str(evidence), *system.cloud_options()),
    )
    return bundle.digest


def start_rollout(system: LocalSystem) -> str:
    thresholds = Thresholds(
        soak_s=1.0, step_deadline_s=120.0, wave_deadline_s=150.0, min_fields=4, max_latency_ratio=100.0
    )
    waves = (WavePlan(devices=DEVICES[:1]), WavePlan(percent=100.0))
    with system.client() as client:
        return client.create_rollout(
            RolloutCreate(counter=2, devices=DEVICES, waves=waves, thresholds=thresholds)
        ).summary.id


def rollout(system: LocalSystem, rollout_id: str) -> RolloutDetail | None:
    """None while the cloud is away."""
    try:
        with system.client() as client:
            return client.get_rollout(rollout_id)
    except ClientError:
        return None


def member_state(system: LocalSystem, rollout_id: str, device: str) -> UpdateState:
    detail = rollout(system, rollout_id)
    members = detail.members if detail else ()
    return next((member.state for member in members if member.device == device), UpdateState.UNKNOWN)


def running(system: LocalSystem) -> list[str | None]:
    return [system.running_digest(agent) for agent in system.agents.values()]


def test_two_agents_get_a_release_of_which_the_publisher_sends_each_byte_about_once(system: LocalSystem) -> None:
    digest = release(system)
    with bytes_published(system) as count:
        before = count()
        rollout_id = start_rollout(system)
        wait_until(lambda: (r := rollout(system, rollout_id)) is not None and r.summary.state in ENDED, why="it ends")
        sent = count() - before
    detail = rollout(system, rollout_id)
    assert detail is not None
    assert detail.summary.state is RolloutState.COMPLETED, detail.summary.reason
    assert running(system) == [digest, digest]
    assert NEW_BYTES <= sent <= 1.2 * NEW_BYTES, f"{sent} bytes for {NEW_BYTES} new ones and two devices"


def test_a_worker_killed_in_a_wave_and_a_device_killed_after_the_delivery_cost_nothing(system: LocalSystem) -> None:
    digest = release(system)
    rollout_id = start_rollout(system)
    busy = (UpdateState.DOWNLOADING, UpdateState.VERIFIED, UpdateState.TRIAL)
    wait_until(lambda: member_state(system, rollout_id, "bench-1") in busy, why="the first wave is under way")
    system.cloud.kill()
    system.restart_cloud()
    # A quick one is through before we have looked; that each state survives a kill is tested on the device alone.
    delivered = (UpdateState.TRIAL, UpdateState.UNCONFIRMED, UpdateState.CONFIRMED)
    wait_until(lambda: member_state(system, rollout_id, "bench-1") in delivered, why="it goes on")
    killed = system.agents["bench-1"].part
    assert killed is not None
    killed.kill()
    system.start_agent(system.agents["bench-1"])
    wait_until(lambda: (r := rollout(system, rollout_id)) is not None and r.summary.state in ENDED, why="it ends")
    detail = rollout(system, rollout_id)
    assert detail is not None
    assert detail.summary.state is RolloutState.COMPLETED, detail.summary.reason
    assert running(system) == [digest, digest]
    offered = [decision.reason for decision in detail.decisions if decision.action == "offer_activation"]
    assert len(offered) == len(set(offered)) == 2, f"each wave is told once to activate: {offered}"
