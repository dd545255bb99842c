"""Bytes to messages and back. Reading refuses what is too large or not valid, with a reason that can be stored."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from fleet.contract.base import MAX_MESSAGE_BYTES, JsonObject
from fleet.contract.messages import Event, EventBatch

M = TypeVar("M", bound=BaseModel)

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
    try:
        return kind.model_validate(_document(data, limit_bytes=limit_bytes))
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
    good: list[JsonObject] = []
    bad: list[Rejected] = []
    for item in raw:
        try:
            _EVENT.validate_python(item)
            good.append(item)
        except ValidationError as exc:
            bad.append(Rejected(raw=item, detail=_first(exc)))
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
        document = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as exc:
        raise WireError("not_json", str(exc)[:200]) from exc
    if not isinstance(document, dict):
        raise WireError("invalid", "a message is a JSON object")
    return document


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else str(error["msg"])
