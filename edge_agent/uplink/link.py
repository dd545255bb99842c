"""The link to the broker as a state machine. Pure.

```mermaid
stateDiagram-v2
    [*] --> away
    away --> connecting: due
    away --> stopped: stop
    connecting --> held: connected
    connecting --> away: failed
    connecting --> away: lost
    connecting --> refused: refused
    connecting --> stopped: stop
    held --> flowing: host_online
    held --> held: host_offline
    held --> away: lost
    held --> refused: refused
    held --> stopped: stop
    flowing --> flowing: host_online
    flowing --> held: host_offline
    flowing --> away: lost
    flowing --> refused: refused
    flowing --> stopped: stop
    refused --> connecting: due
    refused --> stopped: stop
    stopped --> stopped: stop
```
"""

from __future__ import annotations

from enum import StrEnum


class LinkState(StrEnum):
    """Where the connection stands."""

    AWAY = "away"
    """Not connected; tried again with growing pauses."""
    CONNECTING = "connecting"
    HELD = "held"
    """Connected; bulk waits because nobody has said that the cloud's ingest is there."""
    FLOWING = "flowing"
    REFUSED = "refused"
    """The broker refuses our token; tried again rarely, or at once when the token changes."""
    STOPPED = "stopped"


class LinkTrigger(StrEnum):
    """What moves it."""

    DUE = "due"
    CONNECTED = "connected"
    FAILED = "failed"
    REFUSED = "refused"
    LOST = "lost"
    HOST_ONLINE = "host_online"
    HOST_OFFLINE = "host_offline"
    STOP = "stop"


class LinkError(RuntimeError):
    """An event that cannot happen in this state: a defect of the agent, never silence."""


TRANSITIONS: dict[tuple[LinkState, LinkTrigger], LinkState] = {
    (LinkState.AWAY, LinkTrigger.DUE): LinkState.CONNECTING,
    (LinkState.AWAY, LinkTrigger.STOP): LinkState.STOPPED,
    (LinkState.CONNECTING, LinkTrigger.CONNECTED): LinkState.HELD,
    (LinkState.CONNECTING, LinkTrigger.FAILED): LinkState.AWAY,
    (LinkState.CONNECTING, LinkTrigger.LOST): LinkState.AWAY,
    (LinkState.CONNECTING, LinkTrigger.REFUSED): LinkState.REFUSED,
    (LinkState.CONNECTING, LinkTrigger.STOP): LinkState.STOPPED,
    (LinkState.HELD, LinkTrigger.HOST_ONLINE): LinkState.FLOWING,
    (LinkState.HELD, LinkTrigger.HOST_OFFLINE): LinkState.HELD,
    (LinkState.HELD, LinkTrigger.LOST): LinkState.AWAY,
    (LinkState.HELD, LinkTrigger.REFUSED): LinkState.REFUSED,
    (LinkState.HELD, LinkTrigger.STOP): LinkState.STOPPED,
    (LinkState.FLOWING, LinkTrigger.HOST_ONLINE): LinkState.FLOWING,
    (LinkState.FLOWING, LinkTrigger.HOST_OFFLINE): LinkState.HELD,
    (LinkState.FLOWING, LinkTrigger.LOST): LinkState.AWAY,
    (LinkState.FLOWING, LinkTrigger.REFUSED): LinkState.REFUSED,
    (LinkState.FLOWING, LinkTrigger.STOP): LinkState.STOPPED,
    (LinkState.REFUSED, LinkTrigger.DUE): LinkState.CONNECTING,
    (LinkState.REFUSED, LinkTrigger.STOP): LinkState.STOPPED,
    (LinkState.STOPPED, LinkTrigger.STOP): LinkState.STOPPED,
}

CONNECTED_STATES = frozenset({LinkState.HELD, LinkState.FLOWING})


def advance(state: LinkState, trigger: LinkTrigger) -> LinkState:
    """The next state; LinkError for a pair without a row."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError as exc:
        raise LinkError(f"the link is {state} and cannot take {trigger}") from exc
