"""What a source's state is called in plain words, and what to do about it."""

from __future__ import annotations

from edge_agent.capture.source import SourceState

TEXTS = {
    SourceState.CLOSED: "{label} is not open",
    SourceState.CONNECTING: "connecting to {label}",
    SourceState.UP: "{label} delivers a live picture",
    SourceState.WAITING: "waiting for new pictures in {label}",
    SourceState.TRICKLING: "{label} delivers too few pictures a second; check cable, network and exposure time",
    SourceState.STALLED: "{label} is connected but sends no picture; check cable and power of the camera",
    SourceState.RECONNECTING: "{label} is lost; reconnecting",
    SourceState.FROZEN: "{label} repeats one and the same picture: it is frozen; switch the camera off and on",
    SourceState.BLACK: "{label} sends a black picture; check lamp, shutter and light path",
    SourceState.SATURATED: "{label} sends a white picture; reduce lamp or exposure time",
    SourceState.WRONG_SIZE: "{label} sends pictures of another size than agreed; set its format back or restart",
    SourceState.ENDED: "{label} is read to its end",
}


def status_text(state: SourceState, label: str, detail: str = "") -> str:
    """One sentence on a source, with a detail in brackets if there is one."""
    text = TEXTS[state].format(label=label)
    return f"{text} ({detail})" if detail else text
