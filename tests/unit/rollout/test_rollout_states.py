"""The rollout's state machine: table, diagram, reachability."""

from __future__ import annotations

import re

import pytest

from fleet.contract.release import RolloutState
from fleet.rollout import states
from fleet.rollout.states import OPEN_STATES, TRANSITIONS, RolloutError, RolloutEvent, advance, resume_event

ENDS = {RolloutState.ABORTED, RolloutState.DENIED, RolloutState.SUPERSEDED}
KNOWN = set(RolloutState) - {RolloutState.UNKNOWN}


def test_the_diagram_is_the_table() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", states.__doc__ or "", re.MULTILINE))
    assert drawn == {(a.value, b.value, event.value) for (a, event), b in TRANSITIONS.items()}


def test_every_state_can_be_reached_every_event_is_used_and_only_ends_are_ends() -> None:
    reached = {RolloutState.DRAFT}
    while further := {b for (a, _), b in TRANSITIONS.items() if a in reached} - reached:
        reached |= further
    assert reached == KNOWN
    assert {event for _, event in TRANSITIONS} == set(RolloutEvent)
    assert {a for a, _ in TRANSITIONS} == KNOWN - ENDS


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("event", list(RolloutEvent))
def test_each_pair_is_a_row_or_an_error_that_names_both(state: RolloutState, event: RolloutEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
        return
    with pytest.raises(RolloutError, match=f"{state.value} cannot take {event.value}"):
        advance(state, event)


def test_whatever_can_be_paused_can_be_resumed_to_where_it_was_and_aborted() -> None:
    for state in (state for (state, event) in TRANSITIONS if event is RolloutEvent.PAUSE):
        assert advance(RolloutState.PAUSED, resume_event(state)) is state
        assert advance(state, RolloutEvent.ABORT) is RolloutState.ABORTING
    with pytest.raises(RolloutError):
        resume_event(RolloutState.COMPLETED)


def test_a_state_in_which_devices_are_held_is_left_for_good_only_by_an_end() -> None:
    for (before, _), after in TRANSITIONS.items():
        if before in OPEN_STATES and after not in OPEN_STATES:
            assert after in ENDS | {RolloutState.COMPLETED}
