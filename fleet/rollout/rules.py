"""What a rollout does next: `decide(view, now)`. Pure; the cloud carries the actions out, in order, and asks again.

In this order:

1. Stop first: a security code, too many bad devices, or a red quality gate abort, in every state before the end.
2. What cannot be read pauses.
3. Offer: downloads to every device early, activation to the online devices of the waves that are open.
4. Stragglers: who is offline at the wave's deadline is no longer waited for, and offered on its return.
5. Dead ends pause: a wave that can no longer pass, a device that shows nothing, evidence that does not come.
6. Go on: rest, open the next wave, complete; only when every gate is green.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fleet.contract.messages import Activation, UpdateState
from fleet.contract.release import RolloutState, Thresholds
from fleet.rollout.gates import (
    OF_THE_WAVE,
    Gate,
    Verdict,
    Waived,
    counted,
    error_limit,
    may_go_on,
    needed,
    red_quality,
    rested,
    settled,
    wave_gates,
)
from fleet.rollout.members import BAD_STATES, HUNG, IDLE_STATES, PASSING, Member, is_security
from fleet.rollout.plan import listed
from fleet.rollout.states import RolloutEvent

RETURN_DEADLINE_S = 86400.0
"""How long an aborted rollout waits for devices that are not back when its own deadline cannot be read."""

ALL_BACK = "every device is back on its old model"


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout and its devices at one moment.

    Attributes:
        wave: the wave that is open, from 0; the first one before any is.
        thresholds: None when what is stored cannot be read.
        evidence_accepted: of the release; None without evidence.
        waived: what a person has waived of the observations that the open wave lacks.
    """

    state: RolloutState
    wave: int
    waves: int
    members: tuple[Member, ...]
    thresholds: Thresholds | None
    evidence_accepted: bool | None
    wave_opened_at: datetime | None = None
    soaking_since: datetime | None = None
    waived: Waived = frozenset()


@dataclass(frozen=True, slots=True)
class Offer:
    """Tell a device of the release."""

    device: str
    activation: Activation


@dataclass(frozen=True, slots=True)
class Return:
    """Tell a device to go back to what it ran before."""

    device: str


@dataclass(frozen=True, slots=True)
class MarkStraggler:
    """Wait for a device no longer."""

    device: str


@dataclass(frozen=True, slots=True)
class Move:
    """Change the rollout's state.

    Attributes:
        wave: the wave that is open afterwards.
    """

    event: RolloutEvent
    reason: str
    wave: int


Action = Offer | Return | MarkStraggler | Move


def decide(view: RolloutView, now: datetime) -> list[Action]:
    """The next actions, none when there is nothing to do. A move is always alone: what follows is asked anew."""
    judged = replace(view, members=tuple(judge(member, view, now) for member in view.members))
    rule = _RULES.get(view.state)
    return rule(judged, now) if rule else []


def gates_of(view: RolloutView, now: datetime) -> list[Gate]:
    """The gates of the wave that is open; none where the thresholds cannot be read."""
    if not readable(view.thresholds):
        return []
    judged = [judge(member, view, now) for member in view.members]
    return _gates(replace(view, members=tuple(judged)), now)


def readable(thresholds: Thresholds | None) -> bool:
    """Whether every threshold is a number that limits something."""
    if thresholds is None:
        return False
    times_s = (thresholds.soak_s, thresholds.step_deadline_s, thresholds.wave_deadline_s)
    numbers = (*_ratios(thresholds), *times_s, thresholds.max_latency_ratio)
    whole = (thresholds.min_errors, thresholds.min_fields)
    return (
        all(math.isfinite(number) and number >= 0 for number in (*numbers, *whole))
        and all(ratio <= 1 for ratio in _ratios(thresholds))
        and thresholds.p_ok > 0
        and all(number >= 1 for number in whole)
    )


def judge(member: Member, view: RolloutView, now: datetime) -> Member:
    """The member as the limits see it: one that hangs in a step of the update is a failed one, with the code it has."""
    at_it = member.standing.state not in IDLE_STATES | BAD_STATES and not member.confirmed
    if not (at_it and _too_long(member, view, now)):
        return member
    code = member.standing.code
    if code is None or code in PASSING:
        code = HUNG
    return replace(member, standing=replace(member.standing, state=UpdateState.FAILED, code=code))


def _ratios(thresholds: Thresholds) -> tuple[float, ...]:
    counts = (thresholds.p_ok, thresholds.p_error)
    return (*counts, thresholds.max_disagreement, thresholds.max_uncertain_rise, thresholds.max_withheld_rise)


def _too_long(member: Member, view: RolloutView, now: datetime) -> bool:
    """Whether an offered device has been online, without progress, for longer than a step may take."""
    if view.thresholds is None or not member.online or member.offered_at is None or member.online_since is None:
        return False
    moments = (member.offered_at, member.online_since, member.since, view.wave_opened_at)
    latest = max(moment for moment in moments if moment is not None)
    return (now - latest).total_seconds() > view.thresholds.step_deadline_s


def _gates(view: RolloutView, now: datetime) -> list[Gate]:
    assert view.thresholds is not None
    return wave_gates(
        view.members,
        view.wave,
        view.thresholds,
        now=now,
        soaking_since=view.soaking_since,
        evidence_accepted=view.evidence_accepted,
        waived=view.waived,
    )


def _stop(view: RolloutView, now: datetime) -> str | None:
    """Why the rollout must be aborted; None when it need not."""
    forged = [member for member in view.members if member.told and is_security(member.standing.code)]
    if forged:
        return _words(forged)
    if not readable(view.thresholds):
        return None
    assert view.thresholds is not None
    own = counted(view.members, view.wave)
    for group in (own, [member for member in view.members if member.offered]):
        if _too_many_bad(group, view.thresholds):
            return _words([member for member in group if member.bad])
    red = red_quality(_gates(view, now))
    return f"wave {view.wave}: " + "; ".join(f"{gate.name} {gate.text}" for gate in red) if red else None


def _words(members: Sequence[Member]) -> str:
    """`wave 0: bench-1 E_SELFTEST`."""
    first = min(member.wave for member in members)
    names = [f"{member.device} {member.standing.code or member.standing.state.value}" for member in members]
    return f"wave {first}: {listed(names)}"


def _state(member: Member) -> str:
    """`waiting`, or `failed (E_SPACE)`."""
    code = f" ({member.standing.code})" if member.standing.code else ""
    return member.standing.state.value + code


def _before_the_end(
    rule: Callable[[RolloutView, datetime], list[Action]],
) -> Callable[[RolloutView, datetime], list[Action]]:
    """Rules 1 and 2 before a state's own."""

    def guarded(view: RolloutView, now: datetime) -> list[Action]:
        if why := _stop(view, now):
            return [Move(RolloutEvent.ABORT, why, view.wave)]
        if not readable(view.thresholds):
            return _pause(view, "the thresholds cannot be read")
        return rule(view, now)

    return guarded


def _pause(view: RolloutView, why: str) -> list[Action]:
    return [] if view.state is RolloutState.PAUSED else [Move(RolloutEvent.PAUSE, f"auto: {why}", view.wave)]


def _approved(view: RolloutView, now: datetime) -> list[Action]:
    return [Move(RolloutEvent.OPEN_WAVE, "the first wave opens", 0)]


def _running(view: RolloutView, now: datetime) -> list[Action]:
    assert view.thresholds is not None
    if actions := [*_offers(view), *_late(view, now)]:
        return actions
    if why := _dead_end(view, now):
        return _pause(view, why)
    gates = _gates(view, now)
    if not settled(gates):
        return []
    left = [m for m in counted(view.members, view.wave) if m.undecided]
    if left:
        return [MarkStraggler(member.device) for member in left]
    return [Move(RolloutEvent.SOAK, f"wave {view.wave} is confirmed and rests", view.wave)]


def _soaking(view: RolloutView, now: datetime) -> list[Action]:
    if actions := [*_offers(view), *_late(view, now)]:
        return actions
    if why := _dead_end(view, now):
        return _pause(view, why)
    gates = _gates(view, now)
    if not rested(gates):
        return []
    if view.wave + 1 >= view.waves:
        return [Move(RolloutEvent.COMPLETE, "every wave is confirmed", view.wave)]
    if may_go_on(gates):
        return [Move(RolloutEvent.OPEN_WAVE, f"wave {view.wave} has passed", view.wave + 1)]
    return _pause(view, "the release has no accepted evaluation: it does not leave the first wave")


def _paused(view: RolloutView, now: datetime) -> list[Action]:
    return []


def _aborting(view: RolloutView, now: datetime) -> list[Action]:
    told = [member for member in view.members if member.told and not member.gone]
    if orders := [Return(member.device) for member in told if member.return_ordered_at is None]:
        return list(orders)
    away = [member for member in told if not member.standing.returned]
    deadline_s = RETURN_DEADLINE_S
    if view.thresholds is not None and readable(view.thresholds):
        deadline_s = view.thresholds.wave_deadline_s
    if any(not member.standing.stays and not _older(member.return_ordered_at, deadline_s, now) for member in away):
        return []
    return [Move(RolloutEvent.RETURNED, _returned(told, away), view.wave)]


def _returned(told: Sequence[Member], away: Sequence[Member]) -> str:
    """Who is back, and who is not."""
    if not away:
        return ALL_BACK
    stays = [member for member in away if member.online or member.standing.stays]
    words = []
    if len(away) < len(told):
        words.append("the others are back")
    if stays:
        codes = {m.device: f" ({m.standing.code})" if m.standing.code else "" for m in stays}
        words.append(f"not back: {listed(device + code for device, code in codes.items())}")
    if offline := [member.device for member in away if member not in stays]:
        words.append(f"offline, and told to go back: {listed(offline)}")
    return "; ".join(words)


def _older(moment: datetime | None, seconds: float, now: datetime) -> bool:
    return moment is not None and (now - moment).total_seconds() > seconds


def _completed(view: RolloutView, now: datetime) -> list[Action]:
    """Stragglers that came back, under the same limits: among themselves, and over all devices."""
    told = [member for member in view.members if member.told]
    if not readable(view.thresholds) or any(is_security(member.standing.code) for member in told):
        return []
    assert view.thresholds is not None
    late = [member for member in view.members if member.straggler and not member.gone]
    offered = [member for member in told if member.offered]
    if any(_too_many_bad(group, view.thresholds) for group in (late, offered)) or red_quality(_gates(view, now)):
        return []
    return [Offer(m.device, Activation.ACTIVATE) for m in late if m.online and m.known and not m.offered]


def _too_many_bad(group: Sequence[Member], thresholds: Thresholds) -> bool:
    attempted = sum(member.attempted for member in group)
    return sum(m.bad for m in group) >= error_limit(thresholds, attempted=attempted, count=len(group))


def _offers(view: RolloutView) -> list[Action]:
    """Activation to the online devices of the open waves; downloads to everyone who may get the release at all."""
    found: list[Action] = []
    leaves = view.evidence_accepted is True
    for member in view.members:
        if member.gone or not member.known or member.offered:
            continue
        if member.wave <= view.wave and member.online:
            found.append(Offer(member.device, Activation.ACTIVATE))
        elif (not member.told or member.inherited) and (leaves or member.wave == 0):
            found.append(Offer(member.device, Activation.DOWNLOAD))
    return found


def _late(view: RolloutView, now: datetime) -> list[Action]:
    assert view.thresholds is not None
    if not _older(view.wave_opened_at, view.thresholds.wave_deadline_s, now):
        return []
    own = counted(view.members, view.wave)
    return [MarkStraggler(m.device) for m in own if m.undecided and not (m.online and m.offered)]


def _dead_end(view: RolloutView, now: datetime) -> str | None:
    """Why a wave cannot go on by itself."""
    if why := _cannot_pass(view):
        return why
    own = counted(view.members, view.wave)
    if silent := [member for member in own if member.undecided and _too_long(member, view, now)]:
        names = listed(f"{member.device} is online and {_state(member)}" for member in silent)
        return f"wave {view.wave}: insufficient evidence: {names}"
    stuck = [gate for gate in _gates(view, now) if gate.name in OF_THE_WAVE and gate.verdict is not Verdict.GREEN]
    confirmed = [member for member in own if member.confirmed]
    waits = any(member.undecided for member in own) or any(
        member.online and not _too_long(member, view, now) for member in confirmed
    )
    if confirmed and stuck and not waits:
        return f"wave {view.wave}: " + "; ".join(f"{gate.name} {gate.text}" for gate in stuck)
    return None


def _cannot_pass(view: RolloutView) -> str | None:
    assert view.thresholds is not None
    own = counted(view.members, view.wave)
    enough = needed(view.thresholds, len(own))
    possible = sum(not member.bad for member in own)
    if possible >= enough:
        return None
    if not own:
        return f"wave {view.wave}: none of its devices was online until the deadline"
    return f"wave {view.wave}: at most {possible} of {len(own)} devices can be confirmed, {enough} are needed"


_RULES: dict[RolloutState, Callable[[RolloutView, datetime], list[Action]]] = {
    RolloutState.APPROVED: _before_the_end(_approved),
    RolloutState.RUNNING: _before_the_end(_running),
    RolloutState.SOAKING: _before_the_end(_soaking),
    RolloutState.PAUSED: _before_the_end(_paused),
    RolloutState.ABORTING: _aborting,
    RolloutState.COMPLETED: _completed,
}
