"""Where a rollout stands, as a state machine. Pure.

RUNNING and SOAKING are of one wave, whose number is kept beside the state.

```mermaid
stateDiagram-v2
    [*] --> draft
    draft --> approved: approve
    draft --> denied: deny
    draft --> superseded: supersede
    approved --> running: open_wave
    approved --> paused: pause
    approved --> aborting: abort
    approved --> superseded: supersede
    running --> soaking: soak
    running --> paused: pause
    running --> aborting: abort
    running --> superseded: supersede
    soaking --> running: open_wave
    soaking --> completed: complete
    soaking --> paused: pause
    soaking --> aborting: abort
    soaking --> superseded: supersede
    paused --> approved: resume_approved
    paused --> running: resume_running
    paused --> soaking: resume_soaking
    paused --> aborting: abort
    paused --> superseded: supersede
    aborting --> aborted: returned
    completed --> aborting: roll_back
```
"""

from __future__ import annotations

from enum import StrEnum

from fleet.contract.release import RolloutState

S = RolloutState


class RolloutEvent(StrEnum):
    """What moves a rollout; stored with each decision, never renamed."""

    APPROVE = "approve"
    DENY = "deny"
    OPEN_WAVE = "open_wave"
    SOAK = "soak"
    COMPLETE = "complete"
    PAUSE = "pause"
    RESUME_APPROVED = "resume_approved"
    RESUME_RUNNING = "resume_running"
    RESUME_SOAKING = "resume_soaking"
    ABORT = "abort"
    ROLL_BACK = "roll_back"
    RETURNED = "returned"
    SUPERSEDE = "supersede"


E = RolloutEvent


class RolloutError(ValueError):
    """An event that cannot happen in this state."""

    def __init__(self, state: RolloutState, event: RolloutEvent) -> None:
        super().__init__(f"a rollout that is {state.value} cannot take {event.value}")


TRANSITIONS: dict[tuple[RolloutState, RolloutEvent], RolloutState] = {
    (S.DRAFT, E.APPROVE): S.APPROVED,
    (S.DRAFT, E.DENY): S.DENIED,
    (S.DRAFT, E.SUPERSEDE): S.SUPERSEDED,
    (S.APPROVED, E.OPEN_WAVE): S.RUNNING,
    (S.APPROVED, E.PAUSE): S.PAUSED,
    (S.APPROVED, E.ABORT): S.ABORTING,
    (S.APPROVED, E.SUPERSEDE): S.SUPERSEDED,
    (S.RUNNING, E.SOAK): S.SOAKING,
    (S.RUNNING, E.PAUSE): S.PAUSED,
    (S.RUNNING, E.ABORT): S.ABORTING,
    (S.RUNNING, E.SUPERSEDE): S.SUPERSEDED,
    (S.SOAKING, E.OPEN_WAVE): S.RUNNING,
    (S.SOAKING, E.COMPLETE): S.COMPLETED,
    (S.SOAKING, E.PAUSE): S.PAUSED,
    (S.SOAKING, E.ABORT): S.ABORTING,
    (S.SOAKING, E.SUPERSEDE): S.SUPERSEDED,
    (S.PAUSED, E.RESUME_APPROVED): S.APPROVED,
    (S.PAUSED, E.RESUME_RUNNING): S.RUNNING,
    (S.PAUSED, E.RESUME_SOAKING): S.SOAKING,
    (S.PAUSED, E.ABORT): S.ABORTING,
    (S.PAUSED, E.SUPERSEDE): S.SUPERSEDED,
    (S.ABORTING, E.RETURNED): S.ABORTED,
    (S.COMPLETED, E.ROLL_BACK): S.ABORTING,
}

OPEN_STATES = frozenset({S.DRAFT, S.APPROVED, S.RUNNING, S.SOAKING, S.PAUSED, S.ABORTING})
"""States in which a device of the rollout is its own: no other rollout may take it."""

MOVING_STATES = frozenset({S.APPROVED, S.RUNNING, S.SOAKING, S.ABORTING})
"""States that are left without a person's doing."""

_RESUME = {
    S.APPROVED: RolloutEvent.RESUME_APPROVED,
    S.RUNNING: RolloutEvent.RESUME_RUNNING,
    S.SOAKING: RolloutEvent.RESUME_SOAKING,
}


def advance(state: RolloutState, event: RolloutEvent) -> RolloutState:
    """The state after an event; RolloutError for a pair without a row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise RolloutError(state, event) from None


def resume_event(paused_from: RolloutState) -> RolloutEvent:
    """The event that takes a paused rollout back to where it was; RolloutError for where no pause begins."""
    try:
        return _RESUME[paused_from]
    except KeyError:
        raise RolloutError(paused_from, RolloutEvent.PAUSE) from None
