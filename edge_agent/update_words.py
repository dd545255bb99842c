"""The model update in plain words: what runs, what comes, how far it is, and why something was refused. Pure."""

from __future__ import annotations

from edge_agent.console.view import PartState, UpdateCard
from edge_agent.update.core import Progress
from edge_agent.update.record import Hold, Model, UpdateRecord
from fleet.contract.messages import SoakFigures, UpdateState
from fleet.contract.release import UpdateCode
from fleet.webkit.words import NOTHING, percent, short_digest

S = UpdateState

CODES: dict[UpdateCode, str] = {
    UpdateCode.SIGNATURE: "It was not signed by the keys that this device trusts.",
    UpdateCode.ROLLBACK: "It is older than what this device has run.",
    UpdateCode.STALE: "The signed list of models has expired, or does not name this one.",
    UpdateCode.HASH: "The bytes that arrived are not the ones that were signed.",
    UpdateCode.LENGTH: "It is larger or smaller than what was signed.",
    UpdateCode.CHUNK: "In the place of its parts came others, which belong to nothing that was signed.",
    UpdateCode.PATH: "A name in it reaches out of its own folder.",
    UpdateCode.SLOW: "It arrived too slowly.",
    UpdateCode.SPACE: "There is no room for it on the disk.",
    UpdateCode.INCOMPATIBLE: "It needs a newer version of this program.",
    UpdateCode.LOAD: "It cannot be opened on this workstation.",
    UpdateCode.SELF_TEST: "It does not find or name the cells of the test fields rightly.",
    UpdateCode.PARITY: "It computes other values here than where it was made.",
    UpdateCode.LATENCY: "It is too slow on this workstation.",
    UpdateCode.QUALITY: "It does not agree well enough with the model before on the fields of this laboratory.",
    UpdateCode.TIMEOUT: "It did not finish in time.",
    UpdateCode.UNKNOWN: "It could not be installed.",
}

WORDS: dict[UpdateState, tuple[PartState, str]] = {
    S.IDLE: (PartState.OK, "nothing to do"),
    S.DOWNLOADING: (PartState.BUSY, "receiving"),
    S.WAITING: (PartState.BUSY, "waiting"),
    S.VERIFIED: (PartState.BUSY, "ready"),
    S.TRIAL: (PartState.BUSY, "on trial"),
    S.UNCONFIRMED: (PartState.BUSY, "proving itself"),
    S.CONFIRMED: (PartState.OK, "up to date"),
    S.FAILED: (PartState.WARNING, "not installed"),
    S.ROLLED_BACK: (PartState.WARNING, "went back"),
    S.REJECTED: (PartState.FAULT, "refused"),
    S.CANCELLED: (PartState.OFF, "cancelled"),
    S.SUPERSEDED: (PartState.BUSY, "replaced by another"),
    S.UNKNOWN: (PartState.UNKNOWN, "unknown"),
}

_SENTENCES: dict[UpdateState, str] = {
    S.IDLE: "This device runs the model that it came with; no other is wanted.",
    S.DOWNLOADING: "{other} arrives from the cloud. Fields are read as before.",
    S.VERIFIED: "{other} is here and checked; it waits for this device's turn.",
    S.TRIAL: "{other} reads test fields in a process of its own. Fields are read by the model before.",
    S.UNCONFIRMED: "{other} reads the fields, and the model before reads them as well, until both are seen to agree.",
    S.CONFIRMED: "The model that is wanted runs here and has proved itself.",
    S.FAILED: "{other} was not installed. The model before goes on reading.",
    S.ROLLED_BACK: "{other} was taken out of use. The model before reads again.",
    S.REJECTED: "{other} was refused. The model in use goes on reading.",
    S.CANCELLED: "{other} is no longer wanted.",
    S.SUPERSEDED: "{other} was replaced by another one before it was installed.",
    S.UNKNOWN: "",
}

_HOLDS = {
    Hold.LINK: "{other} goes on arriving when the cloud is there again. Fields are read as before.",
    Hold.SPACE: "{other} waits for room on the disk. Free some disk space.",
    Hold.BUSY: "{other} is ready and waits until the slide has been read.",
}

_NO_LIST = (
    "{other} waits until the cloud has sent a newly signed list of models that names it. "
    "The model in use goes on reading."
)


def update_card(
    record: UpdateRecord, progress: Progress | None, soak: SoakFigures | None, soak_text: str
) -> UpdateCard:
    """What the model's page says of the update.

    Args:
        record: where it stands.
        progress: of the delivery, as far as it is known.
        soak: live figures of a model that proves itself.
        soak_text: what is still missing, in words.
    """
    part, word = WORDS[record.state]
    other = _named(record.about) if record.about is not None else "What was offered"
    ratio = None
    if progress is not None and record.state in (S.DOWNLOADING, S.WAITING) and record.hold is not Hold.BUSY:
        ratio = 1.0 - progress.missing / max(1, progress.chunks)
        word = f"{word} {percent(ratio)}"
    template = _SENTENCES.get(record.state, "") if record.hold is None else _HOLDS[record.hold]
    if record.state is S.REJECTED and record.code is UpdateCode.STALE:
        template = _NO_LIST
    return UpdateCard(
        state=part,
        word=word,
        sentence=template.format(other=other),
        why="" if record.code is None else CODES[record.code],
        code="" if record.code is None else record.code.value,
        detail=record.text if record.code is not None else "",
        progress_ratio=ratio,
        lines=tuple(_lines(record, progress, soak, soak_text)),
    )


def update_text(record: UpdateRecord) -> str:
    """One short line for the live page; empty when there is nothing to say."""
    if record.state in (S.IDLE, S.CONFIRMED):
        return ""
    other = _named(record.about) if record.about is not None else "Update"
    _, word = WORDS[record.state]
    why = "" if record.code is None else f" {CODES[record.code]}"
    return f"{other}: {word}.{why}"


def _lines(
    record: UpdateRecord, progress: Progress | None, soak: SoakFigures | None, soak_text: str
) -> list[tuple[str, str]]:
    found = [("Runs", _named(record.running, digest=True))]
    if record.before is not None:
        found.append(("Before it", _named(record.before, digest=True)))
    if record.candidate is not None and record.state is not S.UNCONFIRMED:
        found.append(("Comes", _named(Model.of(record.candidate), digest=True)))
    if progress is not None and progress.missing:
        found.append(("Received", f"{progress.chunks - progress.missing} of {progress.chunks} parts"))
    shown = soak if record.state is S.UNCONFIRMED else record.soak
    if shown is not None:
        found += _soak_lines(shown)
        if record.state is S.UNCONFIRMED and soak_text:
            found.append(("So far", soak_text))
    if record.concerns:
        found.append(("Rollout", record.concerns))
    return found


def _soak_lines(figures: SoakFigures) -> list[tuple[str, str]]:
    speed = NOTHING if figures.latency_ratio is None else f"{figures.latency_ratio:.2f} times the one before"
    return [
        ("Read by both", f"{figures.fields} fields, {figures.white_cells} white cells"),
        ("Named differently", percent(figures.disagreement_ratio)),
        ("Uncertain", f"{percent(figures.uncertain_ratio)} (before: {percent(figures.baseline_uncertain_ratio)})"),
        ("Withheld", f"{percent(figures.withheld_ratio)} (before: {percent(figures.baseline_withheld_ratio)})"),
        ("Time a field", speed),
    ]


def _named(model: Model, *, digest: bool = False) -> str:
    name = f"{model.name} {model.version}".strip()
    text = f"{name}, release {model.counter}" if name else f"Release {model.counter}"
    return f"{text}, {short_digest(model.digest)}" if digest else text
