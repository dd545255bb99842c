"""Bytes to messages and back. Reading refuses what is too large or not valid, with a reason that can be stored."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from fleet.contract.base import MAX_MESSAGE_BYTES, Envelope, JsonObject
from fleet.contract.messages import Event, EventBatch

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH = 32
"""Deepest nesting that is read; whoever stores or writes out a refused message then never meets a recursion limit."""

NUL = "a text holds the character NUL, which not every database can store"

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class WireError(ValueError):
    """The peer sent something that cannot be read: reject it, store it, do not retry."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def encode(message: BaseModel) -> bytes:
    """A message as canonical UTF-8 JSON (sorted keys, no spaces), so that equal messages are equal bytes."""
    document = message.model_dump(mode="json", by_alias=True)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(kind: type[M], data: bytes, *, limit_bytes: int = MAX_MESSAGE_BYTES) -> M:
    """Reads one message; WireError (`too_large`, `not_json`, `invalid`) is the sender's fault."""
    document = _document(data, limit_bytes=limit_bytes)
    if _holds_nul(document, data):
        raise WireError("invalid", NUL)
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        raise WireError("invalid", _first(exc)) from exc


def decode_events(data: bytes, *, limit_bytes: int = MAX_MESSAGE_BYTES) -> tuple[EventBatch | None, list[Rejected]]:
    """Reads a batch so that one poisonous event does not take the others with it.

    Returns the batch with the events that could be read (None when none could) and those that could not.
    WireError only when the envelope itself cannot be read.
    """
    document = _document(data, limit_bytes=limit_bytes)
    raw = document.get("events")
    if not isinstance(raw, list) or not raw:
        raise WireError("invalid", "events: a batch carries at least one event")
    envelope = {key: value for key, value in document.items() if key != "events"}
    if _holds_nul(envelope, data):
        raise WireError("invalid", NUL)
    try:
        Envelope.model_validate(envelope)
    except ValidationError as exc:
        raise WireError("invalid", _first(exc)) from exc
    good: list[JsonObject] = []
    bad: list[Rejected] = []
    for item in raw:
        try:
            _EVENT.validate_python(item)
        except ValidationError as exc:
            bad.append(Rejected(raw=item, detail=_first(exc)))
            continue
        if _holds_nul(item, data):
            bad.append(Rejected(raw=item, detail=NUL))
        else:
            good.append(item)
    if not good:
        return None, bad
    try:
        return EventBatch.model_validate({**document, "events": good}), bad
    except ValidationError as exc:
        raise WireError("invalid", _first(exc)) from exc


class Rejected:
    """One event that could not be read, with what names it as far as that can be told."""

    def __init__(self, *, raw: object, detail: str) -> None:
        self.raw = raw
        self.detail = detail
        self.boot = self._number("boot")
        self.seq = self._number("seq")

    def _number(self, key: str) -> int | None:
        value = self.raw.get(key) if isinstance(self.raw, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _document(data: bytes, *, limit_bytes: int) -> JsonObject:
    if len(data) > limit_bytes:
        raise WireError("too_large", f"{len(data)} bytes, the limit is {limit_bytes}")
    try:
        document = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:  # ValueError: not UTF-8, not JSON, or a number of thousands of digits
        raise WireError("not_json", str(exc)[:200]) from exc
    if not isinstance(document, dict):
        raise WireError("invalid", "a message is a JSON object")
    if _deeper_than(document, MAX_DEPTH):
        raise WireError("invalid", f"nested deeper than {MAX_DEPTH} levels")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _holds_nul(part: object, data: bytes) -> bool:
    # In JSON a NUL can only stand escaped; the search over the bytes keeps the walk off the usual path.
    if b"\\u0000" not in data:
        return False
    nodes = [part]
    while nodes:
        node = nodes.pop()
        if isinstance(node, str) and "\x00" in node:
            return True
        nodes += _children(node)
    return False


def _deeper_than(part: object, levels: int) -> bool:
    layer = [part]
    for _ in range(levels):
        layer = [child for node in layer for child in _children(node)]
    return bool(layer)


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return [*node, *node.values()]
    return node if isinstance(node, list) else []


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else str(error["msg"])
