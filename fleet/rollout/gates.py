"""The figures that a wave is held against. Pure.

A gate is green, red, or waits for evidence. Only green passes: what is not known never counts as good. A figure that is
no number passes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from fleet.contract.http import GateFigure
from fleet.contract.messages import SoakFigures, UpdateState
from fleet.contract.release import Thresholds
from fleet.rollout.members import Member
from fleet.rollout.plan import share_of

QUALITY = ("self_test", "disagreement", "uncertain_rise", "withheld_rise", "latency")
"""Gates that stop a rollout when they are red."""

WAIVABLE = frozenset({"fields", "disagreement", "uncertain_rise", "withheld_rise", "latency"})
"""Gates for which there may be too few observations, and for which a person may waive them: never a red one."""

OF_THE_WAVE = frozenset({"confirmed", "undecided", "bad", "fields", *QUALITY})
"""Gates that a wave passes before it rests."""


Waived = frozenset[tuple[str, str]]
"""Pairs of a device and a gate: this device's lacking observations do not hold up this gate any more."""


class Verdict(StrEnum):
    """What a gate says."""

    GREEN = "green"
    RED = "red"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Gate:
    """One figure against its limit."""

    name: str
    verdict: Verdict
    figure: float | None
    limit: float | None
    text: str

    @property
    def row(self) -> GateFigure:
        """As it is stored with a decision and shown."""
        figure, limit = _finite(self.figure), _finite(self.limit)
        return GateFigure(
            name=self.name, figure=figure, limit=limit, passed=self.verdict is Verdict.GREEN, text=self.text[:300]
        )


def counted(members: Sequence[Member], wave: int) -> list[Member]:
    """Those of a wave that it is judged by: without stragglers and devices that are gone."""
    return [member for member in members if member.wave == wave and not member.straggler and not member.gone]


def needed(thresholds: Thresholds, count: int) -> int:
    """How many of so many devices must be confirmed: at least one, since nobody proves nothing."""
    return max(1, share_of(thresholds.p_ok, count))


def error_limit(thresholds: Thresholds, *, attempted: int, count: int) -> int:
    """From how many bad devices on a rollout stops; one where there is only one device."""
    least = 1 if count <= 1 else thresholds.min_errors
    return max(least, share_of(thresholds.p_error, attempted))


def wave_gates(
    members: Sequence[Member],
    wave: int,
    thresholds: Thresholds,
    *,
    now: datetime,
    soaking_since: datetime | None,
    evidence_accepted: bool | None,
    waived: Waived = frozenset(),
) -> list[Gate]:
    """All gates of a wave, in the order in which they are shown.

    Args:
        waived: what a person has waived of the observations that this wave lacks.
    """
    own = counted(members, wave)
    gates = [*_counts(own, thresholds), _fields(own, thresholds), *_quality(own, members, thresholds)]
    gates = [_waive(gate, own, thresholds, waived) for gate in gates]
    gates.append(_soak(thresholds, now=now, soaking_since=soaking_since))
    gates.append(_evidence(evidence_accepted))
    return gates


def settled(gates: Sequence[Gate]) -> bool:
    """Whether a wave has done its part and may rest: all green but the rest itself and the release's evidence."""
    return all(gate.verdict is Verdict.GREEN for gate in gates if gate.name in OF_THE_WAVE)


def rested(gates: Sequence[Gate]) -> bool:
    """Whether a wave has done its part and its rest is over."""
    return all(gate.verdict is Verdict.GREEN for gate in gates if gate.name != "evidence")


def may_go_on(gates: Sequence[Gate]) -> bool:
    """Whether a further wave may open."""
    return bool(gates) and all(gate.verdict is Verdict.GREEN for gate in gates)


def why_not_waived(gates: Sequence[Gate]) -> str | None:
    """Why there is nothing that a person may waive; None when a wave only lacks observations of its confirmed devices.

    Neither a gate that has failed, nor a device that is not decided, nor the release's evaluation is waived.
    """
    if red := [gate for gate in gates if gate.verdict is Verdict.RED]:
        return "failed, which is not waived: " + "; ".join(gate.text for gate in red)
    by_name = {gate.name: gate for gate in gates}
    open_still = [gate for name in ("confirmed", "undecided") if (gate := by_name[name]).verdict is not Verdict.GREEN]
    if open_still:
        return "not decided yet: " + "; ".join(gate.text for gate in open_still)
    return None if lacking(gates) else "no observations are lacking"


def lacking(gates: Sequence[Gate]) -> list[Gate]:
    """The gates that wait for observations."""
    return [gate for gate in gates if gate.name in WAIVABLE and gate.verdict is Verdict.WAITS]


def waived_by(members: Sequence[Member], wave: int, gates: Sequence[Gate]) -> Waived:
    """What a waiver given now holds for: the lacking observations of the devices that are confirmed, and no others."""
    names = [gate.name for gate in lacking(gates)]
    return frozenset((member.device, name) for member in _soaked(counted(members, wave)) for name in names)


def red_quality(gates: Sequence[Gate]) -> list[Gate]:
    """The quality gates that stop the rollout."""
    return [gate for gate in gates if gate.name in QUALITY and gate.verdict is Verdict.RED]


def _counts(own: Sequence[Member], thresholds: Thresholds) -> list[Gate]:
    confirmed = sum(member.confirmed for member in own)
    enough = needed(thresholds, len(own))
    undecided = sum(member.undecided and member.online for member in own)
    bad = sum(member.bad for member in own)
    attempted = sum(member.attempted for member in own)
    limit = error_limit(thresholds, attempted=attempted, count=len(own))
    return [
        Gate(
            "confirmed",
            _green(confirmed >= enough),
            confirmed,
            enough,
            f"{confirmed} of {len(own)} confirmed, {enough} needed",
        ),
        Gate("undecided", _green(undecided == 0), undecided, 0, f"{undecided} online and not yet decided"),
        Gate(
            "bad",
            Verdict.GREEN if bad < limit else Verdict.RED,
            bad,
            limit,
            f"{bad} of {attempted} tried went bad; {limit} stop the rollout",
        ),
    ]


def _fields(own: Sequence[Member], thresholds: Thresholds) -> Gate:
    """Fields read with the new model by the confirmed device that read fewest, but for those that had it already."""
    had_it = sum(member.had_it for member in own)
    least = min((_read(member) for member in _soaked(own)), default=None)
    if had_it and least is None:
        return Gate("fields", Verdict.GREEN, None, thresholds.min_fields, f"{had_it} had the release already")
    enough = least is not None and least >= thresholds.min_fields
    words = f"at least {least} fields on each confirmed device" if enough else "insufficient evidence: too few fields"
    words += f"; {had_it} more had the release already" if had_it else ""
    return Gate("fields", _green(enough), least, thresholds.min_fields, words)


def _soaked(own: Sequence[Member]) -> list[Member]:
    """The confirmed devices that owe observations: those that did not have the release already."""
    return [member for member in own if member.confirmed and not member.had_it]


def _read(member: Member) -> int:
    return member.standing.soak.fields if member.standing.soak else 0


def _quality(own: Sequence[Member], members: Sequence[Member], thresholds: Thresholds) -> list[Gate]:
    """Over the wave's devices that run the new model and have shown enough of it.

    Self-test and disagreement are also held against all devices that were told to activate, stragglers among them:
    these can stop the rollout, and prove nothing for a wave that has shown nothing itself.
    """
    running = _running(own)
    everywhere = _running([member for member in members if member.offered and not member.gone])
    shown, all_shown = _shown(running, thresholds), _shown(everywhere, thresholds)
    had_it = bool(running) and all(member.had_it for member in running)
    failing = {m.device for m in (*running, *everywhere) if m.standing.self_test_passed is False}
    failed = len(failing)
    gates = [
        Gate(
            "self_test",
            Verdict.RED if failed else Verdict.GREEN,
            failed,
            0,
            f"{failed} devices fail their self-test" if failed else "no device fails its self-test",
        )
    ]
    words = "of white cells named differently"
    judged = [
        _judge("disagreement", _disagreement(soaks), thresholds.max_disagreement, words, had_it=had_it)
        for soaks in (shown, all_shown)
    ]
    gates.append(judged[1] if judged[1].verdict is Verdict.RED and judged[0].verdict is not Verdict.RED else judged[0])
    for name, value, limit, words in (
        ("uncertain_rise", _uncertain_rise, thresholds.max_uncertain_rise, "more uncertain fields than before"),
        ("withheld_rise", _withheld_rise, thresholds.max_withheld_rise, "more withheld fields than before"),
        ("latency", _latency, thresholds.max_latency_ratio, "times as long for a field as before"),
    ):
        figure = _mean(shown, value, lambda soak: soak.fields)
        gates.append(_judge(name, figure, limit, words, had_it=had_it))
    return gates


def _running(members: Sequence[Member]) -> list[Member]:
    return [m for m in members if m.standing.state in {UpdateState.UNCONFIRMED, UpdateState.CONFIRMED}]


def _shown(members: Sequence[Member], thresholds: Thresholds) -> list[SoakFigures]:
    return [m.standing.soak for m in members if m.standing.soak and m.standing.soak.fields >= thresholds.min_fields]


def _disagreement(shown: Sequence[SoakFigures]) -> float | None:
    return _mean(shown, lambda soak: soak.disagreement_ratio, lambda soak: soak.white_cells)


def _uncertain_rise(soak: SoakFigures) -> float | None:
    return _rise(soak.uncertain_ratio, soak.baseline_uncertain_ratio)


def _withheld_rise(soak: SoakFigures) -> float | None:
    return _rise(soak.withheld_ratio, soak.baseline_withheld_ratio)


def _latency(soak: SoakFigures) -> float | None:
    return soak.latency_ratio


def _rise(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _mean(
    shown: Sequence[SoakFigures],
    value: Callable[[SoakFigures], float | None],
    weight: Callable[[SoakFigures], int],
) -> float | None:
    """Mean over devices, weighted by what each has shown; None without any."""
    pairs = [(found, weight(soak)) for soak in shown if (found := value(soak)) is not None]
    total = sum(weighed for _, weighed in pairs)
    return sum(found * weighed for found, weighed in pairs) / total if total else None


def _judge(name: str, figure: float | None, limit: float, words: str, *, had_it: bool) -> Gate:
    if figure is None and had_it:
        return Gate(name, Verdict.GREEN, None, limit, "nothing new to judge: had the release already")
    if figure is None:
        return Gate(name, Verdict.WAITS, None, limit, "insufficient evidence: no figure yet")
    good = figure <= limit
    unit = f"{figure:.1f}" if name == "latency" else f"{figure:.0%}"
    return Gate(name, Verdict.GREEN if good else Verdict.RED, figure, limit, f"{unit} {words}")


def _waive(gate: Gate, own: Sequence[Member], thresholds: Thresholds, waived: Waived) -> Gate:
    """Green when only devices lack the observations for which they were waived; one that came later owes its own."""
    if gate.name not in WAIVABLE or gate.verdict is not Verdict.WAITS:
        return gate
    owing = _soaked(own)
    if gate.name == "fields":
        owing = [member for member in owing if _read(member) < thresholds.min_fields]
    if not owing or any((member.device, gate.name) not in waived for member in owing):
        return gate
    return replace(gate, verdict=Verdict.GREEN, text=f"{gate.text}; waived by a person")


def _soak(thresholds: Thresholds, *, now: datetime, soaking_since: datetime | None) -> Gate:
    if soaking_since is None:
        return Gate("soak", Verdict.WAITS, None, thresholds.soak_s, "the rest begins when the wave is done")
    elapsed_s = max(0.0, (now - soaking_since).total_seconds())
    words = f"{elapsed_s:.0f} s of {thresholds.soak_s:.0f} s"
    return Gate("soak", _green(elapsed_s >= thresholds.soak_s), elapsed_s, thresholds.soak_s, words)


def _evidence(accepted: bool | None) -> Gate:
    words = {
        True: "the release's evaluation was accepted",
        False: "the release's evaluation was not accepted",
        None: "the release has no evaluation",
    }[accepted]
    return Gate("evidence", _green(accepted is True), float(accepted is True), 1, words)


def _green(passed: bool) -> Verdict:
    return Verdict.GREEN if passed else Verdict.WAITS


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
