"""The real Mosquitto with the box's own configuration, ACL, certificates and accounts."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.config import MqttSettings
from edge_agent.uplink.bus_paho import PahoBus
from edge_agent.uplink.traffic import BusConnected, BusEvent, BusMessage, Publish
from fleet.contract import topics

pytestmark = pytest.mark.mosquitto

ROOT = Path(__file__).resolve().parents[3]
TOKENS = {"bench-1": "ahs_bench-1-0123456789abcdef", "bench-2": "ahs_bench-2-0123456789abcdef"}
WAIT_S = 10.0
REFUSED = {134, 135}


class Peer:
    """A connection over TLS, and what it is told."""

    def __init__(
        self, box: Any, user: str, password: str, *, client_id: str | None = None, inside: bool = False
    ) -> None:
        self.told: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.answer: queue.Queue[int] = queue.Queue()
        self.cut = threading.Event()
        self._subscribed: queue.Queue[int] = queue.Queue()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id or user, protocol=MQTTv5)
        self._client.username_pw_set(user, password)
        self._client.tls_set(ca_certs=str(box.ca))
        self._client.on_connect = lambda client, data, flags, reason, properties: self.answer.put(reason.value)
        self._client.on_message = lambda client, data, message: self.told.put((message.topic, bytes(message.payload)))
        self._client.on_subscribe = lambda client, data, mid, *rest: self._subscribed.put(mid)
        self._client.on_disconnect = lambda *rest: self.cut.set()
        self._client.connect("localhost", box.inside_port if inside else box.devices_port)
        self._client.loop_start()
        self.reason = self.answer.get(timeout=WAIT_S)

    def hears(self, *filters: str) -> None:
        """Subscribes and waits for the broker's word. A forbidden one is granted too, and then nothing comes."""
        self._client.subscribe([(name, 1) for name in filters])
        self._subscribed.get(timeout=WAIT_S)

    def says(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> None:
        """Publishes and waits for the broker's word."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(WAIT_S)

    def next(self) -> tuple[str, bytes]:
        """The next message."""
        return self.told.get(timeout=WAIT_S)

    def close(self) -> None:
        """Ends the connection."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def box_with_broker(started_box: Any) -> Any:
    for device, token in TOKENS.items():
        assert started_box.setup("account", device, stdin=token).returncode == 0
    started_box.start_broker()
    return started_box


@pytest.fixture
def peer(box_with_broker: Any) -> Iterator[Callable[..., Peer]]:
    opened: list[Peer] = []

    def connect(user: str, password: str | None = None, **options: Any) -> Peer:
        if user == "_cloud":
            options, password = {"inside": True, **options}, box_with_broker.secret("cloud/broker-password")
        opened.append(Peer(box_with_broker, user, password or TOKENS[user], **options))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def test_a_device_and_the_cloud_hear_each_other_over_tls(peer: Callable[..., Peer]) -> None:
    cloud, bench = peer("_cloud", client_id="worker-1"), peer("bench-1")
    assert (cloud.reason, bench.reason) == (0, 0)
    cloud.hears(topics.ALL_UP)
    bench.hears(*topics.receive_filters("bench-1"))
    bench.says(topics.up("bench-1", "event"), b"a field")
    assert cloud.next() == (topics.up("bench-1", "event"), b"a field")
    for topic in (topics.down("bench-1", "ack"), topics.TRUST, topics.chunk("a" * 64), topics.HOST_STATE):
        cloud.says(topic, b"for you")
        assert bench.next() == (topic, b"for you")


def test_a_device_cannot_read_what_is_for_another_nor_speak_in_its_name(peer: Callable[..., Peer]) -> None:
    cloud, bench, other = peer("_cloud", client_id="worker-1"), peer("bench-1"), peer("bench-2")
    cloud.hears(topics.ALL_UP)
    other.hears(topics.all_down("bench-1"), topics.ALL_UP, "ahs/1/#", "$SYS/#", topics.all_down("bench-2"))
    other.says(topics.up("bench-1", "event"), b"forged")
    other.says(topics.TRUST, b"forged")
    other.says(topics.up("bench-2", "event"), b"mine")
    assert cloud.next() == (topics.up("bench-2", "event"), b"mine"), "and nothing before it"
    bench.says(topics.up("bench-1", "event"), b"secret")
    cloud.says(topics.down("bench-1", "ack"), b"secret")
    cloud.says(topics.down("bench-2", "ack"), b"yours")
    assert other.next() == (topics.down("bench-2", "ack"), b"yours"), "and nothing before it"


@pytest.mark.parametrize(
    ("user", "password"),
    [("bench-1", TOKENS["bench-2"]), ("bench-9", TOKENS["bench-1"]), ("", ""), ("_cloud", "guessed")],
)
def test_who_has_no_account_or_a_wrong_token_is_refused(box_with_broker: Any, user: str, password: str) -> None:
    stranger = Peer(box_with_broker, user, password, client_id="stranger")
    stranger.close()
    assert stranger.reason in REFUSED


@pytest.mark.parametrize("inside", [False, True], ids=["devices", "inside"])
def test_a_connection_without_tls_gets_no_answer(box_with_broker: Any, inside: bool) -> None:
    port = box_with_broker.inside_port if inside else box_with_broker.devices_port
    user, token = b"bench-1", TOKENS["bench-1"].encode()
    head = b"\x00\x04MQTT\x05\xc2\x00\x1e\x00" + b"\x00\x02id"
    body = head + len(user).to_bytes(2, "big") + user + len(token).to_bytes(2, "big") + token
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as plain:
        plain.sendall(b"\x10" + bytes([len(body)]) + body)
        try:
            answer = plain.recv(64)
        except ConnectionResetError:
            answer = b""
    assert answer[:1] != b"\x20", "no CONNACK"


def test_a_client_that_trusts_another_authority_does_not_talk_to_it(box_with_broker: Any, tmp_path: Path) -> None:
    other = type(box_with_broker)(tmp_path / "other")
    assert other.setup("init").returncode == 0
    trusting = ssl.create_default_context(cafile=str(other.ca))
    with (
        socket.create_connection(("127.0.0.1", box_with_broker.devices_port), timeout=WAIT_S) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        trusting.wrap_socket(plain, server_hostname="localhost")


def test_old_versions_of_tls_are_refused(box_with_broker: Any) -> None:
    offering = ssl.create_default_context(cafile=str(box_with_broker.ca))
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        offering.minimum_version, offering.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    offering.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", box_with_broker.devices_port), timeout=WAIT_S) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        offering.wrap_socket(plain, server_hostname="localhost")


def test_a_device_cannot_take_anothers_session_by_its_client_id(peer: Callable[..., Peer]) -> None:
    bench = peer("bench-1")
    bench.hears(topics.all_down("bench-1"))
    thief = peer("bench-2", client_id="bench-1")
    assert thief.reason == 0
    cloud = peer("_cloud", client_id="worker-1")
    cloud.says(topics.down("bench-1", "ack"), b"still here")
    assert bench.next() == (topics.down("bench-1", "ack"), b"still here")
    assert not bench.cut.is_set()


def test_two_workers_of_the_one_cloud_account_are_connected_at_once(peer: Callable[..., Peer]) -> None:
    first, second = peer("_cloud", client_id="worker-1"), peer("_cloud", client_id="worker-2")
    first.hears(topics.HOST_STATE)
    second.says(topics.HOST_STATE, b"both")
    assert first.next() == (topics.HOST_STATE, b"both")


def test_a_hangup_lets_a_new_device_in_and_cuts_the_open_session_of_a_removed_one(
    box_with_broker: Any, peer: Callable[..., Peer]
) -> None:
    bench, removed = peer("bench-1"), peer("bench-2")
    assert box_with_broker.setup("account", "bench-3", stdin="ahs_bench-3-0123456789abcdef").returncode == 0
    assert box_with_broker.setup("remove", "bench-2").returncode == 0
    os.kill(box_with_broker.broker.pid, signal.SIGHUP)
    assert removed.cut.wait(WAIT_S)
    assert removed.answer.get(timeout=WAIT_S) in REFUSED, "it comes again, and is refused"
    assert peer("bench-3", "ahs_bench-3-0123456789abcdef").reason == 0
    assert not bench.cut.is_set()


def test_a_restarted_broker_still_has_what_was_retained(box_with_broker: Any, peer: Callable[..., Peer]) -> None:
    peer("_cloud", client_id="worker-1").says(topics.HOST_STATE, b"online", retain=True)
    box_with_broker.stop()
    box_with_broker.start_broker()
    bench = peer("bench-1")
    bench.hears(topics.HOST_STATE)
    assert bench.next() == (topics.HOST_STATE, b"online")


@pytest.mark.mosquitto_sub
def test_the_health_check_of_the_compose_file_hears_the_broker(box_with_broker: Any) -> None:
    program = shutil.which("mosquitto_sub")
    assert program is not None
    folder = box_with_broker.folder / "probe"
    folder.mkdir()
    (folder / "mosquitto_sub").write_text(
        box_with_broker.rendered(box_with_broker.secret("broker/mosquitto_sub")) + "\n"
    )
    done = subprocess.run(
        [program, "-C", "1", "-W", "15"],
        env=os.environ | {"XDG_CONFIG_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "seconds" in done.stdout


def test_the_acl_is_the_contracts() -> None:
    lines = (ROOT / "docker" / "mosquitto.acl").read_text().splitlines()
    patterns = [line.split() for line in lines if line.startswith("pattern")]
    written = {
        kind: {name.replace("%u", "bench-1") for _, k, name in patterns if k == kind} for kind in ("read", "write")
    }
    assert written == {
        "read": set(topics.receive_filters("bench-1")),
        "write": set(topics.publish_filters("bench-1")),
    }


def test_an_agent_that_speaks_while_it_hears_keeps_its_one_connection(
    box_with_broker: Any, peer: Callable[..., Peer], tmp_path: Path
) -> None:
    """One TLS connection has one thread: two at once garble it, and the broker cuts it."""
    cloud, count = peer("_cloud", client_id="worker-1"), 600
    cloud.hears(topics.up("bench-1", "event"))
    cloud.says(topics.HOST_STATE, retain=True)
    told: list[BusEvent] = []
    (tmp_path / "token").write_text(TOKENS["bench-1"])
    settings = MqttSettings(
        host="localhost", port=box_with_broker.devices_port, ca_file=box_with_broker.ca, token_file=tmp_path / "token"
    )
    bus = PahoBus(settings, client_id="bench-1", deliver=told.append)

    def wait_for(enough: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + 60
        while not enough():
            assert time.monotonic() < ends_s, [event for event in told if not isinstance(event, BusMessage)]
            time.sleep(0.01)

    def heard(topic: str) -> int:
        return sum(isinstance(event, BusMessage) and event.topic == topic for event in told)

    def speak_down() -> None:
        for _ in range(count):
            cloud.says(topics.down("bench-1", "ack"), b"d" * 500)

    bus.connect("s1", will_topic=topics.up("bench-1", "state"), will_payload=b"away")
    try:
        wait_for(lambda: bool(told))
        assert told == [BusConnected("s1")]
        bus.subscribe((topics.down("bench-1", "ack"), topics.HOST_STATE))
        wait_for(lambda: heard(topics.HOST_STATE) > 0)  # retained: what is said from now on is heard
        other = threading.Thread(target=speak_down)
        other.start()
        for _ in range(count):
            bus.publish(Publish(topics.up("bench-1", "event"), b"u" * 500, qos=1, kind="event"))
            time.sleep(0.001)
        other.join()
        wait_for(lambda: cloud.told.qsize() >= count)
        wait_for(lambda: heard(topics.down("bench-1", "ack")) >= count)
        assert [event for event in told if not isinstance(event, BusMessage)] == [BusConnected("s1")]
    finally:
        bus.disconnect()
