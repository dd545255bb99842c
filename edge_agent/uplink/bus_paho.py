"""MQTT 5 by paho: the only door to it. Callbacks convert and hand over, nothing else.

A new client for each connection: its Will carries that connection's session, and nothing of an older one can leak in.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.config import MqttSettings, read_token
from edge_agent.errors import ConfigurationError
from edge_agent.uplink.traffic import (
    BusConnected,
    BusEvent,
    BusFailed,
    BusMessage,
    BusPublishRefused,
    BusRefused,
    Publish,
)

MAX_PACKET_BYTES = 1_000_000
FLUSH_S = 1.0
_REFUSALS = frozenset({"Bad user name or password", "Not authorized", "Banned", "Client identifier not valid"})
_FAILURE_CODE = 128


class _Client(mqtt.Client):
    """A client that says when its loop is over.

    The loop has to run in the thread of `loop_start`. With `loop_forever` in a thread of ours paho would write in the
    thread that publishes while the loop reads, and two threads at once garble a TLS connection: the broker cuts it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ended = threading.Event()
        self.why = "connection ended"

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """As paho's, called by the thread of `loop_start`."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except (OSError, ValueError, mqtt.WebsocketConnectionError) as exc:
            self.why = str(exc) or type(exc).__name__
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self.ended.set()


class PahoBus:
    """See `Bus`.

    Args:
        settings: broker, TLS, token file (read anew for each connection).
        client_id: the device's id.
        deliver: takes events, from paho's threads; must not block.
    """

    def __init__(self, settings: MqttSettings, *, client_id: str, deliver: Callable[[BusEvent], None]) -> None:
        self._settings = settings
        self._client_id = client_id
        self._deliver = deliver
        self._client: _Client | None = None
        self._handed: dict[int, tuple[str, mqtt.MQTTMessageInfo]] = {}

    def connect(self, session: str, *, will_topic: str, will_payload: bytes) -> None:
        """Begins to connect in a thread of its own."""
        self.disconnect()
        try:
            client = self._new_client(session)
        except (ConfigurationError, OSError, ValueError) as exc:
            # OSError and ValueError: an unreadable or unusable certificate file.
            self._deliver(BusFailed(session, str(exc)))
            return
        client.will_set(will_topic, will_payload, qos=1, retain=True)
        self._client = client
        threading.Thread(target=self._run, args=(client, session), name=f"mqtt-{session[-6:]}", daemon=True).start()

    def subscribe(self, topics: tuple[str, ...], *, qos: int = 1) -> None:
        """Retained messages come at each subscription."""
        if self._client is not None:
            self._client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic in topics])

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        """Tells the broker."""
        if self._client is not None:
            self._client.unsubscribe(list(topics))

    def publish(self, message: Publish) -> None:
        """Hands over to paho's queue."""
        if self._client is None:
            return
        properties = None
        if message.expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = message.expiry_s
        handed = self._client.publish(
            message.topic, message.payload, qos=message.qos, retain=message.retain, properties=properties
        )
        if message.qos:
            self._handed[handed.mid] = (message.kind, handed)

    def disconnect(self) -> None:
        """Waits at most FLUSH_S for what was handed over; idempotent."""
        client, self._client = self._client, None
        if client is None:
            return
        deadline_s = time.monotonic() + FLUSH_S
        while client.is_connected() and self._pending() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self._handed.clear()
        was_connected = client.is_connected()
        with contextlib.suppress(OSError, ValueError):
            client.disconnect()
        if was_connected:
            client.ended.wait(FLUSH_S)  # its thread says goodbye; without that the broker would publish the Will

    def _pending(self) -> bool:
        # Not just "is the table empty": an acknowledgement may overtake the entry it belongs to.
        with contextlib.suppress(RuntimeError, ValueError):
            return any(not info.is_published() for _, info in list(self._handed.values()))
        return False

    def _new_client(self, session: str) -> _Client:
        settings = self._settings
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5,
            transport="websockets" if settings.websockets else "tcp",
            reconnect_on_failure=False,
        )
        client.connect_timeout = settings.connect_timeout_s
        token = read_token(settings.token_file)
        if token is not None or settings.username is not None:
            client.username_pw_set(settings.username or self._client_id, token)
        if settings.tls:
            client.tls_set_context(ssl.create_default_context(cafile=settings.ca_file))
        client.max_inflight_messages_set(50)
        client.max_queued_messages_set(1000)
        self._set_callbacks(client, session)
        return client

    def _set_callbacks(self, client: mqtt.Client, session: str) -> None:
        def on_connect(_c: Any, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
            if not reason.is_failure:
                self._deliver(BusConnected(session))
            elif reason.getName() in _REFUSALS:
                self._deliver(BusRefused(session, reason.value, reason.getName()))
            else:
                self._deliver(BusFailed(session, f"the broker answers: {reason.getName()}"))

        def on_disconnect(_c: Any, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
            if reason.getName() in _REFUSALS:
                self._deliver(BusRefused(session, reason.value, reason.getName()))
            else:
                self._deliver(BusFailed(session, f"connection ended: {reason.getName()}"))

        def on_message(_c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
            self._deliver(BusMessage(session, message.topic, bytes(message.payload)))

        def on_publish(_c: Any, _u: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
            kind, _ = self._handed.pop(mid, ("other", None))
            if reason.value >= _FAILURE_CODE:
                self._deliver(BusPublishRefused(session, kind, reason.value))

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_message, client.on_publish = on_message, on_publish

    def _run(self, client: _Client, session: str) -> None:
        """One connection from its beginning to its end."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._settings.session_expiry_s
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        try:
            client.connect(
                self._settings.host or "",
                self._settings.port,
                keepalive=self._settings.keepalive_s,
                clean_start=False,
                properties=properties,
            )
        except (OSError, ValueError, mqtt.WebsocketConnectionError) as exc:
            self._deliver(BusFailed(session, str(exc) or type(exc).__name__))
            return
        client.loop_start()
        client.ended.wait()
        # Already told by on_disconnect where that was called; a second one carries a session that is over.
        self._deliver(BusFailed(session, client.why))
