"""A rollout in plain words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cloud.web.rollout_view import CODES, GATES, STATES, STEPS, actions_of, headline, page_of, why
from fleet.contract.http import DecisionRow, GateFigure, MemberRow, RolloutDetail, RolloutSummary
from fleet.contract.messages import Presence, SoakFigures, UpdateState
from fleet.contract.release import RolloutState, Thresholds, UpdateCode
from fleet.rollout.gates import wave_gates
from fleet.rollout.states import TRANSITIONS, RolloutEvent

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
R, S = RolloutState, UpdateState


def member(device: str, wave: int = 0, state: UpdateState = S.IDLE, **changes: Any) -> MemberRow:
    changes = {"presence": Presence.ONLINE, "offered": True} | changes
    return MemberRow(device=device, wave=wave, state=state, **changes)


def rollout(*members: MemberRow, state: RolloutState = R.RUNNING, reason: str = "", **changes: Any) -> RolloutDetail:
    summary = RolloutSummary(
        id="r-1",
        site="lab-a",
        counter=5,
        digest=DIGEST,
        version="1.1.0",
        state=state,
        reason=reason,
        wave=0,
        waves=1 + max((row.wave for row in members), default=0),
        devices=len(members),
        confirmed=sum(row.state is S.CONFIRMED for row in members),
        bad=0,
        created_at=NOW,
        created_by="op",
    )
    return RolloutDetail(summary=summary, thresholds=Thresholds(), members=members, **changes)


@pytest.mark.parametrize(
    ("reason", "state", "words"),
    [
        (
            "wave 0: bench-1 E_SELFTEST",
            R.ABORTED,
            "Stopped by itself: in wave 0, bench-1 says: the model fails its self-test (E_SELFTEST).",
        ),
        (
            "wave 2: a-1 E_SIG, a-2 rolled_back",
            R.ABORTING,
            "Stopped by itself: in wave 2, a-1 says: the signature is not good (E_SIG), a-2 went back by itself.",
        ),
        (
            "wave 0: disagreement 40% of white cells named differently",
            R.ABORTED,
            "Stopped by itself: in wave 0, disagreement 40% of white cells named differently.",
        ),
        ("manual: lunch", R.PAUSED, "Paused by a person: lunch."),
        ("manual: wrong release", R.ABORTED, "Stopped by a person: wrong release."),
        ("auto: the thresholds cannot be read", R.PAUSED, "Paused by itself: the thresholds cannot be read."),
        ("", R.ABORTED, "Stopped."),
    ],
)
def test_a_stored_reason_is_told_as_a_sentence(reason: str, state: RolloutState, words: str) -> None:
    assert why(reason, state) == words


def test_every_state_code_and_gate_has_its_words() -> None:
    assert set(STATES) == set(RolloutState)
    assert set(CODES) == {code.value for code in UpdateCode} - {"unknown"}
    gates = wave_gates([], 0, Thresholds(), now=NOW, soaking_since=None, evidence_accepted=True)
    assert [gate.name for gate in gates] == list(GATES)


@pytest.mark.parametrize("state", list(RolloutState))
def test_every_state_has_a_headline_and_only_what_is_possible_is_offered(state: RolloutState) -> None:
    assert headline(rollout(member("a-1"), state=state, reason="manual: x"), NOW).title
    events = {
        "pause": RolloutEvent.PAUSE,
        "abort": RolloutEvent.ABORT,
        "rollback": RolloutEvent.ROLL_BACK,
        "resume": RolloutEvent.RESUME_RUNNING,
    }
    for action in actions_of(rollout(member("a-1"), state=state)):
        assert (state, events[action]) in TRANSITIONS


@pytest.mark.parametrize(
    ("changes", "offered"),
    [
        ({}, True),
        ({"fields": (3.0, True), "latency": (None, True)}, False),
        ({"confirmed": (0.0, False)}, False),
        ({"undecided": (1.0, False)}, False),
        ({"disagreement": (0.9, False)}, False),
        ({"self_test": (1.0, False)}, False),
    ],
)
def test_a_waiver_is_offered_only_where_nothing_but_observations_is_lacking(
    changes: dict[str, tuple[float | None, bool]], offered: bool
) -> None:
    usual: dict[str, tuple[float | None, bool]] = {
        **dict.fromkeys(("confirmed", "undecided", "self_test", "disagreement"), (0.0, True)),
        **{"fields": (3.0, False), "latency": (None, False)},
    }
    gates = tuple(
        GateFigure(name=name, figure=figure, passed=passed) for name, (figure, passed) in (usual | changes).items()
    )
    for state in (R.RUNNING, R.SOAKING, R.PAUSED):
        assert ("waive" in page_of(rollout(member("a-1"), state=state, gates=gates), NOW).actions) is offered


def test_a_rollout_that_was_replaced_says_by_which() -> None:
    told = headline(rollout(member("a-1"), state=R.SUPERSEDED, reason="replaced by the rollout 9 of release 7"), NOW)
    assert told.title == "This rollout was replaced by a newer one."
    assert told.text == "It was replaced by the rollout 9 of release 7."


def test_a_device_moves_through_the_steps_and_a_bad_one_comes_first() -> None:
    soak = SoakFigures(fields=4, white_cells=9, disagreement_ratio=0.1)
    page = page_of(
        rollout(
            member("done", state=S.CONFIRMED),
            member("new", offered=False),
            member("live", state=S.UNCONFIRMED, soak=soak),
            member("away", state=S.TRIAL, presence=Presence.OFFLINE, straggler=True),
            member("bad", state=S.FAILED, code="E_LOAD"),
        ),
        NOW,
    )
    cells = {cell.name: cell for cell in page.waves[0].devices}
    assert [cell.name for cell in page.waves[0].devices] == ["bad", "away", "live", "new", "done"]
    assert {name: cell.steps for name, cell in cells.items()} == {"done": 5, "new": 0, "live": 4, "away": 2, "bad": 3}
    assert cells["done"].steps == len(STEPS)
    assert cells["bad"].detail == "the model cannot be loaded (E_LOAD)"
    assert cells["live"].detail == "4 of 10 fields, 10\u00a0% named differently"
    assert cells["away"].detail == "away at the deadline: gets it on its return"
    assert cells["new"].word == "waits for its wave"


def test_a_large_wave_shows_those_that_need_a_look_and_counts_the_others() -> None:
    members = [member(f"a-{i:03}", state=S.CONFIRMED) for i in range(100)]
    page = page_of(rollout(*members, member("z-bad", state=S.FAILED)), NOW)
    assert page.waves[0].devices[0].name == "z-bad"
    assert len(page.waves[0].devices) + page.waves[0].more == 101


def test_a_stopped_rollout_shows_the_gates_it_was_stopped_on() -> None:
    red = GateFigure(name="bad", figure=1, limit=1, passed=False)
    waits = GateFigure(name="disagreement", limit=0.2, passed=False)
    decisions = (
        DecisionRow(at=NOW, by="controller", action="returned", reason="every device is back on its old model"),
        DecisionRow(at=NOW, by="controller", action="abort", reason="wave 0: a-1 E_LOAD", gates=(red, waits)),
    )
    page = page_of(rollout(member("a-1"), state=R.ABORTED, reason="wave 0: a-1 E_LOAD", decisions=decisions), NOW)
    assert page.gates_of == "Gates when the rollout was stopped"
    assert [(gate.word, gate.figure, gate.limit) for gate in page.gates] == [
        ("red", "1", "fewer than 1"),
        ("not yet", "no figure yet", "at most 20\u00a0%"),
    ]
    assert page.log[1].reason.startswith("Stopped by itself: in wave 0, a-1 says: the model cannot be loaded")
    assert page.log[1].figures.startswith("devices gone bad: 1 (fewer than 1)")


def test_the_rest_that_is_left_is_told() -> None:
    soak = GateFigure(name="soak", figure=60, limit=660, passed=False)
    found = headline(rollout(member("a-1", state=S.CONFIRMED), state=R.SOAKING, gates=(soak,)), NOW)
    assert found.text == "10\u00a0min of its rest are left, until 12:10:00 UTC, if nothing goes wrong meanwhile."
