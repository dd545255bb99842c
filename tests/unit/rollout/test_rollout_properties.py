"""What no rollout ever does, whatever its devices report: searched for by hypothesis.

The conditions are written here a second time, from the protocol's words and not from the rules' code.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.contract.messages import Activation, Presence, SoakFigures, UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, RolloutState, Thresholds, UpdateCode
from fleet.rollout.gates import WAIVABLE
from fleet.rollout.members import Member, Standing
from fleet.rollout.rules import MarkStraggler, Move, Offer, Return, RolloutView, decide
from fleet.rollout.states import RolloutEvent, advance
from tests.unit.rollout.rollout_builders import START, at

S, R, E = UpdateState, RolloutState, RolloutEvent
BAD = {S.FAILED, S.ROLLED_BACK, S.REJECTED}
GOING_ON = {E.OPEN_WAVE, E.COMPLETE, E.SOAK}

ratios = st.none() | st.floats(0, 1)
soaks = st.none() | st.builds(
    SoakFigures,
    fields=st.integers(0, 30),
    white_cells=st.integers(0, 50),
    disagreement_ratio=ratios,
    uncertain_ratio=ratios,
    withheld_ratio=ratios,
    baseline_uncertain_ratio=ratios,
    baseline_withheld_ratio=ratios,
    latency_ratio=st.none() | st.floats(0, 10),
)
moments = st.none() | st.integers(0, 5000).map(at)
standings = st.builds(
    Standing,
    state=st.sampled_from(UpdateState),
    code=st.none() | st.sampled_from([code.value for code in UpdateCode]),
    soak=soaks,
    self_test_passed=st.none() | st.booleans(),
    returned=st.booleans(),
)
members = st.builds(
    Member,
    device=st.uuids().map(str),
    wave=st.integers(0, 2),
    presence=st.sampled_from(Presence),
    known=st.booleans(),
    told=st.booleans(),
    offered_at=moments,
    standing=standings,
    since=moments,
    online_since=moments,
    straggler=st.booleans(),
    gone=st.booleans(),
    return_ordered_at=moments,
    ran_before=st.booleans(),
    inherited=st.booleans(),
)
sound = st.builds(
    Thresholds,
    p_ok=st.floats(0.01, 1),
    p_error=st.floats(0, 1),
    min_errors=st.integers(1, 5),
    soak_s=st.floats(0, 1000),
    step_deadline_s=st.floats(1, 5000),
    wave_deadline_s=st.floats(1, 5000),
    min_fields=st.integers(1, 20),
    max_disagreement=st.floats(0, 1),
    max_uncertain_rise=st.floats(0, 1),
    max_withheld_rise=st.floats(0, 1),
    max_latency_ratio=st.floats(0.1, 10),
)
strange = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1e308])


good_soaks = st.builds(
    SoakFigures,
    fields=st.sampled_from([1, 20, 20, 20]),
    white_cells=st.just(50),
    disagreement_ratio=st.sampled_from([None, 0.0, 0.0, 0.9]),
    uncertain_ratio=st.just(0.1),
    withheld_ratio=st.just(0.0),
    baseline_uncertain_ratio=st.just(0.1),
    baseline_withheld_ratio=st.just(0.0),
    latency_ratio=st.just(1.0),
)
likely = st.builds(
    Member,
    device=st.uuids().map(str),
    wave=st.sampled_from([0, 0, 1, 2]),
    presence=st.sampled_from([Presence.ONLINE, Presence.ONLINE, Presence.OFFLINE]),
    known=st.just(True),
    told=st.just(True),
    offered_at=st.just(at(0)),
    standing=st.builds(
        Standing,
        state=st.sampled_from([*[S.CONFIRMED] * 6, S.TRIAL, S.FAILED]),
        code=st.sampled_from([*[None] * 8, "E_LOAD", "E_SIG"]),
        soak=st.none() | good_soaks,
        self_test_passed=st.sampled_from([None, True, True, True, False]),
    ),
    since=st.just(at(0)),
    online_since=st.just(at(0)),
)
"""Devices as they mostly are, so that rollouts get far enough to do something wrong."""


@st.composite
def broken(draw: Any) -> Thresholds:
    """Thresholds of which one is no limit."""
    good = draw(sound).model_dump()
    return Thresholds.model_construct(**(good | {draw(st.sampled_from(sorted(good))): draw(strange)}))


def maybe_waived(view: RolloutView) -> Any:
    """The same with what lacks waived for some of its devices."""
    names = sorted({member.device for member in view.members})
    some = st.sets(st.sampled_from(names)) if names else st.just(set())
    return some.map(lambda chosen: replace(view, waived=frozenset((d, gate) for d in chosen for gate in WAIVABLE)))


def views(thresholds: Any) -> Any:
    built = st.builds(
        RolloutView,
        state=st.sampled_from(RolloutState),
        wave=st.integers(0, 2),
        waves=st.integers(3, 4),
        members=(st.lists(members, max_size=8) | st.lists(likely, min_size=1, max_size=6)).map(tuple),
        thresholds=thresholds,
        evidence_accepted=st.none() | st.booleans(),
        wave_opened_at=moments,
        soaking_since=moments,
    )
    return built.flatmap(maybe_waived)


near_a_gate = st.builds(
    RolloutView,
    state=st.sampled_from([R.RUNNING, R.SOAKING]),
    wave=st.integers(0, 1),
    waves=st.just(3),
    members=st.lists(likely, min_size=1, max_size=3).map(tuple),
    thresholds=st.builds(
        Thresholds,
        p_ok=st.sampled_from([0.3, 0.5, 1.0]),
        p_error=st.sampled_from([0.0, 0.5, 1.0]),
        min_errors=st.integers(1, 3),
        soak_s=st.sampled_from([0.0, 60.0]),
        min_fields=st.just(10),
    ),
    evidence_accepted=st.sampled_from([True, True, False, None]),
    wave_opened_at=st.just(at(0)),
    soaking_since=st.sampled_from([at(0), at(50)]),
).flatmap(maybe_waived)
"""One step before something opens."""


def is_bad(member: Member) -> bool:
    """Told to activate, and failed in a way that no second try cures."""
    again = member.standing.state is not S.ROLLED_BACK and member.standing.code in {"E_SLOW", "E_SPACE", "E_STALE"}
    return member.offered_at is not None and member.standing.state in BAD and not again


def hangs(member: Member, view: RolloutView, now: Any) -> bool:
    """Whether a device has been in one step of the update for longer than it may: it counts as failed."""
    assert view.thresholds is not None
    if (
        member.standing.state in {S.IDLE, S.WAITING, S.DOWNLOADING, S.UNCONFIRMED, S.CONFIRMED} | BAD
        or not member.online
    ):
        return False
    if member.offered_at is None or member.online_since is None:
        return False
    moments = (member.offered_at, member.online_since, member.since, view.wave_opened_at)
    waited = now - max(moment for moment in moments if moment is not None)
    return bool(waited.total_seconds() > view.thresholds.step_deadline_s)


def forbids(view: RolloutView, now: Any) -> list[str]:
    """Why the wave that is open must not be left, by the words of the protocol."""
    limits = view.thresholds
    assert limits is not None  # the tests' thresholds are sound
    own = [m for m in view.members if m.wave == view.wave and not m.straggler and not m.gone]
    confirmed = [m for m in own if m.standing.state is S.CONFIRMED]
    hung = {m.device for m in own if hangs(m, view, now)}
    found = []
    if not confirmed or len(confirmed) + 1e-9 < limits.p_ok * len(own):
        found.append("too few are confirmed")
    if any(
        m.presence is Presence.ONLINE and not is_bad(m) and m.standing.state is not S.CONFIRMED and m.device not in hung
        for m in own
    ):
        found.append("one that is online is not decided")
    new = [m for m in confirmed if m.standing.soak is not None or not m.ran_before]
    few = [m.device for m in new if m.standing.soak is None or m.standing.soak.fields < limits.min_fields]
    if any((device, "fields") not in view.waived for device in few):
        found.append("insufficient evidence")
    # Of fewer fields there is no figure yet: that is want of evidence, and may be waived.
    shown = [m.standing.soak for m in confirmed if m.standing.soak and m.standing.soak.fields >= limits.min_fields]
    if shown and all((s.disagreement_ratio or 0) > limits.max_disagreement for s in shown):
        running = [m for m in own if m.standing.state is S.UNCONFIRMED]
        if not running:
            found.append("the models disagree")
    if any(m.standing.self_test_passed is False for m in confirmed):
        found.append("a self-test fails")
    told = [m for m in view.members if m.told]
    for code in (m.standing.code for m in told):
        if code is not None and CODE_FAMILIES[UpdateCode(code)] is CodeFamily.SECURITY:
            found.append("security")
    bad = sum(is_bad(m) or m.device in hung for m in own)
    tried = sum(m.offered_at is not None and m.standing.state is not S.IDLE for m in own)
    if bad >= max(1 if len(own) <= 1 else limits.min_errors, math.ceil(limits.p_error * tried - 1e-9)):
        found.append("too many are bad")
    return found


@settings(max_examples=500)
@given(view=near_a_gate | views(sound), seconds=st.sampled_from([10, 60, 100]) | st.integers(0, 10_000))
def test_no_wave_is_left_while_a_rule_forbids_it(view: RolloutView, seconds: int) -> None:
    now = at(seconds)
    for action in decide(view, now):
        if not isinstance(action, Move) or action.event not in GOING_ON or view.state is R.APPROVED:
            continue
        assert forbids(view, now) == []
        if action.event in {E.OPEN_WAVE, E.COMPLETE}:
            assert view.soaking_since is not None
            assert view.thresholds is not None
            # A clock that stepped back makes no rest; where none is asked for, it holds nothing up either.
            rested = max(now - view.soaking_since, timedelta())
            assert rested >= timedelta(seconds=view.thresholds.soak_s - 1e-6)
        if action.event is E.OPEN_WAVE:
            assert view.evidence_accepted is True
            assert action.wave == view.wave + 1


@settings(max_examples=150)
@given(view=views(st.none() | broken()), seconds=st.integers(0, 10_000))
def test_what_is_no_limit_opens_nothing_and_offers_nothing(view: RolloutView, seconds: int) -> None:
    for action in decide(view, at(seconds)):
        assert isinstance(action, Return | Move)
        if isinstance(action, Move):
            assert action.event in {E.PAUSE, E.ABORT, E.RETURNED}


@settings(max_examples=250)
@given(view=near_a_gate | views(sound), seconds=st.integers(0, 10_000))
def test_every_action_is_one_that_can_be_done(view: RolloutView, seconds: int) -> None:
    actions = decide(view, at(seconds))
    by_device = {m.device: m for m in view.members}
    assert len(actions) == 1 or not any(isinstance(action, Move) for action in actions)
    for action in actions:
        match action:
            case Move():
                advance(view.state, action.event)
            case Offer(device, activation):
                member = by_device[device]
                assert member.known
                assert not member.gone
                assert member.offered_at is None
                if activation is Activation.ACTIVATE:
                    assert member.presence is Presence.ONLINE
                    assert member.wave <= view.wave or member.straggler
                elif view.evidence_accepted is not True:
                    assert member.wave == 0
            case Return(device):
                assert by_device[device].told
            case MarkStraggler(device):
                member = by_device[device]
                assert member.standing.state is not S.CONFIRMED
                assert not is_bad(member)
                assert not (member.online and member.offered), "one that is at it is waited for"


@settings(max_examples=120)
@given(view=views(sound), seconds=st.integers(0, 10_000), code=st.sampled_from(["E_SIG", "E_HASH", "E_LEN"]))
def test_a_forgery_stops_it_in_every_state_before_the_end(view: RolloutView, seconds: int, code: str) -> None:
    forged = Member(device="forged", wave=0, told=True, standing=Standing(S.REJECTED, code))
    found = decide(replace(view, members=(*view.members, forged)), at(seconds))
    if view.state in {R.APPROVED, R.RUNNING, R.SOAKING, R.PAUSED}:
        assert [type(action) for action in found] == [Move]
        assert isinstance(found[0], Move)
        assert found[0].event is E.ABORT
    else:
        assert not any(isinstance(action, Offer) for action in found)


class Fleet:
    """A rollout carried on as the cloud would, over devices that do what hypothesis says."""

    def __init__(self, waves: list[int], limits: Thresholds) -> None:
        self.view = RolloutView(
            state=R.APPROVED,
            wave=0,
            waves=len(waves),
            members=tuple(
                Member(f"d-{wave}-{i}", wave, Presence.ONLINE, known=True, online_since=START, since=START)
                for wave, size in enumerate(waves)
                for i in range(size)
            ),
            thresholds=limits,
            evidence_accepted=True,
        )
        self.now = START

    def change(self, device: str, **changes: Any) -> None:
        rows = (replace(m, **changes) if m.device == device else m for m in self.view.members)
        self.view = replace(self.view, members=tuple(rows))

    def carry_on(self) -> None:
        for _ in range(100):
            actions = decide(self.view, self.now)
            if not actions:
                return
            for action in actions:
                self._do(action)
        raise AssertionError("it never comes to rest")

    def _do(self, action: object) -> None:
        match action:
            case Offer(device, activation):
                activate = activation is Activation.ACTIVATE
                self.change(device, told=True, **({"offered_at": self.now} if activate else {}))
            case Return(device):
                self.change(device, return_ordered_at=self.now)
            case MarkStraggler(device):
                self.change(device, straggler=True)
            case Move(event, _, wave):
                if event is E.OPEN_WAVE:
                    assert wave == 0 or forbids(self.view, self.now) == []
                    self.view = replace(self.view, wave_opened_at=self.now, soaking_since=None)
                if event is E.SOAK:
                    self.view = replace(self.view, soaking_since=self.now)
                self.view = replace(self.view, state=advance(self.view.state, event), wave=wave)


GOOD = SoakFigures(
    fields=20,
    white_cells=50,
    disagreement_ratio=0.0,
    uncertain_ratio=0.1,
    withheld_ratio=0.0,
    baseline_uncertain_ratio=0.1,
    baseline_withheld_ratio=0.0,
    latency_ratio=1.0,
)
steps = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["good", "bad", "away", "back", "trial", "wait"])), max_size=40
)


@settings(max_examples=80)
@given(waves=st.lists(st.integers(1, 4), min_size=1, max_size=3), story=steps)
def test_whatever_devices_do_a_later_wave_is_never_activated_before_the_one_before_has_passed(
    waves: list[int], story: list[tuple[int, str]]
) -> None:
    limits = Thresholds(soak_s=30, step_deadline_s=200, wave_deadline_s=500, min_fields=10, p_error=0.5)
    fleet = Fleet(waves, limits)
    fleet.carry_on()
    for index, what in story:
        fleet.now += timedelta(seconds=20)
        member = fleet.view.members[index % len(fleet.view.members)]
        if what == "away":
            fleet.change(member.device, presence=Presence.OFFLINE, online_since=None)
        elif what == "back":
            fleet.change(member.device, presence=Presence.ONLINE, online_since=fleet.now)
        elif what != "wait" and member.offered and member.online:
            state = {"good": S.CONFIRMED, "bad": S.FAILED, "trial": S.TRIAL}[what]
            soak = GOOD if what == "good" else member.standing.soak
            fleet.change(member.device, standing=Standing(state, None, soak), since=fleet.now)
        fleet.carry_on()
        for later in fleet.view.members:
            assert not later.offered or later.wave <= fleet.view.wave
