"""Events of the wire as rows of the tables. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_never

from cloud.storage.tables import Base, DeviceEventRow, FieldRecord, SlideResultRow
from fleet.contract.messages import (
    Alarm,
    BenchLabel,
    Dropped,
    Event,
    FieldResult,
    FieldUndone,
    Severity,
    SlideResult,
    UpdateStep,
)

DeviceEvent = Alarm | Dropped | UpdateStep | FieldUndone | BenchLabel
"""What is kept as a line of the device's history."""


def table_of(event: Event) -> type[FieldRecord] | type[SlideResultRow] | type[DeviceEventRow]:
    """Where an event is kept."""
    if isinstance(event, FieldResult):
        return FieldRecord
    return SlideResultRow if isinstance(event, SlideResult) else DeviceEventRow


def row_of(event: Event, *, device: str, site_id: str, principal_id: str, now: datetime) -> dict[str, Any]:
    """An event as a row; `principal_id` is the device's, who recorded it."""
    own = {
        "site_id": site_id,
        "device": device,
        "boot": event.boot,
        "seq": event.seq,
        "received_at": now,
        "recorded_by": principal_id,
    }
    if isinstance(event, FieldResult):
        return own | _field(event)
    if isinstance(event, SlideResult):
        return own | _slide(event)
    return own | {"kind": event.kind, "happened_at": _happened_at(event)} | _told(event)


def same_event(event: Event, row: Base) -> bool:
    """Whether a stored row with the same (device, boot, seq) tells the same thing.

    It does not when a device has lost its store and counts from the beginning again.
    """
    if isinstance(event, FieldResult):
        return isinstance(row, FieldRecord) and (row.capture_id, row.captured_at) == (
            event.capture_id,
            event.captured_at,
        )
    if isinstance(event, SlideResult):
        return isinstance(row, SlideResultRow) and (row.slide, row.closed_at) == (event.slide, event.closed_at)
    return isinstance(row, DeviceEventRow) and (row.kind, row.happened_at) == (event.kind, _happened_at(event))


def _happened_at(event: DeviceEvent) -> datetime:
    match event:
        case Alarm():
            return event.raised_at
        case Dropped():
            return event.dropped_at
        case UpdateStep():
            return event.happened_at
        case FieldUndone():
            return event.undone_at
        case BenchLabel():
            return event.labelled_at
        case _:
            assert_never(event)


def _told(event: DeviceEvent) -> dict[str, Any]:
    match event:
        case Alarm():
            return {"severity": event.severity.value, "code": event.code, "text": event.text}
        case Dropped():
            return _dropped(event)
        case UpdateStep():
            return _update(event)
        case FieldUndone():
            return {"severity": Severity.INFO.value, "code": "field_undone", "text": event.capture_id}
        case BenchLabel():
            return _bench_label(event)
        case _:
            assert_never(event)


def _field(event: FieldResult) -> dict[str, Any]:
    return {
        "capture_id": event.capture_id,
        "captured_at": event.captured_at,
        "clock": event.clock.value,
        "slide": event.slide,
        "decision": event.decision.value,
        "reasons": list(event.reasons),
        "rbc": event.counts.rbc,
        "wbc": event.counts.wbc,
        "platelets": event.counts.platelets,
        "white_cells": event.counts.white_cells,
        "model": event.model,
        "latency_ms": event.latency_ms,
        "focus": event.focus,
        "rbc_diameter_px": event.rbc_diameter_px,
        "image_sha256": event.image_sha256,
    }


def _slide(event: SlideResult) -> dict[str, Any]:
    return {
        "slide": event.slide,
        "opened_at": event.opened_at,
        "closed_at": event.closed_at,
        "fields": event.fields,
        "withheld": event.withheld,
        "rbc": event.rbc,
        "platelets": event.platelets,
        "white_cells": event.white_cells,
        "limits": {name: list(pair) for name, pair in event.limits.items()},
        "model": event.model,
    }


def _update(event: UpdateStep) -> dict[str, Any]:
    after = event.after.value
    return {
        "severity": (Severity.INFO if event.code is None else Severity.WARNING).value,
        "code": event.code or f"update_{after}",
        "text": f"{event.before.value} to {after}, release {event.counter}{': ' if event.text else ''}{event.text}"[
            :500
        ],
    }


def _dropped(event: Dropped) -> dict[str, Any]:
    aside = f", {event.aside} rows set aside" if event.aside else ""
    return {
        "severity": Severity.WARNING.value,
        "code": event.reason,
        "text": f"{event.results} results and {event.images} images given up{aside}",
        "results": event.results,
        "images": event.images,
    }


def _bench_label(event: BenchLabel) -> dict[str, Any]:
    """The label with its place; of the crop nothing is kept, the whole field comes by HTTPS where it was sent."""
    place = ", ".join(f"{value:.1f}" for value in event.bbox)
    reader = event.reader or "nobody named"
    return {
        "severity": Severity.INFO.value,
        "code": "bench_label_withdrawn" if event.withdrawn else "bench_label",
        "text": f"{event.capture_id} at {place}: {event.before} is {event.label}, says {reader}"[:500],
    }
