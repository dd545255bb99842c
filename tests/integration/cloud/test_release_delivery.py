"""Trust, desired states and chunks on a real Mosquitto: from the database, again after any loss, each chunk once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import select

from cloud.auth.tokens import SYSTEM
from cloud.config import Settings
from cloud.releases.signing import load_online_key
from cloud.releases.store import save_trust
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import ChunkWantRow, DesiredRow, TrustDocumentRow
from fleet.contract import topics
from fleet.contract.codec import decode, encode
from fleet.contract.messages import Activation, Desired, Need
from fleet.contract.release import MAX_TRUST_BYTES, ReleaseTarget, SignedDesired, Trust
from fleet.local.broker import LocalBroker
from fleet.release.repository import check_trust
from tests.fakes import releasing
from tests.fakes.releases import ReleaseDesk

pytestmark = [pytest.mark.anyio, pytest.mark.mosquitto]

SECRETS = {"cloud": "cloud-secret", "bench-1": "one", "bench-2": "two"}
QUICK = {"lease_s": 1.5, "outbox_poll_s": 0.1, "figures_period_s": 0.2, "max_backoff_s": 0.5}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    started = LocalBroker(tmp_path / "broker", embedded=False)
    started.start(SECRETS)
    yield started
    started.stop()


class Bench:
    """A device as the broker sees it: keeps every message, and asks for chunks."""

    def __init__(self, broker: LocalBroker, device: str = "bench-1", *, chunks: bool = True) -> None:
        self.device = device
        self.seq = 0
        self.heard: list[MQTTMessage] = []
        self._subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=MQTTv5)
        self.client.username_pw_set(device, SECRETS[device])
        self.client.on_message = lambda client, data, message: self.heard.append(message)
        filters = [(topics.all_down(device), 1), (topics.TRUST, 1), *([(topics.ALL_CHUNKS, 0)] if chunks else [])]
        self.client.on_connect = lambda client, *rest: client.subscribe(filters)
        self.client.on_subscribe = lambda *rest: self._subscribed.set()
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        assert self._subscribed.wait(10)

    def need(self, target: ReleaseTarget, missing: list[str]) -> None:
        self.seq += 1
        body = Need(
            message_id=f"need-{self.device}-{self.seq}",
            device=self.device,
            boot=1,
            seq=self.seq,
            sent_at=datetime.now(UTC),
            release=target.digest,
            missing=tuple(missing),
            max_packet_bytes=2_000_000,
        )
        self.client.publish(topics.up(self.device, "need"), encode(body), qos=1).wait_for_publish(10)

    def of(self, topic: str) -> list[MQTTMessage]:
        return [message for message in list(self.heard) if message.topic.startswith(topic)]

    @property
    def chunks(self) -> Counter[str]:
        """How often each chunk came; the bytes must be what the topic says."""
        found: Counter[str] = Counter()
        for message in self.of(f"{topics.PREFIX}/chunk/"):
            sha256 = hashlib.sha256(message.payload).hexdigest()
            assert message.topic == topics.chunk(sha256)
            found[sha256] += 1
        return found

    def trust(self) -> Trust | None:
        told = self.of(topics.TRUST)
        return decode(Trust, bytes(told[-1].payload), limit_bytes=MAX_TRUST_BYTES) if told else None

    def desired(self) -> Desired | None:
        told = self.of(topics.down(self.device, "desired"))
        return decode(Desired, decode(SignedDesired, bytes(told[-1].payload)).signed.encode()) if told else None

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def benches(broker: LocalBroker) -> Iterator[Callable[..., Bench]]:
    with contextlib.ExitStack() as stack:

        def connect(device: str = "bench-1", **options: Any) -> Bench:
            bench = Bench(broker, device, **options)
            stack.callback(bench.close)
            return bench

        yield connect


def sections(broker: LocalBroker, desk: ReleaseDesk, **releases: Any) -> dict[str, Any]:
    return {
        "broker": {"host": broker.host, "port": broker.port, "user": "cloud", "password": SECRETS["cloud"]},
        "worker": QUICK,
        "releases": {"online_key_file": str(desk.online_key_file), "collect_s": 0.5, **releases},
    }


async def give_trust(http: httpx.AsyncClient, desk: ReleaseDesk, headers: dict[str, str]) -> None:
    answer = await http.post("/v1/trust", json=desk.trust.model_dump(mode="json"), headers=headers)
    assert answer.status_code == 200, answer.text


async def release(http: httpx.AsyncClient, desk: ReleaseDesk, headers: dict[str, str]) -> ReleaseTarget:
    trust = Trust.model_validate((await http.get("/v1/trust", headers=headers)).json())
    offered = desk.offer(trust)
    answer = await http.post("/v1/releases", files=offered.parts, headers=headers)
    assert answer.status_code == 201, answer.text
    return offered.target


async def wish(storage: Storage, settings: Settings, target: ReleaseTarget) -> int:
    return await releasing.wish(storage, load_online_key(settings.releases), target, Activation.DOWNLOAD)


def figure(cloud: Any, name: str, **labels: str) -> float:
    return float(cloud.app.state.parts.metrics.registry.get_sample_value(name, labels) or 0.0)


async def test_trust_and_desired_states_are_retained_and_published_again_when_the_broker_has_lost_them(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any, tmp_path: Path
) -> None:
    settings = sqlite_settings(**sections(broker, desk))
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        operator = tools.bearer(await cloud.token())
        await cloud.device()
        await cloud.device("bench-2")
        await give_trust(cloud.http, desk, operator)
        early = benches()
        await tools.eventually(early.trust)
        target = await release(cloud.http, desk, operator)
        await tools.eventually(lambda: early.trust().targets != desk.trust.targets)
        assert await wish(cloud.storage, settings, target) == 1
        await tools.eventually(early.desired)

        # A device that comes later gets what the broker has kept, and nothing that is another's.
        late = benches("bench-2")
        await tools.eventually(late.trust)
        assert late.trust() == early.trust()
        assert late.of(topics.TRUST)[0].retain
        check_trust(late.trust(), datetime.now(UTC))
        assert late.desired() is None
        assert early.desired().version == 1
        early.close()
        late.close()

        broker.stop()
        for left in (tmp_path / "broker").glob("mosquitto.db*"):
            left.unlink()
        broker.restart()
        after = benches()
        await tools.eventually(lambda: after.trust() and after.desired(), timeout_s=30)
        assert after.trust() == late.trust()
        assert (after.desired().version, after.desired().release) == (1, target.digest)

        assert await wish(cloud.storage, settings, target) == 2
        await tools.eventually(lambda: after.desired().version == 2)

        async def is_marked() -> bool:
            async with cloud.storage.reading() as session:
                row = await session.get(DesiredRow, "bench-1")
                return bool(row.version == row.published_version == 2)

        await tools.eventually(is_marked)
        assert cloud.app.state.parts.worker.epoch == 1, "a broker's restart changes no leader"


async def test_two_devices_that_ask_for_overlapping_chunks_make_each_go_out_once(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any
) -> None:
    settings = sqlite_settings(**sections(broker, desk, repeat_s=60))
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        operator = tools.bearer(await cloud.token())
        await cloud.device()
        await cloud.device("bench-2")
        await give_trust(cloud.http, desk, operator)
        target = await release(cloud.http, desk, operator)
        names = list(dict.fromkeys(chunk.sha256 for chunk in target.chunks))
        assert len(names) >= 8
        one, two = benches(), benches("bench-2")
        nobodys = "0" * 64

        one.need(target, names[:6])
        two.need(target, [*names[3:], nobodys])

        def wants() -> float:
            return sum(figure(cloud, "ahs_cloud_release_wants_total", outcome=o) for o in ("alone", "merged"))

        await tools.eventually(lambda: wants() == 2)
        two.need(target, names[-3:])  # said again a moment later, as a device does that has waited
        await tools.eventually(lambda: wants() == 3)
        await tools.eventually(lambda: set(one.chunks) == set(two.chunks) == set(names))
        assert one.chunks == two.chunks == Counter(names), "each once, to both"

        size_bytes = sum({chunk.sha256: chunk.size_bytes for chunk in target.chunks}.values())
        assert figure(cloud, "ahs_cloud_release_chunk_bytes_total") == size_bytes
        assert figure(cloud, "ahs_cloud_release_chunks_total", outcome="published") == len(names)
        assert figure(cloud, "ahs_cloud_release_chunks_asked_total", kind="unknown") == 1
        assert figure(cloud, "ahs_cloud_release_chunks_asked_total", kind="known") == 6 + len(names[3:]) + 3
        assert figure(cloud, "ahs_cloud_release_wants_total", outcome="merged") >= 1
        for message in one.of(f"{topics.PREFIX}/chunk/"):
            assert (message.qos, message.retain) == (0, False)
            assert message.properties.MessageExpiryInterval <= settings.releases.chunk_expiry_s
        async with cloud.storage.reading() as session:
            rows = (await session.scalars(select(ChunkWantRow))).all()
        assert {(row.device, row.site_id, row.digest) for row in rows} == {
            ("bench-1", "lab-a", target.digest),
            ("bench-2", "lab-a", target.digest),
        }
        assert len({row.asked_by for row in rows} - {SYSTEM.id}) == 2, "each want is its device's own"


async def test_a_device_that_has_lost_chunks_asks_again_and_gets_them(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any
) -> None:
    settings = sqlite_settings(**sections(broker, desk, repeat_s=0))
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        operator = tools.bearer(await cloud.token())
        await cloud.device()
        await give_trust(cloud.http, desk, operator)
        target = await release(cloud.http, desk, operator)
        bench = benches()
        name = target.chunks[0].sha256
        for times in (1, 2):
            bench.need(target, [name])
            await tools.eventually(lambda times=times: bench.chunks[name] == times)


async def test_a_want_of_nothing_that_exists_or_can_be_read_holds_nobody_up(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any
) -> None:
    settings = sqlite_settings(**sections(broker, desk))
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        operator = tools.bearer(await cloud.token())
        await cloud.device()
        await cloud.device("bench-2")
        await give_trust(cloud.http, desk, operator)
        target = await release(cloud.http, desk, operator)
        one, two = benches(), benches("bench-2")
        factory = (await cloud.http.get("/v1/releases/1", headers=operator)).json()["target"]
        kit = ReleaseTarget.model_validate(factory)
        own = [chunk.sha256 for chunk in kit.chunks if chunk.sha256 not in {c.sha256 for c in target.chunks}]
        one.need(kit, own)  # its archive was never given
        two.need(target.model_copy(update={"digest": "sha256:" + "0" * 64}), ["1" * 64])

        def figures() -> bool:
            unreadable = figure(cloud, "ahs_cloud_release_chunks_total", outcome="unreadable")
            return unreadable == len(own) and figure(cloud, "ahs_cloud_release_wants_total", outcome="unknown") == 1

        await tools.eventually(figures)
        two.need(target, [target.chunks[0].sha256])
        await tools.eventually(lambda: two.chunks == Counter([target.chunks[0].sha256]))
        await tools.eventually(lambda: cloud.app.state.parts.metrics.fleet.figures.want_age_s == 0)


async def test_the_pace_is_kept(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any
) -> None:
    settings = sqlite_settings(**sections(broker, desk, bytes_per_s=128 * 1024, collect_s=0))
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        operator = tools.bearer(await cloud.token())
        await cloud.device()
        await give_trust(cloud.http, desk, operator)
        target = await release(cloud.http, desk, operator)
        bench = benches()
        names = {chunk.sha256: chunk.size_bytes for chunk in target.chunks}
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        bench.need(target, list(names))
        await tools.eventually(lambda: set(bench.chunks) == set(names), timeout_s=30)
        # What was sent last need not be waited for.
        assert loop.time() - began_s >= (sum(names.values()) - max(names.values())) / (128 * 1024)
        assert bench.chunks == Counter(names.keys())


def start_worker(folder: Path, document: dict[str, Any]) -> subprocess.Popen[bytes]:
    config = folder / "worker.yaml"
    config.write_text(json.dumps(document))
    return subprocess.Popen([sys.executable, "-m", "cloud", "worker", "--config", str(config)])


@pytest.mark.slow
async def test_when_the_leader_is_killed_in_the_middle_the_next_one_goes_on(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any, tmp_path: Path
) -> None:
    pace = 64 * 1024
    settings = sqlite_settings(**sections(broker, desk, bytes_per_s=pace, collect_s=0.1))
    document = sections(broker, desk, bytes_per_s=pace, collect_s=0.1) | {"data_dir": str(settings.data_dir)}
    document["worker"] = QUICK | {"status_port": None}
    async with tools.running(settings, tools.StagedAnalyser()) as web:
        operator = tools.bearer(await web.token())
        await web.device()
        await give_trust(web.http, desk, operator)
        target = await release(web.http, desk, operator)
        await wish(web.storage, settings, target)
        names = list(dict.fromkeys(chunk.sha256 for chunk in target.chunks))
        process = start_worker(tmp_path, document)
        try:
            bench = benches()
            await tools.eventually(bench.desired, timeout_s=60)
            bench.need(target, names)
            await tools.eventually(lambda: len(bench.chunks) >= 2, timeout_s=30)
            assert len(bench.chunks) < len(names), "the pace leaves something to do"
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            process = start_worker(tmp_path, document)
            await wish(web.storage, settings, target)
            await tools.eventually(lambda: set(bench.chunks) == set(names), timeout_s=60)
            await tools.eventually(lambda: bench.desired().version == 2)

            async def served() -> bool:
                async with web.storage.reading() as session:
                    row = await session.get(ChunkWantRow, "bench-1")
                    return row.served_at is not None

            await tools.eventually(served)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(10)


async def test_an_expired_trust_is_signed_again_and_told_to_the_devices(
    sqlite_settings: Any, tools: Any, broker: LocalBroker, desk: ReleaseDesk, benches: Any, tmp_path: Path
) -> None:
    old = ReleaseDesk(tmp_path / "old-keys", at=datetime.now(UTC) - timedelta(days=30))
    settings = sqlite_settings(**sections(broker, old))
    storage = Storage(settings.database_url, settings.database)
    async with storage.writing() as session:
        await save_trust(session, None, old.trust, by=SYSTEM.id, now=datetime.now(UTC))
    await storage.close()
    async with tools.running(settings, tools.StagedAnalyser(), worker=True) as cloud:
        bench = benches()

        def fresh() -> bool:
            trust = bench.trust()
            return trust is not None and trust.timestamp != old.trust.timestamp

        await tools.eventually(fresh)
        check_trust(bench.trust(), datetime.now(UTC))
        await tools.eventually(lambda: cloud.app.state.parts.metrics.fleet.figures)

        def left() -> dict[str, float]:
            figures = cloud.app.state.parts.metrics.fleet.figures
            return dict(figures.trust_left_s)

        await tools.eventually(lambda: left().get("timestamp", 0) > 3600)
        assert set(left()) == {"root", "targets", "snapshot", "timestamp"}
        async with cloud.storage.reading() as session:
            roles = list((await session.scalars(select(TrustDocumentRow.role))).all())
        assert sorted(roles) == ["root", "snapshot", "targets", "timestamp"], "only the newest are kept"
