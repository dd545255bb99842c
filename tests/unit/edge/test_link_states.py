"""The two state machines of the uplink: tables, diagrams, reachability."""

from __future__ import annotations

import re
from enum import StrEnum
from types import ModuleType

import pytest

from edge_agent.uplink import asking, link

MACHINES = [
    (link, link.LinkState, link.LinkState.AWAY),
    (asking, asking.AskState, asking.AskState.READY),
]


@pytest.mark.parametrize(("module", "states", "first"), MACHINES)
def test_the_diagram_is_the_table(module: ModuleType, states: type[StrEnum], first: StrEnum) -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", module.__doc__ or "", re.MULTILINE))
    table = {(a.value, b.value, trigger.value) for (a, trigger), b in module.TRANSITIONS.items()}
    assert drawn == table
    assert f"[*] --> {first.value}" in (module.__doc__ or "")


@pytest.mark.parametrize(("module", "states", "first"), MACHINES)
def test_every_state_can_be_reached_and_every_trigger_is_used(
    module: ModuleType, states: type[StrEnum], first: StrEnum
) -> None:
    reached = {first}
    while True:
        further = {b for (a, _), b in module.TRANSITIONS.items() if a in reached} - reached
        if not further:
            break
        reached |= further
    assert reached == set(states)
    assert {a for a, _ in module.TRANSITIONS} == set(states)


def test_the_link_can_be_stopped_in_every_state() -> None:
    for state in link.LinkState:
        assert link.advance(state, link.LinkTrigger.STOP) is link.LinkState.STOPPED


def test_a_pair_without_a_row_is_an_error() -> None:
    with pytest.raises(link.LinkError, match="away and cannot take connected"):
        link.advance(link.LinkState.AWAY, link.LinkTrigger.CONNECTED)
