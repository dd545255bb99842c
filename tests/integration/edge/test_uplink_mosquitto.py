"""The uplink over a real broker: real driver, real store, real paho; the cloud is a small client that acknowledges."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.clock import Clock
from edge_agent.config import MqttSettings
from edge_agent.metrics import Metrics
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from edge_agent.uplink.bus_paho import PahoBus
from edge_agent.uplink.core import UplinkCore
from edge_agent.uplink.driver import UplinkDriver
from edge_agent.uplink.link import LinkState
from edge_agent.uplink.traffic import CredentialsChanged, DeviceReport, Identity, SpoolGrew, Tuning
from fleet.contract.codec import decode, decode_events, encode
from fleet.contract.messages import Ack, Capabilities, HostState, OpinionReady, OpinionState, Presence, SeqRange, Status
from fleet.local.broker import LocalBroker
from tests.unit.edge.edge_builders import DEVICE, MODEL, START, new_field

pytestmark = pytest.mark.mosquitto
PASSWORD, CLOUD_PASSWORD = "device-secret", "cloud-secret"
WAIT_S = 20.0


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.02)


class StubCloud:
    """Acknowledges every event it sees, unless told to be deaf."""

    def __init__(self, broker: LocalBroker) -> None:
        self.events: list[tuple[int, int]] = []
        self.presence: list[Presence] = []
        self.births = 0
        self.deaf = False
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="stub-cloud", protocol=mqtt.MQTTv5)
        self._client.username_pw_set("cloud", CLOUD_PASSWORD)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe("ahs/1/d/+/up/#", qos=1)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith("/up/status"):
            self.presence.append(decode(Status, bytes(message.payload)).presence)
        self.births += message.topic.endswith("/up/birth")
        if message.topic.endswith("/up/event"):
            batch, _ = decode_events(bytes(message.payload))
            assert batch is not None
            self.events += [(event.boot, event.seq) for event in batch.events]
            if not self.deaf:
                ranges = tuple(SeqRange(boot=e.boot, first=e.seq, last=e.seq) for e in batch.events)
                self.send(f"ahs/1/d/{DEVICE}/down/ack", encode(Ack(ranges=ranges)))

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def host(self, online: bool) -> None:
        self.send("ahs/1/host/state", encode(HostState(online=online, epoch=1, since=START)), retain=True)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Device:
    """Store and driver on a thread."""

    def __init__(self, folder: Path, broker: LocalBroker, *, password: str = PASSWORD) -> None:
        self.token = folder / "token"
        self.token.write_text(password)
        self.store = Store(folder, Quotas(rows=1000, image_bytes=10**6))
        self.slide = self.store.open_slide("s", target_white_cells=100, now=START).slide_id
        self.opinions: list[tuple[str, bool]] = []
        self.metrics = Metrics()
        who = Identity(
            DEVICE, "lab-1", self.store.boot, "1.0.0", "feedbeef0001",
            Capabilities(agent_version="1", python="3", onnxruntime="1", cpu_cores=1, memory_bytes=1, source="folder",
                         max_packet_bytes=10_000),
        )  # fmt: skip
        settings = MqttSettings(host=broker.host, port=broker.port, tls=False, token_file=self.token)
        tuning = Tuning(backoff_first_s=0.2, backoff_last_s=0.5, ack_timeout_s=1.0, telemetry_s=0.5)
        self.driver = UplinkDriver(
            UplinkCore(who, DeviceReport(MODEL), tuning),
            lambda deliver: PahoBus(settings, client_id=DEVICE, deliver=deliver),
            store=self.store,
            clock=Clock(),
            metrics=self.metrics,
            gauges=lambda: {"x": 1.0},
            on_opinion=lambda message, fetch: self.opinions.append((message.opinion, fetch)),
            on_catch_up=lambda: None,
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.driver.run, args=(self.stop,))
        self.thread.start()
        self.number = 0

    def fields(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.store.record_field(new_field(self.number, slide_id=self.slide), now=START)
        self.driver.post(SpoolGrew())

    def close(self) -> None:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.store.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path / "broker")
    broker.start({"cloud": CLOUD_PASSWORD, DEVICE: PASSWORD})
    yield broker
    broker.stop()


def test_results_leave_the_spool_when_the_cloud_has_them_through_deafness_and_a_restarted_broker(
    tmp_path: Path, broker: LocalBroker
) -> None:
    with closing(StubCloud(broker)) as cloud, closing(Device(tmp_path, broker)) as device:
        device.fields(5)
        until(lambda: device.driver.core.state is LinkState.HELD, "connected")
        assert cloud.events == [], "held back until the host is there"
        cloud.host(True)
        until(lambda: device.store.waiting().events == 0, "delivered")
        cloud.deaf = True
        device.fields(3)
        until(lambda: len(cloud.events) >= 11, "sent and, unacknowledged, sent again")
        cloud.deaf = False
        until(lambda: device.store.waiting().events == 0, "delivered after deafness")
        broker.stop()
        until(lambda: device.driver.core.state in (LinkState.AWAY, LinkState.CONNECTING), "noticed")
        device.fields(4)
        broker.restart()
        until(lambda: device.driver.core.state in (LinkState.HELD, LinkState.FLOWING), "connected again")
        cloud.host(True)
        until(lambda: device.store.waiting().events == 0, "delivered after the restart")
        assert set(cloud.events) == {(device.store.boot, n) for n in range(12)}
        counters = Reads(device.store.database).counters()
        assert counters[Counter.RESULTS_SENT] == 12
        assert counters[Counter.MQTT_BYTES] > 12 * 300
        assert cloud.births >= 1


def test_leaving_says_offline_and_dying_lets_the_broker_say_it(tmp_path: Path, broker: LocalBroker) -> None:
    with closing(StubCloud(broker)) as cloud:
        device = Device(tmp_path, broker)
        until(lambda: cloud.presence[-1:] == [Presence.ONLINE], "online")
        device.close()
        until(lambda: cloud.presence[-1:] == [Presence.OFFLINE], "offline on purpose")
        device = Device(tmp_path, broker)
        until(lambda: cloud.presence[-1:] == [Presence.ONLINE], "online again")
        client = device.driver._bus._client  # type: ignore[attr-defined]
        client.socket().close()  # the cable: no DISCONNECT leaves
        until(lambda: cloud.presence[-2:] == [Presence.OFFLINE, Presence.ONLINE], "the Will, then back")
        device.close()


def test_an_opinion_reaches_the_device(tmp_path: Path, broker: LocalBroker) -> None:
    with closing(StubCloud(broker)) as cloud, closing(Device(tmp_path, broker)) as device:
        until(lambda: device.driver.core.state is LinkState.HELD, "connected")
        device.fields(1)
        message = OpinionReady(
            opinion="opinion-1", capture_id="bench-1/1/1", state=OpinionState.ANSWERED, source="reader",
            labels={"monocyte": 1}, not_after="2999-01-01T00:00:00Z",
        )  # fmt: skip
        cloud.send(f"ahs/1/d/{DEVICE}/down/opinion/opinion-1", encode(message))
        until(lambda: device.opinions == [("opinion-1", True)], "announced")
        (kept,) = Reads(device.store.database).opinions()
        assert (kept.labels, kept.whole) == ({"monocyte": 1}, False)


def test_a_refused_token_shows_is_not_hammered_and_a_new_one_is_taken(tmp_path: Path, broker: LocalBroker) -> None:
    with closing(Device(tmp_path, broker, password="expired")) as device:
        until(lambda: device.driver.core.state is LinkState.REFUSED, "refused")
        device.fields(2)
        assert device.store.waiting().events == 2, "classification goes on"
        assert 'ahs_edge_link_state{state="refused"} 1.0' in device.metrics.text().decode()
        time.sleep(1.5)
        assert device.driver.core._connections == 1
        device.token.write_text(PASSWORD)
        device.driver.post(CredentialsChanged())
        until(lambda: device.driver.core.state is LinkState.HELD, "connected with the new token")
