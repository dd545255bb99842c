"""The table of the model update: its diagram, reach, totality."""

from __future__ import annotations

import re

import pytest

from edge_agent.update import states
from edge_agent.update.states import RESTING, TRANSITIONS, UNDER_WAY, UpdateStateError, UpdateTrigger, advance
from fleet.contract.messages import UpdateState

STATES = set(UpdateState) - {UpdateState.UNKNOWN}


def test_the_diagram_is_the_table() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", states.__doc__ or "", re.MULTILINE))
    assert drawn == {(a.value, b.value, trigger.value) for (a, trigger), b in TRANSITIONS.items()}
    assert "[*] --> idle" in (states.__doc__ or "")


def test_every_state_can_be_reached_left_and_every_trigger_is_used() -> None:
    reached = {UpdateState.IDLE}
    while further := {b for (a, _), b in TRANSITIONS.items() if a in reached} - reached:
        reached |= further
    assert reached == STATES
    assert {a for a, _ in TRANSITIONS} == STATES
    assert {trigger for _, trigger in TRANSITIONS} == set(UpdateTrigger)


def test_a_state_is_either_at_rest_or_under_way() -> None:
    assert RESTING | UNDER_WAY == STATES
    assert not RESTING & UNDER_WAY


@pytest.mark.parametrize("state", sorted(STATES))
@pytest.mark.parametrize("trigger", list(UpdateTrigger))
def test_the_table_is_total_a_pair_has_one_row_or_is_an_error(state: UpdateState, trigger: UpdateTrigger) -> None:
    if (state, trigger) in TRANSITIONS:
        assert advance(state, trigger) in STATES
    else:
        with pytest.raises(UpdateStateError, match=f"{state} and cannot take {trigger}"):
            advance(state, trigger)


@pytest.mark.parametrize("state", sorted(UNDER_WAY))
def test_whatever_is_under_way_can_be_cancelled_superseded_failed_and_lost(state: UpdateState) -> None:
    assert advance(state, UpdateTrigger.CANCELLED) is UpdateState.CANCELLED
    assert advance(state, UpdateTrigger.SUPERSEDED) is UpdateState.SUPERSEDED
    assert advance(state, UpdateTrigger.FAILED) in (UpdateState.FAILED, UpdateState.ROLLED_BACK)
    assert advance(state, UpdateTrigger.LOST) is UpdateState.ROLLED_BACK


@pytest.mark.parametrize("state", sorted(RESTING))
def test_at_rest_a_release_can_be_wanted_refused_and_found_in_place(state: UpdateState) -> None:
    assert advance(state, UpdateTrigger.WANTED) is UpdateState.DOWNLOADING
    assert advance(state, UpdateTrigger.REFUSED) is UpdateState.REJECTED
    assert advance(state, UpdateTrigger.IN_PLACE) is UpdateState.CONFIRMED
    assert advance(state, UpdateTrigger.RESTORED) is UpdateState.CONFIRMED
