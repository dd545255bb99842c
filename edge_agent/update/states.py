"""The model update as a state machine. Pure.

`waiting` has a reason beside it (busy, link, space); `failed`, `rolled_back` and `rejected` have a code.

```mermaid
stateDiagram-v2
    [*] --> idle
    idle --> downloading: wanted
    idle --> confirmed: in_place
    idle --> confirmed: restored
    idle --> rejected: refused
    idle --> rolled_back: lost
    downloading --> downloading: disturbed
    downloading --> waiting: held
    downloading --> verified: delivered
    downloading --> failed: failed
    downloading --> rejected: refused
    downloading --> cancelled: cancelled
    downloading --> superseded: superseded
    downloading --> rolled_back: lost
    waiting --> downloading: resumed
    waiting --> verified: freed
    waiting --> failed: failed
    waiting --> rejected: refused
    waiting --> cancelled: cancelled
    waiting --> superseded: superseded
    waiting --> rolled_back: lost
    verified --> waiting: held
    verified --> trial: activated
    verified --> failed: failed
    verified --> rejected: refused
    verified --> cancelled: cancelled
    verified --> superseded: superseded
    verified --> rolled_back: lost
    trial --> unconfirmed: passed
    trial --> failed: failed
    trial --> cancelled: cancelled
    trial --> superseded: superseded
    trial --> rolled_back: lost
    unconfirmed --> confirmed: proven
    unconfirmed --> rolled_back: failed
    unconfirmed --> cancelled: cancelled
    unconfirmed --> superseded: superseded
    unconfirmed --> rolled_back: lost
    confirmed --> downloading: wanted
    confirmed --> confirmed: in_place
    confirmed --> confirmed: restored
    confirmed --> rejected: refused
    confirmed --> rolled_back: lost
    failed --> downloading: wanted
    failed --> confirmed: in_place
    failed --> confirmed: restored
    failed --> rejected: refused
    failed --> rolled_back: lost
    rolled_back --> downloading: wanted
    rolled_back --> confirmed: in_place
    rolled_back --> confirmed: restored
    rolled_back --> rejected: refused
    rolled_back --> rolled_back: lost
    rejected --> idle: cleared
    rejected --> downloading: wanted
    rejected --> confirmed: in_place
    rejected --> confirmed: restored
    rejected --> rejected: refused
    rejected --> rolled_back: lost
    cancelled --> downloading: wanted
    cancelled --> confirmed: in_place
    cancelled --> confirmed: restored
    cancelled --> rejected: refused
    cancelled --> rolled_back: lost
    superseded --> downloading: wanted
    superseded --> confirmed: in_place
    superseded --> confirmed: restored
    superseded --> rejected: refused
    superseded --> rolled_back: lost
```
"""

from __future__ import annotations

from enum import StrEnum

from fleet.contract.messages import UpdateState as S


class UpdateTrigger(StrEnum):
    """What moves it."""

    WANTED = "wanted"
    """A trusted release is to be fetched."""
    HELD = "held"
    """Not now: link away, no room, or a slide is being read."""
    RESUMED = "resumed"
    """The reason to hold the download is over."""
    DISTURBED = "disturbed"
    """Something came in the place of a chunk that is waited for, which is asked for again."""
    FREED = "freed"
    """The reason to hold the activation is over."""
    DELIVERED = "delivered"
    """Every byte is here and verified."""
    ACTIVATED = "activated"
    """It is this device's turn."""
    PASSED = "passed"
    """The trial in a process of its own was good."""
    PROVEN = "proven"
    """Live fields agree with the model before."""
    FAILED = "failed"
    REFUSED = "refused"
    """What was offered must not be installed."""
    CLEARED = "cleared"
    """The trust that had been refused is good again."""
    IN_PLACE = "in_place"
    """What is wanted is what runs."""
    RESTORED = "restored"
    """What is wanted is the model before, which is still here."""
    CANCELLED = "cancelled"
    """What runs (or nothing) is wanted after all."""
    SUPERSEDED = "superseded"
    """Another release is wanted now."""
    LOST = "lost"
    """The model that ran cannot be used any more; the one before runs."""


T = UpdateTrigger


class UpdateStateError(RuntimeError):
    """An event that cannot happen in this state: a defect of the agent, never silence."""


TRANSITIONS: dict[tuple[S, UpdateTrigger], S] = {
    (S.IDLE, T.WANTED): S.DOWNLOADING,
    (S.IDLE, T.IN_PLACE): S.CONFIRMED,
    (S.IDLE, T.RESTORED): S.CONFIRMED,
    (S.IDLE, T.REFUSED): S.REJECTED,
    (S.IDLE, T.LOST): S.ROLLED_BACK,
    (S.DOWNLOADING, T.DISTURBED): S.DOWNLOADING,
    (S.DOWNLOADING, T.HELD): S.WAITING,
    (S.DOWNLOADING, T.DELIVERED): S.VERIFIED,
    (S.DOWNLOADING, T.FAILED): S.FAILED,
    (S.DOWNLOADING, T.REFUSED): S.REJECTED,
    (S.DOWNLOADING, T.CANCELLED): S.CANCELLED,
    (S.DOWNLOADING, T.SUPERSEDED): S.SUPERSEDED,
    (S.DOWNLOADING, T.LOST): S.ROLLED_BACK,
    (S.WAITING, T.RESUMED): S.DOWNLOADING,
    (S.WAITING, T.FREED): S.VERIFIED,
    (S.WAITING, T.FAILED): S.FAILED,
    (S.WAITING, T.REFUSED): S.REJECTED,
    (S.WAITING, T.CANCELLED): S.CANCELLED,
    (S.WAITING, T.SUPERSEDED): S.SUPERSEDED,
    (S.WAITING, T.LOST): S.ROLLED_BACK,
    (S.VERIFIED, T.HELD): S.WAITING,
    (S.VERIFIED, T.ACTIVATED): S.TRIAL,
    (S.VERIFIED, T.FAILED): S.FAILED,
    (S.VERIFIED, T.REFUSED): S.REJECTED,
    (S.VERIFIED, T.CANCELLED): S.CANCELLED,
    (S.VERIFIED, T.SUPERSEDED): S.SUPERSEDED,
    (S.VERIFIED, T.LOST): S.ROLLED_BACK,
    (S.TRIAL, T.PASSED): S.UNCONFIRMED,
    (S.TRIAL, T.FAILED): S.FAILED,
    (S.TRIAL, T.CANCELLED): S.CANCELLED,
    (S.TRIAL, T.SUPERSEDED): S.SUPERSEDED,
    (S.TRIAL, T.LOST): S.ROLLED_BACK,
    (S.UNCONFIRMED, T.PROVEN): S.CONFIRMED,
    (S.UNCONFIRMED, T.FAILED): S.ROLLED_BACK,
    (S.UNCONFIRMED, T.CANCELLED): S.CANCELLED,
    (S.UNCONFIRMED, T.SUPERSEDED): S.SUPERSEDED,
    (S.UNCONFIRMED, T.LOST): S.ROLLED_BACK,
    (S.CONFIRMED, T.WANTED): S.DOWNLOADING,
    (S.CONFIRMED, T.IN_PLACE): S.CONFIRMED,
    (S.CONFIRMED, T.RESTORED): S.CONFIRMED,
    (S.CONFIRMED, T.REFUSED): S.REJECTED,
    (S.CONFIRMED, T.LOST): S.ROLLED_BACK,
    (S.FAILED, T.WANTED): S.DOWNLOADING,
    (S.FAILED, T.IN_PLACE): S.CONFIRMED,
    (S.FAILED, T.RESTORED): S.CONFIRMED,
    (S.FAILED, T.REFUSED): S.REJECTED,
    (S.FAILED, T.LOST): S.ROLLED_BACK,
    (S.ROLLED_BACK, T.WANTED): S.DOWNLOADING,
    (S.ROLLED_BACK, T.IN_PLACE): S.CONFIRMED,
    (S.ROLLED_BACK, T.RESTORED): S.CONFIRMED,
    (S.ROLLED_BACK, T.REFUSED): S.REJECTED,
    (S.ROLLED_BACK, T.LOST): S.ROLLED_BACK,
    (S.REJECTED, T.CLEARED): S.IDLE,
    (S.REJECTED, T.WANTED): S.DOWNLOADING,
    (S.REJECTED, T.IN_PLACE): S.CONFIRMED,
    (S.REJECTED, T.RESTORED): S.CONFIRMED,
    (S.REJECTED, T.REFUSED): S.REJECTED,
    (S.REJECTED, T.LOST): S.ROLLED_BACK,
    (S.CANCELLED, T.WANTED): S.DOWNLOADING,
    (S.CANCELLED, T.IN_PLACE): S.CONFIRMED,
    (S.CANCELLED, T.RESTORED): S.CONFIRMED,
    (S.CANCELLED, T.REFUSED): S.REJECTED,
    (S.CANCELLED, T.LOST): S.ROLLED_BACK,
    (S.SUPERSEDED, T.WANTED): S.DOWNLOADING,
    (S.SUPERSEDED, T.IN_PLACE): S.CONFIRMED,
    (S.SUPERSEDED, T.RESTORED): S.CONFIRMED,
    (S.SUPERSEDED, T.REFUSED): S.REJECTED,
    (S.SUPERSEDED, T.LOST): S.ROLLED_BACK,
}

RESTING = frozenset({S.IDLE, S.CONFIRMED, S.FAILED, S.ROLLED_BACK, S.REJECTED, S.CANCELLED, S.SUPERSEDED})
"""Nothing is under way."""
UNDER_WAY = frozenset({S.DOWNLOADING, S.WAITING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED})
"""A release is on its way; it is named in the record."""


def advance(state: S, trigger: UpdateTrigger) -> S:
    """The next state; UpdateStateError for a pair without a row."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError as exc:
        raise UpdateStateError(f"the update is {state} and cannot take {trigger}") from exc
