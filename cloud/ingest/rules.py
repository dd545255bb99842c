"""What a message is and what it changes, decided without a broker or a database. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel

from cloud.ingest import salvage
from fleet.contract import topics
from fleet.contract.base import MAX_MESSAGE_BYTES, CaptureId
from fleet.contract.codec import Rejected, WireError, decode, decode_events
from fleet.contract.messages import (
    BenchLabel,
    Birth,
    Event,
    FieldResult,
    FieldUndone,
    Need,
    OperationUpdate,
    Presence,
    Reported,
    SeqRange,
    Status,
    Telemetry,
)

KEPT_SESSIONS = 16
"""Ended sessions that are remembered, so that their late messages are known."""

TOO_MANY = f"what follows the first {salvage.MAX_PIECES} pieces of a batch"

Place = tuple[int, int]
"""(boot, seq) of an event."""

_KINDS: dict[str, type[BaseModel]] = {
    "status": Status,
    "birth": Birth,
    "reported": Reported,
    "telemetry": Telemetry,
    "op": OperationUpdate,
    "need": Need,
}


@dataclass(frozen=True, slots=True)
class Letter:
    """What could not be taken, and why.

    Attributes:
        code: stable, bounded: a metric's label.
        places: the events that are in it, to be told to the device as rejected; empty when it cannot be told.
        payload: the part that could not be taken.
    """

    code: str
    detail: str
    payload: bytes
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """One message, taken apart.

    Attributes:
        device: from the topic, which the broker's ACL guards; None for a topic that is no device's.
        kind: `event`, `status` and so on; `unknown` otherwise.
        message: a single message, None for a batch or when unreadable.
        events: of a batch, those that can be read.
        sent_at: of a batch.
        letters: what goes to the dead letters.
    """

    topic: str
    device: str | None
    kind: str
    retained: bool = False
    message: BaseModel | None = None
    events: tuple[Event, ...] = ()
    sent_at: datetime | None = None
    letters: tuple[Letter, ...] = ()


def parse(topic: str, payload: bytes, *, retained: bool = False) -> Parsed:
    """Takes a message apart; what is wrong with it becomes letters, never an exception.

    The identity in the payload must be the topic's, since the topic is what the broker has checked.
    """
    place = topics.parse_up(topic)
    if place is None:
        letter = Letter("bad_topic", "not a topic of a device", payload, _places(payload))
        return Parsed(topic, None, "unknown", retained, letters=(letter,))
    if not payload and retained:
        return Parsed(topic, place.device, "empty", retained)
    try:
        if place.kind == "event":
            return _batch(topic, place.device, payload, retained=retained)
        kind = _KINDS.get(place.kind)
        if kind is None:
            raise WireError("unknown_kind", f"no message is called {place.kind!r}")
        message = decode(kind, payload)
        if getattr(message, "device", None) != place.device:
            raise WireError("identity", f"the payload names {getattr(message, 'device', None)!r}")
        return Parsed(topic, place.device, place.kind, retained, message=message)
    except WireError as exc:
        letter = Letter(exc.code, exc.detail, payload, _places(payload) if place.kind == "event" else ())
        return Parsed(topic, place.device, place.kind if place.kind in _KINDS else "event", retained, letters=(letter,))


def _batch(topic: str, device: str, payload: bytes, *, retained: bool) -> Parsed:
    try:
        return _whole_batch(topic, device, payload, retained=retained)
    except WireError as exc:
        saved = None if exc.code == "too_large" else _saved(topic, device, payload, retained=retained)
        if saved is None:
            raise
        return saved


def _saved(topic: str, device: str, payload: bytes, *, retained: bool) -> Parsed | None:
    """The events of a broken batch, each under its envelope alone; None when that finds no more than the whole did."""
    pieces = salvage.split(payload)
    if pieces is None:
        return None
    found: list[Parsed] = []
    broken: list[tuple[bytes, WireError]] = []
    for item in pieces.items:
        try:
            found.append(_whole_batch(topic, device, pieces.alone(item), retained=retained))
        except WireError as exc:
            broken.append((item, exc))
    events = tuple(event for part in found for event in part.events)
    taken = {(event.boot, event.seq) for event in events}
    letters = [letter for part in found for letter in part.letters]
    for item, fault in broken:
        place = salvage.place_in(item)
        told = () if place is None or place in taken else (place,)
        letters.append(Letter(fault.code, fault.detail, item, told))
    if pieces.rest:
        # Nothing is told of it: what is sound in there comes again, in a batch that the device has shortened.
        letters.append(Letter("too_many", TOO_MANY, pieces.rest))
    if not events and (_places(payload) or not any(letter.places for letter in letters)):
        return None
    sent_at = next((part.sent_at for part in found if part.sent_at is not None), None)
    return Parsed(topic, device, "event", retained, None, events, sent_at, tuple(letters))


def _whole_batch(topic: str, device: str, payload: bytes, *, retained: bool) -> Parsed:
    batch, rejected = decode_events(payload, limit_bytes=MAX_MESSAGE_BYTES)
    letters = [_letter(item) for item in rejected[: salvage.MAX_PIECES]]
    if further := rejected[salvage.MAX_PIECES :]:
        letters.append(_one_letter(further))
    if batch is None:
        return Parsed(topic, device, "event", retained, letters=tuple(letters))
    if batch.device != device:
        raise WireError("identity", f"the payload names {batch.device!r}")
    events: list[Event] = []
    for event in batch.events:
        wrong = _foreign_capture(event, device)
        if wrong is None:
            events.append(event)
        else:
            letters.append(
                Letter("identity", wrong, event.model_dump_json(by_alias=True).encode(), ((event.boot, event.seq),))
            )
    return Parsed(topic, device, "event", retained, None, tuple(events), batch.sent_at, tuple(letters))


def _foreign_capture(event: Event, device: str) -> str | None:
    if not isinstance(event, FieldResult | FieldUndone | BenchLabel):
        return None
    try:
        capture = CaptureId.parse(event.capture_id)
    except ValueError as exc:
        return str(exc).splitlines()[0]
    return None if capture.device == device else f"the capture {event.capture_id!r} is another device's"


def _one_letter(items: Sequence[Rejected]) -> Letter:
    raw = json.dumps([item.raw for item in items], sort_keys=True).encode()
    return Letter("too_many", TOO_MANY, raw, _named(items))


def _letter(item: Rejected) -> Letter:
    places = _named([item])
    return Letter("invalid", item.detail, json.dumps(item.raw, sort_keys=True).encode(), places)


def _places(payload: bytes) -> tuple[Place, ...]:
    """(boot, seq) of the events in a batch that cannot be taken as a whole, as far as they can be made out.

    An over-size message is still read for this, up to the largest packet the broker passes on: a device that is not
    told would send it for ever.
    """
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return ()
    events = document.get("events") if isinstance(document, dict) else None
    return _named([Rejected(raw=item, detail="") for item in events] if isinstance(events, list) else [])


def _named(items: Iterable[Rejected]) -> tuple[Place, ...]:
    return tuple((item.boot, item.seq) for item in items if item.boot is not None and item.seq is not None)


def ranges(places: Iterable[Place], *, limit: int = 1000) -> list[tuple[SeqRange, ...]]:
    """Sorted, merged ranges, cut into lists of at most `limit` (an ack's own limit)."""
    merged: list[SeqRange] = []
    for boot, seq in sorted(set(places)):
        last = merged[-1] if merged else None
        if last is not None and last.boot == boot and last.last == seq - 1:
            merged[-1] = SeqRange(boot=boot, first=last.first, last=seq)
        else:
            merged.append(SeqRange(boot=boot, first=seq, last=seq))
    return [tuple(merged[at : at + limit]) for at in range(0, len(merged), limit)]


@dataclass(frozen=True, slots=True)
class Link:
    """A device's connection as it was last told."""

    presence: Presence = Presence.UNKNOWN
    session: str | None = None
    past: tuple[str, ...] = field(default=())


def next_link(link: Link, *, session: str, presence: Presence) -> Link | None:
    """The connection after a status or birth; None when the message is to be ignored.

    A session ends once. So a death counts only for the current session (a Will that comes late is another's), and
    what comes from a session that has ended, or was followed by a newer one, is history.
    """
    if session in link.past:
        return None
    if session == link.session:
        if link.presence is presence:
            return link
        if link.presence is Presence.OFFLINE:
            return None
        return Link(presence, session, link.past)
    past = (*link.past, link.session)[-KEPT_SESSIONS:] if link.session else link.past
    if presence is Presence.OFFLINE and link.presence is Presence.ONLINE:
        return None
    return Link(presence, session, past)
