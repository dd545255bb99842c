"""The only texts that leave the workstation beside results: fixed words by code, and numbers. Pure.

Microscope programs put specimen numbers and names of patients into the names of files and folders. So no text that was
made from one leaves: an alarm carries its code and the words that stand here; what happened to which file is in the
local log and on the console. A code without words leaves as the code alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from fleet.contract.messages import Alarm, Severity

FRAME_DROPPED = "frame_dropped"
OVER = "_over"

ALARM_WORDS: dict[str, str] = {
    "broker_refused": "The broker refuses this device.",
    "camera_absent": "The camera, stream or folder is not there.",
    "camera_black": "The camera sends a black picture.",
    "camera_frozen": "The camera repeats one and the same picture.",
    "camera_reconnecting": "The connection to the camera is lost.",
    "camera_saturated": "The camera sends a white picture.",
    "camera_stalled": "The camera is connected but sends no picture.",
    "camera_trickling": "The camera delivers too few pictures a second.",
    "camera_wrong_size": "The camera sends pictures of another size than agreed.",
    "cloud_refused": "The cloud refuses this device.",
    "disk_fault": "The disk of the workstation does not read or write.",
    "disk_full": "The disk of the workstation is full: no field is taken.",
    "frame_dropped_black": "A black picture was dropped.",
    "frame_dropped_repeated": "A repeated picture was dropped.",
    "frame_dropped_saturated": "A white picture was dropped.",
    "frame_dropped_superseded": "A picture was dropped for a newer one.",
    "frame_dropped_unreadable": "A picture could not be read.",
    "frame_dropped_wrong_size": "A picture of another size than agreed was dropped.",
    "frame_unusable": "A picture could not be analysed.",
    "model_not_opened": "A model could not be opened; the one before goes on reading.",
    "restart_needed": "Settings were changed that are in force only after a restart.",
    "results_rejected": "The cloud refused results for good; they are in the local store only.",
    "rows_set_aside": "Results or pictures could not be sent and were set aside.",
    "settings_refused": "The settings were read again and cannot be used; the old ones stay in force.",
    "slide_target_reached": "The target of white cells is reached.",
    "store_repaired": "The local store was damaged and was repaired; something of it may be lost.",
    "update_not_saved": "The model update waits for the disk.",
    "update_refused": "A model update was refused; the steps of the update say why.",
}

HIDDEN = "[path]"
_BEGIN = re.compile(
    r"(?P<quote>['\"`]?)(?<![\w./\\])(?:file:/{1,3}|[A-Za-z]:[/\\]{1,2}|\\{1,2}|(?<!:)//|/)(?=[^\s/\\])", re.IGNORECASE
)
"""Where an absolute path begins, as error messages of libraries write it; no address of the web."""


def alarm(code: str, severity: Severity, at: datetime, *, count: int | None = None) -> Alarm:
    """An alarm that may leave.

    Args:
        code: constant snake_case word; with `_over` behind it when a problem has gone.
        severity: of it.
        at: UTC.
        count: a number that belongs to it.
    """
    words = ALARM_WORDS.get(code.removesuffix(OVER), "")
    if code.endswith(OVER):
        words = f"Over: {words}" if words else "Over."
    if count is not None:
        words = f"{words} ({count})".strip()
    return Alarm(boot=0, seq=0, raised_at=at, severity=severity, code=code, text=words)


def without_paths(text: str, roots: Iterable[str]) -> str:
    """A text without the folders of this workstation, for the steps of the model update: their errors name files.

    Args:
        text: of an error.
        roots: folders that the agent works in, whose files it names itself: what stands below them goes up to a space,
            quote or comma.

    Names of other folders may hold spaces, commas and whatever else, so nothing tells where such a path ends: with a
    quote before it all goes up to the last quote of that sort, without one all the rest of the text.
    """
    for root in sorted({root for root in roots if len(root) > 1}, key=len, reverse=True):
        below = rf"(?P<quote>['\"`])?{re.escape(root)}(?(quote).*(?=(?P=quote))|[^\s:'\"`,;)]*)"
        text = re.sub(below, lambda found: f"{found['quote'] or ''}{HIDDEN}", text, flags=re.DOTALL)
    return _cut(text)


def _cut(text: str) -> str:
    found = _BEGIN.search(text)
    if found is None:
        return text
    quote = found["quote"]
    kept = f"{text[: found.start()]}{quote}{HIDDEN}"
    end = text.rfind(quote, found.end()) if quote else -1
    return kept if end < 0 else f"{kept}{quote}{_cut(text[end + 1 :])}"
