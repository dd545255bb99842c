"""A rollout in the words and pieces its page is made of. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fleet.contract.http import DecisionRow, GateFigure, MemberRow, RolloutDetail, RolloutSummary
from fleet.contract.messages import Presence, UpdateState
from fleet.contract.release import RolloutState
from fleet.rollout.gates import WAIVABLE
from fleet.rollout.members import BAD_STATES

SHOWN_DEVICES = 40
"""Of a wave: those that need a look first; of the others the number is told."""

S, R = UpdateState, RolloutState

STATES: dict[RolloutState, tuple[str, str]] = {
    R.DRAFT: ("unknown", "draft"),
    R.APPROVED: ("busy", "begins"),
    R.RUNNING: ("busy", "under way"),
    R.SOAKING: ("busy", "rests"),
    R.PAUSED: ("warning", "paused"),
    R.ABORTING: ("fault", "going back"),
    R.ABORTED: ("fault", "stopped"),
    R.COMPLETED: ("ok", "completed"),
    R.DENIED: ("unknown", "denied"),
    R.SUPERSEDED: ("unknown", "replaced by a newer one"),
    R.UNKNOWN: ("unknown", "unknown"),
}
"""State -> chip and word."""

CODES: dict[str, str] = {
    "E_SIG": "the signature is not good",
    "E_ROLLBACK": "older than the device allows",
    "E_STALE": "the signed list of releases has expired",
    "E_HASH": "data are not what was signed",
    "E_LEN": "data are longer or shorter than signed",
    "E_CHUNK": "chunks that nobody signed came in place of its own",
    "E_PATH": "a name in the archive reaches out of its folder",
    "E_SLOW": "the download was too slow",
    "E_SPACE": "no room on the device",
    "E_INCOMPAT": "does not fit the device's program",
    "E_LOAD": "the model cannot be loaded",
    "E_SELFTEST": "the model fails its self-test",
    "E_PARITY": "the model answers otherwise than when it was released",
    "E_LATENCY": "the model is too slow there",
    "E_QUALITY": "on live fields the model disagrees with the one before",
    "E_TIMEOUT": "the update hung",
}

STEPS = ("offered", "downloaded", "tried", "on live fields", "confirmed")
_STEP_OF: dict[UpdateState, int] = {
    S.DOWNLOADING: 1,
    S.WAITING: 1,
    S.VERIFIED: 2,
    S.TRIAL: 2,
    S.UNCONFIRMED: 4,
    S.CONFIRMED: 5,
    S.CANCELLED: 0,
    S.SUPERSEDED: 0,
}
"""How many of the steps are done or begun."""

_OF_THE_TRIAL = frozenset({"E_INCOMPAT", "E_LOAD", "E_SELFTEST", "E_PARITY", "E_LATENCY", "E_TIMEOUT"})

_WORDS: dict[UpdateState, str] = {
    S.DOWNLOADING: "downloading",
    S.WAITING: "waits (a slide is read, or no link)",
    S.VERIFIED: "downloaded",
    S.TRIAL: "being tried",
    S.UNCONFIRMED: "on live fields",
    S.CONFIRMED: "confirmed",
    S.FAILED: "failed",
    S.ROLLED_BACK: "went back by itself",
    S.REJECTED: "refused",
    S.CANCELLED: "back on the old model",
    S.SUPERSEDED: "belongs to a newer rollout",
    S.UNKNOWN: "in a state not known here",
}


@dataclass(frozen=True, slots=True)
class GateWords:
    """How a gate is told: its name, how a figure reads, and the sign before the limit."""

    name: str
    show: Callable[[float], str]
    sign: str


def _count(value: float) -> str:
    return f"{value:.0f}"


def _percent(value: float) -> str:
    return f"{value * 100:.0f}\u00a0%".replace("-", "\u2212")


def _times(value: float) -> str:
    return f"{value:.1f}\u00a0×"


def _duration(value: float) -> str:
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if value < limit_s:
            return f"{value / unit_s:.0f}\u00a0{unit}"
    return f"{value / 86400:.0f}\u00a0days"


def _yes(value: float) -> str:
    return "yes" if value else "no"


GATES: dict[str, GateWords] = {
    "confirmed": GateWords("Devices confirmed", _count, "at least"),
    "undecided": GateWords("Online and not yet decided", _count, "at most"),
    "bad": GateWords("Devices gone bad", _count, "fewer than"),
    "fields": GateWords("Fields read, fewest on a device", _count, "at least"),
    "self_test": GateWords("Devices failing the self-test", _count, "at most"),
    "disagreement": GateWords("White cells named differently", _percent, "at most"),
    "uncertain_rise": GateWords("More uncertain fields than before", _percent, "at most"),
    "withheld_rise": GateWords("More withheld fields than before", _percent, "at most"),
    "latency": GateWords("Time for a field, new to old", _times, "at most"),
    "soak": GateWords("Rest after the wave", _duration, "at least"),
    "evidence": GateWords("Evaluation accepted", _yes, ""),
}

ACTIONS: dict[str, str] = {
    "approve": "started",
    "open_wave": "opened the wave",
    "offer_download": "offered the download",
    "offer_activation": "told to activate",
    "straggler": "no longer waits for",
    "soak": "let the wave rest",
    "complete": "completed",
    "pause": "paused",
    "resume_approved": "resumed",
    "resume_running": "resumed",
    "resume_soaking": "resumed",
    "waive": "waived missing evidence",
    "supersede": "replaced it",
    "abort": "stopped",
    "roll_back": "rolled back",
    "return": "told to go back",
    "returned": "ended: old model everywhere",
}


@dataclass(frozen=True, slots=True)
class DeviceCell:
    """A device in its wave's column."""

    name: str
    chip: str
    word: str
    detail: str
    steps: int
    bad: bool
    away: bool
    since: datetime | None


@dataclass(frozen=True, slots=True)
class WaveColumn:
    """A wave as a column."""

    number: int
    title: str
    chip: str
    word: str
    confirmed: int
    size: int
    devices: tuple[DeviceCell, ...]
    more: int


@dataclass(frozen=True, slots=True)
class GateLine:
    """A gate as a row."""

    name: str
    chip: str
    word: str
    figure: str
    limit: str
    text: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """A decision as a row."""

    at: datetime
    by: str
    action: str
    reason: str
    figures: str


@dataclass(frozen=True, slots=True)
class Headline:
    """What is to be known first: kind of the notice, a sentence, and what follows from it."""

    kind: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class RolloutPage:
    """Everything the page shows."""

    summary: RolloutSummary
    chip: str
    word: str
    headline: Headline
    waves: tuple[WaveColumn, ...]
    gates: tuple[GateLine, ...]
    gates_of: str
    log: tuple[LogLine, ...]
    actions: tuple[str, ...]


def page_of(detail: RolloutDetail, now: datetime) -> RolloutPage:
    """The page of a rollout."""
    chip, word = STATES[detail.summary.state]
    gates, title = _gates(detail)
    return RolloutPage(
        summary=detail.summary,
        chip=chip,
        word=word,
        headline=headline(detail, now),
        waves=tuple(_column(detail, wave) for wave in range(detail.summary.waves)),
        gates=tuple(_gate(gate) for gate in gates),
        gates_of=title,
        log=tuple(_log(row) for row in detail.decisions),
        actions=actions_of(detail),
    )


def actions_of(detail: RolloutDetail) -> tuple[str, ...]:
    """What a person may do with a rollout as it is."""
    state = detail.summary.state
    waive = ("waive",) if may_waive(detail.gates) else ()
    if state in {R.APPROVED, R.RUNNING, R.SOAKING}:
        return (*waive, "pause", "abort")
    if state is R.PAUSED:
        return (*waive, "resume", "abort")
    return ("rollback",) if state is R.COMPLETED else ()


def may_waive(gates: Sequence[GateFigure]) -> bool:
    """Whether the open wave lacks nothing but observations; the cloud decides it anew when it is asked to."""
    passed = {gate.name: gate.passed for gate in gates}
    waiting = [gate for gate in gates if gate.name in WAIVABLE and not gate.passed]
    decided = passed.get("confirmed", False) and passed.get("undecided", False)
    return decided and bool(waiting) and not any(_is_red(gate) for gate in gates)


def headline(detail: RolloutDetail, now: datetime) -> Headline:
    """The state in plain words; where it stopped, why."""
    row = detail.summary
    match row.state:
        case R.ABORTING | R.ABORTED:
            after = "Every device that was told of it is back on its old model."
            if row.state is R.ABORTING:
                running = sum(member.active == row.digest for member in detail.members)
                still = f"{running} still run the release." if running else "It ends when each has reported that."
                after = f"Its devices are told to go back to their old model. {still}"
            return Headline("fault", why(row.reason, row.state), after)
        case R.PAUSED:
            after = "Nothing further is offered until somebody resumes it. Devices that are at it go on by themselves."
            return Headline("warning", why(row.reason, row.state), after)
        case R.COMPLETED:
            late = sum(member.straggler and member.state is not S.CONFIRMED for member in detail.members)
            after = f"{late} devices were away; they get it on their return." if late else ""
            return Headline("ok", f"Completed: {row.confirmed} of {row.devices} devices run the release.", after)
        case R.SUPERSEDED:
            return Headline("plain", "This rollout was replaced by a newer one.", f"It was {row.reason}.")
        case R.SOAKING:
            return Headline("plain", f"Wave {row.wave} is confirmed and rests.", _rest(detail, now))
        case R.RUNNING:
            own = [member for member in detail.members if member.wave == row.wave]
            done = sum(member.state is S.CONFIRMED for member in own)
            return Headline("plain", f"Wave {row.wave} is under way: {done} of {len(own)} devices confirmed.", "")
        case R.APPROVED:
            return Headline("plain", "The first wave opens as soon as a worker looks at it.", "")
        case _:
            return Headline("plain", f"This rollout is {STATES[row.state][1]}.", "")


def why(reason: str, state: RolloutState) -> str:
    """A stored reason as a sentence."""
    verb = "Paused" if state is R.PAUSED else "Stopped"
    kind, _, rest = reason.partition(": ")
    if kind == "manual":
        return f"{verb} by a person: {rest}."
    words = _wave_words(rest if kind == "auto" else reason)
    return f"{verb} by itself: {words}." if words else f"{verb}."


def _wave_words(text: str) -> str:
    found = re.fullmatch(r"wave (\d+): (.*)", text)
    if found is None:
        return text
    words = [_device_words(part) for part in found[2].split(", ")]
    return f"in wave {found[1]}, {', '.join(words)}"


def _device_words(text: str) -> str:
    device, _, code = text.partition(" ")
    if code in CODES:
        return f"{device} says: {CODES[code]} ({code})"
    return f"{device} went back by itself" if code == S.ROLLED_BACK.value else text


def _rest(detail: RolloutDetail, now: datetime) -> str:
    gate = next((gate for gate in detail.gates if gate.name == "soak"), None)
    if gate is None or gate.figure is None or gate.limit is None:
        return ""
    if gate.passed:
        return "Its rest is over; the next step follows."
    left_s = gate.limit - gate.figure
    ends = (now + timedelta(seconds=left_s)).strftime("%H:%M:%S UTC")
    return f"{_duration(left_s)} of its rest are left, until {ends}, if nothing goes wrong meanwhile."


def _gates(detail: RolloutDetail) -> tuple[Sequence[GateFigure], str]:
    """The open wave's gates as of now; of a rollout that has ended those that its last decision was made on."""
    if detail.gates:
        return detail.gates, f"Gates of wave {detail.summary.wave}, as of now"
    last = next((row for row in detail.decisions if row.gates and row.action != "returned"), None)
    if last is None:
        return (), ""
    return last.gates, f"Gates when the rollout was {ACTIONS.get(last.action, last.action)}"


def _gate(gate: GateFigure) -> GateLine:
    words = GATES.get(gate.name, GateWords(gate.name.replace("_", " "), lambda value: f"{value:g}", ""))
    red = _is_red(gate)
    chip, word = ("ok", "passed") if gate.passed else ("fault", "red") if red else ("busy", "not yet")
    limit = "" if gate.limit is None else f"{words.sign} {words.show(gate.limit)}"
    if not words.sign:
        limit = ""
    figure = "no figure yet" if gate.figure is None else words.show(gate.figure)
    return GateLine(words.name, chip, word, figure, limit, gate.text)


def _is_red(gate: GateFigure) -> bool:
    return not gate.passed and gate.figure is not None and gate.name in {"bad", "self_test", *_QUALITY}


_QUALITY = frozenset({"disagreement", "uncertain_rise", "withheld_rise", "latency"})


def _log(row: DecisionRow) -> LogLine:
    figures, reason = "", row.reason
    if row.by == "controller" and row.action in {"abort", "pause"}:
        reason = why(reason, R.PAUSED if row.action == "pause" else R.ABORTED)
        lines = [_gate(gate) for gate in row.gates if not gate.passed and gate.name not in {"soak", "evidence"}]
        figures = ", ".join(f"{line.name.lower()}: {line.figure} ({line.limit})" for line in lines)
    return LogLine(row.at, row.by, ACTIONS.get(row.action, row.action.replace("_", " ")), reason, figures)


def _column(detail: RolloutDetail, wave: int) -> WaveColumn:
    own = [member for member in detail.members if member.wave == wave]
    cells = sorted((_cell(member, detail) for member in own), key=_urgency)
    chip, word = _wave_state(detail.summary, wave)
    return WaveColumn(
        number=wave,
        title="Bench wave" if wave == 0 and len(own) == 1 else f"Wave {wave}",
        chip=chip,
        word=word,
        confirmed=sum(member.state is S.CONFIRMED for member in own),
        size=len(own),
        devices=tuple(cells[:SHOWN_DEVICES]),
        more=max(0, len(cells) - SHOWN_DEVICES),
    )


def _wave_state(row: RolloutSummary, wave: int) -> tuple[str, str]:
    if row.state in {R.ABORTING, R.ABORTED}:
        return (
            ("fault", "stopped here")
            if wave == row.wave
            else ("off", "had passed" if wave < row.wave else "never opened")
        )
    if row.state is R.COMPLETED or wave < row.wave:
        return "ok", "passed"
    if row.state is R.SUPERSEDED:
        return "off", "replaced"
    if wave > row.wave or row.state in {R.APPROVED, R.DRAFT}:
        return "off", "waits"
    if row.state is R.PAUSED:
        return "warning", "held"
    return ("busy", "rests") if row.state is R.SOAKING else ("busy", "open")


def _cell(member: MemberRow, detail: RolloutDetail) -> DeviceCell:
    bad = member.state in BAD_STATES
    away = member.presence is not Presence.ONLINE
    steps = _reached(member) if bad else _STEP_OF.get(member.state, 1 if member.offered else 0)
    if member.state is S.CONFIRMED:
        chip = "ok"
    elif bad:
        chip = "fault"
    elif away and member.state is not S.CANCELLED:
        chip = "warning"
    else:
        chip = "busy" if member.offered and member.state is not S.CANCELLED else "off"
    return DeviceCell(
        member.device, chip, _state_words(member), _detail(member, detail), steps, bad, away, member.since
    )


def _reached(member: MemberRow) -> int:
    """In which step a device failed, as far as its code tells."""
    if member.soak is not None or member.code in {None, "E_QUALITY"}:
        return 4
    return 3 if member.code in _OF_THE_TRIAL else 2


def _state_words(member: MemberRow) -> str:
    if member.state is S.IDLE:
        return "told to activate" if member.offered else "waits for its wave"
    return _WORDS[member.state]


def _detail(member: MemberRow, detail: RolloutDetail) -> str:
    """What else is to be known: why it failed, that it is away, what the new model has shown."""
    words = []
    if member.code:
        words.append(f"{CODES[member.code]} ({member.code})" if member.code in CODES else member.code)
    if member.straggler and member.state is not S.CONFIRMED:
        words.append("away at the deadline: gets it on its return")
    elif member.presence is Presence.OFFLINE:
        words.append("offline")
    elif member.presence is not Presence.ONLINE:
        words.append("never seen")
    if member.soak and member.state in {S.UNCONFIRMED, S.CONFIRMED}:
        least = detail.thresholds.min_fields
        fields = (
            f"{member.soak.fields} fields" if member.soak.fields >= least else f"{member.soak.fields} of {least} fields"
        )
        apart = member.soak.disagreement_ratio
        words.append(fields if apart is None else f"{fields}, {_percent(apart)} named differently")
    return "; ".join(words)


def _urgency(cell: DeviceCell) -> tuple[int, str]:
    order = 0 if cell.bad else 1 if cell.away else 3 if cell.steps == len(STEPS) else 2
    return order, cell.name
