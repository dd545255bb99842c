"""What can go wrong in the agent, by who must act.

EdgeError
├── ConfigurationError   a setting is wrong: stop and correct it
├── DeviceFault          camera, disk or port of this workstation: a person here acts
│   ├── StoreFull        no room: free some; the agent waits and loses nothing that was committed
│   ├── StoreFault       the disk does not read or write
│   ├── StoreDamaged     the database does not pass its own check
│   │   └── StoreOfNewerAgent   it is sound, and of an agent that knows more tables: that one is needed
│   └── PortInUse        somebody else has the console's address
├── LinkDown             network, broker or cloud away: retried by itself
├── PeerRejected         broker or cloud refused us: not retried until something has changed
├── SlideClosed          a field came for a slide that has its result: it belongs to the next one
└── BadArtefact          the model bundle cannot be used: never retried, reported
"""

from __future__ import annotations


class EdgeError(Exception):
    """Root of everything the agent raises on purpose; the text says what to do."""


class ConfigurationError(EdgeError):
    """A setting is missing, unknown or out of range."""


class DeviceFault(EdgeError):
    """Something of this workstation does not work."""


class StoreFull(DeviceFault):
    """The disk, or the share of it that the store may use, is full."""


class StoreFault(DeviceFault):
    """The disk under the store cannot be read or written."""


class StoreDamaged(DeviceFault):
    """The store's file is no database any more, or fails its integrity check."""


class StoreOfNewerAgent(StoreDamaged):
    """The store was written by a newer agent; nothing may be repaired in it."""


class PortInUse(DeviceFault):
    """The console's address is taken."""


class LinkDown(EdgeError):
    """Nobody decided anything: try again, after `retry_after_s` where it is known."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PeerRejected(EdgeError):
    """The peer understood and refused.

    Attributes:
        status: HTTP status or MQTT reason code.
        credentials: it is the token that was refused, not this one request.
    """

    def __init__(self, message: str, *, status: int, credentials: bool) -> None:
        super().__init__(message)
        self.status = status
        self.credentials = credentials


class BadArtefact(EdgeError):
    """The model bundle is missing, corrupt, incompatible, or fails its self-test."""


class SlideClosed(EdgeError):
    """The slide was closed while the field was read."""
