"""What a row of the spool is worth: what is sent first, and given up last. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Priority(IntEnum):
    """Stored with each row, never renumbered. The lowest number leaves first, the highest is given up first."""

    RESULT = 0
    """What was found: fields, slides, and what a person made of them."""
    NOTE = 1
    """What happened beside it: alarms, losses, steps of the update."""
    DOUBT = 2
    """A picture sent for its doubt."""
    AUDIT = 3
    """A picture of the random audit stream."""


EVENT_PRIORITY: Final = {
    "field": Priority.RESULT,
    "slide": Priority.RESULT,
    "undone": Priority.RESULT,
    "bench_label": Priority.RESULT,
    "alarm": Priority.NOTE,
    "dropped": Priority.NOTE,
    "update": Priority.NOTE,
}
"""Kind of an event -> its priority."""


EVENT_PRIORITIES: Final = (Priority.RESULT, Priority.NOTE)
"""Those of events, in the order in which they leave."""


def picture_priority(*, audit: bool) -> Priority:
    """Priority of a picture; `audit` when it belongs to the random audit stream."""
    return Priority.AUDIT if audit else Priority.DOUBT
