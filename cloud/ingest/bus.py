"""The broker, seen from the cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from cloud.errors import CloudError


class BrokerDown(CloudError):
    """The broker cannot be reached, refuses us, or went away; a new connection is tried later."""


class BrokerRefused(BrokerDown):
    """The broker answers, but not to this account: the operator sets the account right."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message as it came.

    Attributes:
        retained: it is the broker's memory, not news from the device.
        receipt: what `done` needs.
    """

    topic: str
    payload: bytes
    retained: bool = False
    receipt: object = None


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when this connection dies."""

    topic: str
    payload: bytes


class Bus(Protocol):
    """One connection. After `BrokerDown` it is used no more: close it and make a new one."""

    async def connect(self) -> None:
        """Connects and subscribes; BrokerDown when that fails."""

    async def receive(self, *, limit: int, wait_s: float) -> list[Incoming]:
        """What has come, at most `limit`; waits at most `wait_s` for the first. BrokerDown when the link is lost."""

    def done(self, incoming: Incoming) -> None:
        """Tells the broker that a message is safe; until then it is delivered again after a loss."""

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None, qos: Literal[0, 1] = 1
    ) -> None:
        """Publishes at least once and returns when the broker has it (QoS 1), or at most once and returns when it is
        on its way (QoS 0); BrokerDown otherwise."""

    async def close(self) -> None:
        """Ends the connection cleanly, without the Will."""
