"""The port to the broker."""

from __future__ import annotations

from typing import Protocol

from edge_agent.uplink.traffic import Publish


class Bus(Protocol):
    """One connection at a time.

    Obligations: no method blocks for longer than about a second; whatever happens to a connection is told as a
    `BusEvent` with that connection's session, from any thread; after `disconnect` or a newer `connect` nothing more is
    delivered that matters, and what still comes carries the old session.
    """

    def connect(self, session: str, *, will_topic: str, will_payload: bytes) -> None:
        """Begins to connect; BusConnected, BusFailed or BusRefused follows."""
        ...

    def subscribe(self, topics: tuple[str, ...], *, qos: int = 1) -> None:
        """Subscribes."""
        ...

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        """Ends subscriptions, also those of a session that the broker has kept."""
        ...

    def publish(self, message: Publish) -> None:
        """Hands a message over. One that is lost with the connection is the caller's to repeat."""
        ...

    def disconnect(self) -> None:
        """Leaves in order: what was handed over is sent first, for at most about a second."""
        ...
