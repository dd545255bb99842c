"""Plain words for codes: what a technician or a reviewer reads instead of `out_of_focus`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

NOTHING = "–"
"""Shown where there is no figure: never a zero that was not counted."""

REASONS = {
    # the edge's quality gate and freshness
    "out_of_focus": "out of focus",
    "too_dark": "too dark",
    "too_bright": "too bright",
    "colour_cast": "colours are off (stain or white balance)",
    "too_few_cells": "too few cells",
    "too_dense": "cells lie too densely",
    "red_cell_size": "red cells are not of the expected size (check the objective)",
    "repeated": "the same picture again",
    "frozen": "the camera repeats the same picture",
    "black": "the picture is black",
    "saturated": "the picture is overexposed",
    "wrong_size": "the picture has the wrong size",
    # the edge's triage
    "cell_unidentified": "a white cell could not be identified",
    "cell_foreign": "a cell looks unlike anything the model learned from",
    "weak_white_cell": "a white cell is only weakly seen",
    "scale_unknown": "no red cell shows the scale",
    # the cloud's verdict
    "cloud_unidentified": "the larger model could not identify a cell",
    "cloud_out_of_domain": "the larger model finds a cell unlike anything it learned from",
    "cloud_several_types": "the larger model keeps several types possible",
    "types_differ": "both models are sure, but of different types",
    "only_edge_saw_a_cell": "only the edge sees one of the white cells",
    "only_cloud_saw_a_cell": "only the larger model sees one of the white cells",
}

DECISIONS = {
    "accept": "Counted",
    "uncertain": "Counted, second opinion asked",
    "withheld": "Not counted",
    "unknown": "Unknown",
}

DECISION_STATES = {"accept": "ok", "uncertain": "busy", "withheld": "warning"}

TYPES = {
    "neutrophil": "Neutrophils",
    "lymphocyte": "Lymphocytes",
    "monocyte": "Monocytes",
    "eosinophil": "Eosinophils",
    "basophil": "Basophils",
    "unidentified": "Unidentified",
    "not_seen": "Not seen by the larger model",
    "not_classed": "Not classed",
    "artefact": "Artefacts",
    "white_cells": "White cells",
}

LABELS = {
    "neutrophil": "Neutrophil",
    "lymphocyte": "Lymphocyte",
    "monocyte": "Monocyte",
    "eosinophil": "Eosinophil",
    "basophil": "Basophil",
    "unidentified": "Unidentified",
    "not_classed": "Not classed",
    "artefact": "Artefact",
}

OPINION_STATES = {
    "answered": ("ok", "answered"),
    "pending_review": ("warning", "waits for a person"),
    "reviewed": ("ok", "read by a person"),
    "unknown": ("unknown", "unknown"),
}

PRESENCES = {
    "online": ("ok", "online"),
    "offline": ("warning", "offline"),
    "unknown": ("unknown", "never seen"),
}

UPDATE_STATES = {
    "idle": "",
    "downloading": "downloading a model",
    "waiting": "waiting to update",
    "verified": "update checked",
    "trial": "trying a model",
    "unconfirmed": "update not yet confirmed",
    "confirmed": "",
    "failed": "update failed",
    "rolled_back": "went back to the previous model",
    "rejected": "update refused",
    "cancelled": "update cancelled",
    "superseded": "update replaced by a newer one",
    "unknown": "",
}


def code_words(code: str) -> str:
    """A code nobody gave words to, readable at least: `disk_full` -> `disk full`."""
    return code.replace("_", " ").replace(":", ": ")


def capitalize_first(text: str) -> str:
    """First letter large, the rest as it is (unlike `str.capitalize`)."""
    return text[:1].upper() + text[1:]


def reason(code: str) -> str:
    """Plain words of a triage, gate or review reason."""
    return REASONS.get(code, code_words(code))


def reasons(codes: tuple[str, ...]) -> str:
    """Several reasons in one line."""
    return ", ".join(reason(code) for code in codes)


def field_sentence(decision: str, codes: tuple[str, ...]) -> str:
    """What became of a field: "Field is out of focus: not counted." """
    why = reasons(codes)
    if decision == "withheld":
        return f"Not counted: {why}." if why else "Not counted."
    if decision == "uncertain":
        return f"Counted, second opinion asked: {why}." if why else "Counted, second opinion asked."
    return "Counted." if decision == "accept" else code_words(decision)


def decision(code: str) -> str:
    """Plain words of a triage decision."""
    return DECISIONS.get(code, code_words(code))


def decision_state(code: str) -> str:
    """Chip state of a triage decision."""
    return DECISION_STATES.get(code, "unknown")


def cell_type(label: str) -> str:
    """Heading of a white-cell type: plural, capital."""
    return TYPES.get(label, code_words(label).capitalize())


def label(name: str) -> str:
    """One cell's label: singular, capital."""
    return LABELS.get(name, code_words(name).capitalize())


def number(value: float | None) -> str:
    """1204 -> `1,204`; None -> a dash."""
    return NOTHING if value is None else f"{value:,.0f}"


def percent(ratio: float | None) -> str:
    """0.614 -> `61 %` with a no-break space; None -> a dash."""
    return NOTHING if ratio is None else f"{ratio * 100:.0f}\u00a0%"


def milliseconds(value: float | None) -> str:
    """Latency: `142 ms`, `1.4 s`."""
    if value is None:
        return NOTHING
    return f"{value:.0f}\u00a0ms" if value < 1000 else f"{value / 1000:.1f}\u00a0s"


def short_digest(digest: str | None) -> str:
    """First twelve hex digits, enough to tell bundles apart by eye."""
    return NOTHING if not digest else digest.removeprefix("sha256:")[:12]


def iso(moment: datetime | None) -> str:
    """For `<time datetime>`; empty for None."""
    return "" if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def clock_text(moment: datetime | None) -> str:
    """UTC wall time for a person: `2026-01-31 12:00:05 UTC`."""
    return NOTHING if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago: `just now`, `12 s ago`, `5 min ago`, `3 h ago`, `4 days ago`. A time to come is `just now`."""
    if moment is None:
        return "never"
    seconds = int((now - moment).total_seconds())
    for limit_s, unit_s, unit in ((5, 0, ""), (90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit_s:
            return "just now" if not unit_s else f"{seconds // unit_s}\u00a0{unit} ago"
    return f"{seconds // 86400}\u00a0days ago"


def until(moment: datetime | None, now: datetime) -> str:
    """How long there is: `over`, `in 12 min`, `in 23 h`, `in 6 days`, `in 4 years`."""
    if moment is None:
        return NOTHING
    seconds = (moment - now).total_seconds()
    if seconds <= 0:
        return "over"
    for limit_s, unit_s, unit in ((5400, 60, "min"), (172800, 3600, "h"), (86400 * 730, 86400, "days")):
        if seconds < limit_s:
            return f"in {seconds / unit_s:.0f}\u00a0{unit}"
    return f"in {seconds / (86400 * 365.25):.0f}\u00a0years"


def size(size_bytes: int | None) -> str:
    """Bytes in a round unit: `812 B`, `61 kB`, `3.4 MB`."""
    if size_bytes is None:
        return NOTHING
    if size_bytes < 1000:
        return f"{size_bytes}\u00a0B"
    return f"{size_bytes / 1e3:.0f}\u00a0kB" if size_bytes < 999_500 else f"{size_bytes / 1e6:.1f}\u00a0MB"


FILTERS: dict[str, Callable[..., str]] = {
    "reason": reason,
    "reasons": reasons,
    "field_sentence": field_sentence,
    "decision": decision,
    "decision_state": decision_state,
    "cell_type": cell_type,
    "label": label,
    "number": number,
    "percent": percent,
    "milliseconds": milliseconds,
    "short_digest": short_digest,
    "iso": iso,
    "clock_text": clock_text,
    "age": age,
    "until": until,
    "size": size,
    "code_words": code_words,
    "capitalize_first": capitalize_first,
}
