"""What can still be read of a batch that is no message as a whole: one broken event must not hold up the others. Pure.

The agent joins its stored events unread, so a single row that was damaged on its disk breaks the JSON of all of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

MAX_TRIES = 300
"""Places tried, in one message, at which the next whole event may begin; behind them the rest is one broken piece."""
MAX_PIECES = 500
"""As many events as a batch may have; what follows is taken apart no further, whatever it holds."""
MAX_HEAD_BYTES = 4096
"""Many times a real envelope; it is read again with each piece."""

_EVENTS = re.compile(r'"events"\s*:\s*\[')
_NEXT = re.compile(r',\s*(?=\{\s*")')
_GAP = re.compile(r"[\s,]*")
_SPACE = re.compile(r"\s*")
_END = re.compile(r"\s*\]\s*\}\s*\Z")
# Only with what follows a number: one that was cut off would name another event.
_NUMBERS = {name: re.compile(rf'"{name}"\s*:\s*(\d{{1,15}})\s*[,}}]') for name in ("boot", "seq")}
_ESCAPED = "surrogateescape"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Pieces:
    """A batch taken apart.

    Attributes:
        head: the envelope, a JSON object without its closing brace.
        items: the events as they came, whole or broken, in order; at most `MAX_PIECES`.
        rest: what follows them, as it came.
    """

    head: bytes
    items: tuple[bytes, ...]
    rest: bytes = b""

    def alone(self, item: bytes) -> bytes:
        """One event as a batch of its own, under the same envelope."""
        return self.head + b',"events":[' + item + b"]}"


def split(payload: bytes) -> Pieces | None:
    """Takes a batch apart; None where no envelope followed by events can be made out."""
    text = payload.decode("utf-8", _ESCAPED)
    found = _EVENTS.search(text)
    if found is None:
        return None
    head = text[: found.start()].rstrip().removesuffix(",")
    try:
        envelope = json.loads(f"{head}}}")
    except (ValueError, RecursionError):
        return None
    head_bytes = head.encode("utf-8", _ESCAPED)
    if not isinstance(envelope, dict) or not envelope or len(head_bytes) > MAX_HEAD_BYTES:
        return None
    items, at = _items(text, found.end())
    pieces = tuple(item.encode("utf-8", _ESCAPED) for item in items)
    return Pieces(head_bytes, pieces, text[at:].encode("utf-8", _ESCAPED))


def place_in(item: bytes) -> tuple[int, int] | None:
    """(boot, seq) of a broken event; None unless each stands in it exactly once."""
    text = item.decode("utf-8", _ESCAPED)
    found = [_NUMBERS[name].findall(text) for name in ("boot", "seq")]
    if any(len(numbers) != 1 for numbers in found):
        return None
    return int(found[0][0]), int(found[1][0])


def _items(text: str, at: int) -> tuple[list[str], int]:
    """The pieces, and where what follows them begins."""
    items: list[str] = []
    tries = MAX_TRIES
    while True:
        at = _match_end(_GAP, text, at)
        if at >= len(text) or _END.match(text, at):
            return items, len(text)
        if len(items) == MAX_PIECES:
            return items, at
        end = _whole(text, at)
        if end is None:
            end, tries = _next_whole(text, at + 1, tries)
        items.append(text[at:end])
        at = end


def _whole(text: str, at: int) -> int | None:
    """Where the value that begins here ends; None when it is broken or something else than its neighbour follows."""
    try:
        _, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    follows = _match_end(_SPACE, text, end)
    return end if text[follows : follows + 1] in (",", "]") else None


def _next_whole(text: str, at: int, tries: int) -> tuple[int, int]:
    """Where a broken event ends: before the next whole one, else before the end of the batch."""
    for found in _NEXT.finditer(text, at):
        if tries <= 0:
            break
        tries -= 1
        if _is_event(text, found.end()):
            return found.start(), tries
    end = _END.search(text, at)
    return (end.start() if end is not None else len(text)), tries


def _is_event(text: str, at: int) -> bool:
    """Lists of objects stand inside events too; only an event has its number and its kind."""
    try:
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"boot", "seq", "kind"} <= value.keys()


def _match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
