"""The worker against a real Mosquitto: commit, then acknowledge; a broker and a cloud that die."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from fleet.contract import topics
from fleet.contract.codec import decode
from fleet.contract.messages import Ack, HostState, OpinionReady
from fleet.local.broker import LocalBroker

pytestmark = [pytest.mark.anyio, pytest.mark.mosquitto]

DIGEST = "sha256:" + "a1" * 32
SECRETS = {"cloud": "cloud-secret", "bench-1": "bench-secret", "bench-9": "nobody"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    started = LocalBroker(tmp_path / "broker", embedded=False)
    started.start(SECRETS)
    yield started
    started.stop()


class Bench:
    """A device as the broker sees it: publishes, and keeps what it is told."""

    def __init__(self, broker: LocalBroker, device: str = "bench-1") -> None:
        self.device = device
        self.told: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=MQTTv5)
        self.client.username_pw_set(device, SECRETS[device])
        self.client.on_message = lambda client, data, message: self.told.put((message.topic, bytes(message.payload)))
        self.client.on_connect = lambda client, *rest: client.subscribe(
            [(topics.all_down(device), 1), (topics.HOST_STATE, 1)]
        )
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()

    def tell(self, kind: str, payload: bytes, *, retain: bool = False) -> None:
        self.client.publish(topics.up(self.device, kind), payload, qos=1, retain=retain).wait_for_publish(10)

    def status(self, presence: str, session: str) -> None:
        body = {"device": self.device, "session": session, "presence": presence, "agent_version": "0.1.0"}
        self.tell("status", json.dumps(body).encode(), retain=True)

    def fields(self, first: int, last: int) -> None:
        events = [field_event(seq, self.device) for seq in range(first, last + 1)]
        now = datetime.now(UTC).isoformat()
        body = {"message_id": "m" * 12, "device": self.device, "boot": 1, "seq": last, "sent_at": now, "events": events}
        self.tell("event", json.dumps(body).encode())

    async def hears(self, topic: str, *, timeout_s: float = 20.0) -> bytes:
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            try:
                found, payload = await asyncio.to_thread(self.told.get, True, 0.2)
            except queue.Empty:
                continue
            if found.startswith(topic):
                return payload
        raise AssertionError(f"{self.device} was not told {topic}")

    async def acked(self) -> Ack:
        return decode(Ack, await self.hears(topics.down(self.device, "ack")))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def field_event(seq: int, device: str) -> dict[str, Any]:
    return {
        "kind": "field",
        "boot": 1,
        "seq": seq,
        "capture_id": f"{device}/1/{seq}",
        "captured_at": "2026-01-31T12:00:00Z",
        "decision": "accept",
        "counts": {"rbc": 9, "wbc": 0, "platelets": 1},
        "model": DIGEST,
        "latency_ms": 1.0,
    }


@pytest.fixture
def bench(broker: LocalBroker) -> Iterator[Bench]:
    device = Bench(broker)
    yield device
    device.close()


def broker_section(broker: LocalBroker, **more: Any) -> dict[str, Any]:
    return {"host": broker.host, "port": broker.port, "user": "cloud", "password": SECRETS["cloud"], **more}


QUICK = {"lease_s": 1.5, "outbox_poll_s": 0.1, "figures_period_s": 0.2, "max_backoff_s": 0.5}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
async def test_a_device_is_heard_acknowledged_and_told_its_opinion(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, bench: Bench, shared: bool
) -> None:
    bench.status("online", "session-a")  # before any cloud listens: only the broker's memory has it
    settings = sqlite_settings(broker=broker_section(broker, shared_subscription=shared), worker=QUICK)
    analyser = tools.StagedAnalyser()
    async with tools.running(settings, analyser, worker=True) as cloud:
        token = await cloud.device()
        state = decode(HostState, await bench.hears(topics.HOST_STATE))
        assert (state.online, state.epoch) == (True, 1)

        bench.fields(1, 5)
        ack = await bench.acked()
        assert [(r.boot, r.first, r.last) for r in ack.ranges] == [(1, 1, 5)]
        committed = await cloud.http.get("/v1/devices/bench-1/fields", headers=tools.bearer(token))
        assert len(committed.json()["items"]) == 5

        bench.fields(3, 6)  # told again, as after a lost acknowledgement
        ack = await bench.acked()
        assert [(r.first, r.last) for r in ack.ranges] == [(3, 6)]

        bench.tell("event", b'{"events": [{"boot": 1, "seq": 9, "kind": "riddle"}]}')
        ack = await bench.acked()
        assert [(r.first, r.last) for r in ack.rejected] == [(9, 9)]

        image = tools.jpeg()
        opinion = (await cloud.ask(token, image, tools.context_for(image))).json()
        ready = decode(OpinionReady, await bench.hears(topics.down("bench-1", "opinion")))
        assert ready.opinion == opinion["id"]

        text = (await cloud.http.get("/metrics")).text
        assert 'ahs_cloud_ingest_events_total{kind="field",outcome="duplicate"} 3.0' in text
        await tools.eventually(lambda: cloud.app.state.parts.metrics.fleet.figures.fields["accept"] == 6)
        assert (await cloud.http.get("/readyz")).json()["status"] == "ok"
    assert decode(HostState, await bench.hears(topics.HOST_STATE)).online is False


async def test_the_retained_status_reaches_a_cloud_that_started_later(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, bench: Bench
) -> None:
    settings = sqlite_settings(broker=broker_section(broker), worker=QUICK)
    async with tools.running(settings, tools.StagedAnalyser()) as web:
        await web.device()
    bench.status("online", "session-a")
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        viewer = tools.bearer(await cloud.token("viewer"))

        async def presence() -> str:
            return str((await cloud.http.get("/v1/devices/bench-1", headers=viewer)).json()["presence"])

        async def is_online() -> bool:
            return await presence() == "online"

        await tools.eventually(is_online)


async def test_a_broker_that_is_away_leaves_the_web_up_and_the_worker_comes_back(
    sqlite_settings: Any, tools: Any, broker: LocalBroker
) -> None:
    broker.stop()
    settings = sqlite_settings(broker=broker_section(broker), worker=QUICK)
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        token = await cloud.device()

        async def broker_part() -> str:
            return str((await cloud.http.get("/readyz")).json()["parts"]["broker"])

        async def says_so() -> bool:
            return "next try in" in await broker_part()

        await tools.eventually(says_so)
        ready = await cloud.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        image = tools.jpeg()
        assert (await cloud.ask(token, image, tools.context_for(image))).status_code == 200

        broker.restart()
        bench = Bench(broker)
        try:
            ready_message = decode(OpinionReady, await bench.hears(topics.down("bench-1", "opinion")))
            assert ready_message.labels == {"lymphocyte": 1}
            bench.fields(1, 2)
            assert [(r.first, r.last) for r in (await bench.acked()).ranges] == [(1, 2)]
        finally:
            bench.close()


async def test_a_refused_account_is_told_in_readyz(sqlite_settings: Any, tools: Any, broker: LocalBroker) -> None:
    section = broker_section(broker) | {"password": "wrong"}
    async with tools.running(
        sqlite_settings(broker=section, worker=QUICK), tools.StagedAnalyser(), worker=True
    ) as cloud:

        async def refused() -> bool:
            return "refuses us" in (await cloud.http.get("/readyz")).json()["parts"]["broker"]

        await tools.eventually(refused)


async def test_the_next_worker_leads_under_a_higher_epoch_and_a_late_will_is_repaired(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, bench: Bench
) -> None:
    settings = sqlite_settings(broker=broker_section(broker), worker=QUICK)
    async with (
        tools.running(settings, tools.StagedAnalyser(), worker=True) as one,
        tools.running(settings, tools.StagedAnalyser(), worker=True) as two,
    ):
        workers = [cloud.app.state.parts.worker for cloud in (one, two)]
        await tools.eventually(lambda: sorted(w.epoch or 0 for w in workers) == [0, 1])
        leader = next(w for w in workers if w.epoch)
        assert [w.health.parts["leader"] for w in workers if w is not leader] == ["standing by"]
        await bench.hears(topics.HOST_STATE)
        late = Client(CallbackAPIVersion.VERSION2, client_id="old", protocol=MQTTv5)
        late.username_pw_set("cloud", SECRETS["cloud"])
        late.connect(broker.host, broker.port)
        late.loop_start()
        dead = HostState(online=False, epoch=0, since=datetime.now(UTC)).model_dump_json().encode()
        late.publish(topics.HOST_STATE, dead, qos=1, retain=True).wait_for_publish(10)
        late.disconnect()
        late.loop_stop()

        states = [decode(HostState, await bench.hears(topics.HOST_STATE)) for _ in range(2)]
        assert [(s.online, s.epoch) for s in states][-1] == (True, 1)


def start_cloud(folder: Path, broker: LocalBroker, port: int) -> subprocess.Popen[bytes]:
    config = folder / "cloud.yaml"
    config.write_text(
        json.dumps(
            {
                "data_dir": str(folder / "data"),
                "http": {"port": port},
                "broker": broker_section(broker),
                "worker": QUICK,
            }
        )
    )
    return subprocess.Popen([sys.executable, "-m", "cloud", "all", "--config", str(config)])


async def test_a_killed_cloud_loses_and_doubles_nothing(tmp_path: Path, tools: Any, broker: LocalBroker) -> None:
    port = tools.free_port()
    process = start_cloud(tmp_path, broker, port)
    database = tmp_path / "data" / "cloud.db"
    bench = Bench(broker)
    try:
        await register(tmp_path, tools, port)
        acknowledged: set[int] = set()
        waiting = set(range(1, 301))
        for life in range(3):
            for first in range(1, 301, 10):
                if waiting & set(range(first, first + 10)):
                    bench.fields(first, first + 9)
                if life < 2 and first == 101:
                    process.send_signal(signal.SIGKILL)
                    process.wait(10)
                    process = start_cloud(tmp_path, broker, port)
                    await bench_hears_online(bench)
                    break
            acknowledged |= await all_acks(bench, until=waiting if life == 2 else None)
            assert acknowledged <= committed(database), "acknowledged before it was committed"
            waiting -= acknowledged
        assert committed(database) == set(range(1, 301))
        assert count_of(database) == 300
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        bench.close()
        process.kill()
        process.wait(10)


async def register(folder: Path, tools: Any, port: int) -> None:
    import httpx

    from cloud.config import Settings
    from cloud.operating import issue_token

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:

        async def up() -> bool:
            try:
                return (await http.get("/healthz")).status_code == 200
            except httpx.TransportError:
                return False

        await tools.eventually(up, timeout_s=60)
        from datetime import timedelta

        settings = Settings(data_dir=folder / "data")
        token = await issue_token(settings, role="operator", site="lab-a", name="o", lifetime=timedelta(hours=1))
        answer = await http.post(
            "/v1/devices", json={"device": "bench-1", "site": "lab-a"}, headers=tools.bearer(token)
        )
        assert answer.status_code == 201


async def bench_hears_online(bench: Bench) -> None:
    while not decode(HostState, await bench.hears(topics.HOST_STATE, timeout_s=60)).online:
        pass


async def all_acks(bench: Bench, *, until: set[int] | None) -> set[int]:
    """What is acknowledged until it is quiet, or until all of `until` is."""
    found: set[int] = set()
    while until is None or not until <= found:
        try:
            payload = await bench.hears(topics.down("bench-1", "ack"), timeout_s=3 if until is None else 30)
        except AssertionError:
            if until is None:
                return found
            raise
        for part in decode(Ack, payload).ranges:
            found |= set(range(part.first, part.last + 1))
    return found


def committed(database: Path) -> set[int]:
    connection = sqlite3.connect(database)
    try:
        return {row[0] for row in connection.execute("SELECT seq FROM fields")}
    finally:
        connection.close()


def count_of(database: Path) -> int:
    connection = sqlite3.connect(database)
    try:
        (fields,) = connection.execute("SELECT fields FROM device_state").fetchone()
        (rows,) = connection.execute("SELECT count(*) FROM fields").fetchone()
    finally:
        connection.close()
    assert fields == rows
    return int(rows)
