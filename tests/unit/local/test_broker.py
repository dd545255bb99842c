"""The local broker lets a device do what the protocol lets it do, and no more."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fleet.contract import topics
from fleet.local.broker import CLOUD_USER, LocalBroker

ACCOUNTS = {CLOUD_USER: "cloud-secret", "bench-1": "one", "bench-2": "two"}


class Heard:
    """A client that remembers what reached it."""

    def __init__(self, broker: LocalBroker, user: str, password: str) -> None:
        self.messages: list[str] = []
        self.connected = threading.Event()
        self.marked = threading.Event()
        self.code = ""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=user, protocol=mqtt.MQTTv5)
        self._client.username_pw_set(user, password)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self.subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        assert self.connected.wait(10)

    def _on_connect(self, _c: object, _u: object, _f: object, reason: object, _p: object) -> None:
        self.code = str(reason)
        self.connected.set()

    def _on_message(self, _c: object, _u: object, message: mqtt.MQTTMessage) -> None:
        self.messages.append(message.topic)
        if message.topic.endswith("/mark"):
            self.marked.set()

    def subscribe(self, topic: str) -> None:
        self.subscribed.clear()
        self._client.subscribe(topic, 1)
        assert self.subscribed.wait(10)

    def publish(self, topic: str) -> None:
        self._client.publish(topic, b"x", 1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path / "broker")
    broker.start(ACCOUNTS)
    yield broker
    broker.stop()


@pytest.mark.mosquitto
def test_a_device_hears_and_says_only_its_own(broker: LocalBroker) -> None:
    cloud, device = Heard(broker, CLOUD_USER, "cloud-secret"), Heard(broker, "bench-1", "one")
    try:
        cloud.subscribe(topics.ALL_UP)
        device.subscribe(topics.all_down("bench-1"))
        device.subscribe(topics.all_down("bench-2"))
        device.publish(topics.up("bench-2", "status"))
        device.publish(topics.up("bench-1", "mark"))
        cloud.publish(topics.down("bench-2", "ack"))
        cloud.publish(topics.down("bench-1", "mark"))
        assert cloud.marked.wait(10)
        assert device.marked.wait(10)
        assert cloud.messages == [topics.up("bench-1", "mark")]
        assert device.messages == [topics.down("bench-1", "mark")]
    finally:
        cloud.close()
        device.close()


@pytest.mark.mosquitto
def test_a_wrong_password_is_refused(broker: LocalBroker) -> None:
    stranger = Heard(broker, "bench-1", "guess")
    stranger.close()
    assert stranger.code == "Not authorized"


def test_the_embedded_broker_carries_what_a_demo_needs_and_checks_passwords(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path / "broker", embedded=True)
    broker.start(ACCOUNTS)
    try:
        cloud, device = Heard(broker, CLOUD_USER, "cloud-secret"), Heard(broker, "bench-1", "one")
        cloud.subscribe(topics.ALL_UP)
        device.publish(topics.up("bench-1", "mark"))
        assert cloud.marked.wait(10)
        cloud.close()
        device.close()
    finally:
        broker.stop()


def test_mosquitto_is_preferred_where_it_is_installed(tmp_path: Path) -> None:
    installed = bool(shutil.which("mosquitto")) or Path("/usr/sbin/mosquitto").exists()
    assert (LocalBroker(tmp_path).name == "Mosquitto") == installed
