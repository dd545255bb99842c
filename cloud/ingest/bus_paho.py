"""MQTT 5 by paho: the cloud's one door to the broker.

paho's thread only converts and hands over to the event loop. Messages are acknowledged to the broker by `done`, that
is after the commit; `Receive Maximum` bounds how many may be in hand, and so the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from cloud.config import BrokerSettings
from cloud.ingest.bus import BrokerDown, BrokerRefused, Incoming, Will

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 10.0
MAX_WAITING = 5000
"""QoS 0 messages beyond this are dropped and counted: telemetry may be lost, the rest is bounded by the protocol."""


class PahoBus:
    """One connection of one client id.

    Args:
        settings: address, account, limits; `host` must be set.
        client_id: two connections with the same one push each other out.
        subscriptions: topic filters, QoS 1.
        will: what is published when this connection dies.
    """

    def __init__(
        self, settings: BrokerSettings, *, client_id: str, subscriptions: Sequence[str] = (), will: Will | None = None
    ) -> None:
        self._settings = settings
        self._subscriptions = list(subscriptions)
        self._queue: asyncio.Queue[Incoming] = asyncio.Queue()
        self._sent: dict[int, asyncio.Future[None]] = {}
        self._lost = asyncio.Event()
        self._news = asyncio.Event()
        self._why_lost = ""
        self.dropped = 0
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if settings.user is not None:
            self._client.username_pw_set(settings.user, settings.secret())
        if settings.uses_tls:
            # None: the certificates that the system trusts.
            self._client.tls_set(ca_certs=str(settings.tls_ca_file) if settings.tls_ca_file else None)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)

    async def connect(self) -> None:
        """Connects and subscribes; BrokerDown when that fails."""
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        client = self._client
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_message, client.on_publish = (
            self._on_subscribe,
            self._on_message,
            self._on_publish,
        )
        place = f"{self._settings.host}:{self._settings.port}"
        try:
            await asyncio.to_thread(self._open)
            client.loop_start()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected
                if self._subscriptions:
                    client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in self._subscriptions])
                    await self._subscribed
        except TimeoutError as exc:
            await self.close()
            raise BrokerDown(f"the broker at {place} does not answer") from exc
        except (OSError, ValueError) as exc:
            raise BrokerDown(f"the broker at {place} cannot be reached: {exc}") from exc
        except BrokerDown:
            await self.close()
            raise

    async def receive(self, *, limit: int, wait_s: float) -> list[Incoming]:
        """What has come, at most `limit`; waits at most `wait_s` for the first. BrokerDown when the link is lost."""
        if self._queue.empty() and not self._lost.is_set():
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_s)
        found: list[Incoming] = []
        while len(found) < limit and not self._queue.empty():
            found.append(self._queue.get_nowait())
        if not found and self._lost.is_set():
            raise BrokerDown(self._why_lost)
        return found

    def done(self, incoming: Incoming) -> None:
        """Tells the broker that a message is safe; without effect after a loss (it will come again)."""
        if isinstance(incoming.receipt, int) and not self._lost.is_set():
            self._client.ack(incoming.receipt, 1)

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None, qos: Literal[0, 1] = 1
    ) -> None:
        """Publishes; returns when the broker has it (QoS 1) or it is written out (QoS 0), BrokerDown otherwise."""
        if self._lost.is_set():
            raise BrokerDown(self._why_lost)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if expiry_s is not None:
            properties.MessageExpiryInterval = max(1, expiry_s)
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_QUEUE_SIZE):
            raise BrokerDown(f"publishing failed: {info.rc.name}")
        # on_publish comes through the event loop, so it cannot be handled before this line.
        sent = self._sent[info.mid] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await sent
        except TimeoutError as exc:
            raise BrokerDown("the broker does not confirm what is published") from exc
        finally:
            self._sent.pop(info.mid, None)

    async def close(self) -> None:
        """Ends the connection cleanly, without the Will."""
        self._lose("closed")
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def _open(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._settings.receive_maximum
        properties.MaximumPacketSize = self._settings.max_packet_bytes
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        # A clean start: the devices' spools hold what was not acknowledged, the broker need not.
        self._client.connect(
            self._settings.host or "",
            self._settings.port,
            keepalive=self._settings.keepalive_s,
            clean_start=True,
            properties=properties,
        )

    # Called from paho's thread.

    def _on_connect(self, client: Client, data: Any, flags: ConnectFlags, code: ReasonCode, props: Any) -> None:
        self._call(self._answered, self._connected, f"the broker refuses us: {code}" if code.is_failure else None)

    def _on_subscribe(self, client: Client, data: Any, mid: int, codes: list[ReasonCode], props: Any) -> None:
        refused = [f"{t} ({c})" for t, c in zip(self._subscriptions, codes, strict=False) if c.is_failure]
        self._call(self._answered, self._subscribed, f"subscription refused: {', '.join(refused)}" if refused else None)

    def _on_disconnect(self, client: Client, data: Any, flags: DisconnectFlags, code: ReasonCode, props: Any) -> None:
        self._call(self._lose, f"the broker went away: {code}")

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        receipt = message.mid if message.qos else None
        incoming = Incoming(message.topic, bytes(message.payload), bool(message.retain), receipt)
        self._call(self._take, incoming)

    def _on_publish(self, client: Client, data: Any, mid: int, code: ReasonCode, props: Any) -> None:
        self._call(self._published, mid, code)

    def _call(self, function: Any, *args: Any) -> None:
        # The loop may be gone already when the last callbacks come.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    # Called in the event loop.

    def _answered(self, future: asyncio.Future[None], refusal: str | None) -> None:
        if future.done():
            return
        if refusal is None:
            future.set_result(None)
        else:
            future.set_exception(BrokerRefused(refusal))

    def _take(self, incoming: Incoming) -> None:
        if incoming.receipt is None and self._queue.qsize() >= MAX_WAITING:
            self.dropped += 1
            return
        self._queue.put_nowait(incoming)
        self._news.set()

    def _published(self, mid: int, code: ReasonCode) -> None:
        sent = self._sent.get(mid)
        if sent is None or sent.done():
            return
        if code.is_failure:
            sent.set_exception(BrokerDown(f"the broker does not take what is published: {code}"))
        else:
            sent.set_result(None)

    def _lose(self, why: str) -> None:
        if self._lost.is_set():
            return
        self._why_lost = why
        self._lost.set()
        self._news.set()
        for future in (self._connected, self._subscribed, *self._sent.values()):
            if not future.done():
                future.set_exception(BrokerDown(why))
                future.exception()
