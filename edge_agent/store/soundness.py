"""Whether a stored row can leave at all. Pure.

Rows are joined into a message unread, so one that a disk or a hand has spoiled would make a message that nobody can
read, and that would be sent for ever. It is looked at before it leaves instead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from fleet.contract.base import MAX_MESSAGE_BYTES, JsonObject

ENVELOPE_BYTES = 4096
"""Room that the message leaves for what stands round its events."""


class Fault(StrEnum):
    """Why a row is set aside; stored, never renamed."""

    NOT_UTF_8 = "not_utf_8"
    NOT_JSON = "not_json"
    NO_EVENT = "no_event"
    WRONG_NUMBER = "wrong_number"
    TOO_LARGE = "too_large"
    NO_CONTEXT = "no_context"
    NO_PICTURE = "no_picture"
    NEVER_ACKNOWLEDGED = "never_acknowledged"


@dataclass(frozen=True, slots=True)
class Unsendable:
    """A row of the spool that cannot leave.

    Attributes:
        picture: it is one, and no event.
        reason: a `Fault`, or what the cloud said.
    """

    row_id: int
    picture: bool
    reason: str


def event_fault(payload: bytes, *, boot: int, seq: int) -> Fault | None:
    """What is wrong with a stored event; None when it can be sent."""
    if len(payload) > MAX_MESSAGE_BYTES - ENVELOPE_BYTES:
        return Fault.TOO_LARGE
    try:
        event = _object(payload)
    except UnicodeDecodeError:
        return Fault.NOT_UTF_8
    except (ValueError, RecursionError):
        return Fault.NOT_JSON
    if event is None or not isinstance(event.get("kind"), str):
        return Fault.NO_EVENT
    # It would be acknowledged under the number that it tells, and fly for ever under its own.
    return None if (event.get("boot"), event.get("seq")) == (boot, seq) else Fault.WRONG_NUMBER


def _object(payload: bytes) -> JsonObject | None:
    document = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
    return document if isinstance(document, dict) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
