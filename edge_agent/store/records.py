"""What goes into the store and comes out of it. Plain data, no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from edge_agent.capture.frame import FileStamp
from edge_agent.store.value import Priority
from edge_agent.triage.sampling import Choice
from fleet.contract.cells import Decision, DetectionWire, FieldCounts
from fleet.contract.http import OpinionContext
from fleet.contract.messages import FieldResult

Cursors = tuple[int, int]
"""The last row that was taken, of results and of notes."""
START_OF_SPOOL: Cursors = (0, 0)


class Counter(StrEnum):
    """Figures that outlive the process; stored, never renamed."""

    IMAGES_SENT = "images_sent"
    IMAGES_REFUSED = "images_refused"
    RESULTS_SENT = "results_sent"
    RESULTS_REJECTED = "results_rejected"
    RESULTS_DROPPED = "results_dropped"
    IMAGES_DROPPED = "images_dropped"
    RESULTS_SET_ASIDE = "results_set_aside"
    IMAGES_SET_ASIDE = "images_set_aside"
    STORE_REPAIRS = "store_repairs"
    FIELDS_REPEATED = "fields_repeated"
    MQTT_BYTES = "mqtt_bytes"
    HTTPS_BYTES = "https_bytes"


@dataclass(frozen=True, slots=True)
class NewImage:
    """A picture for the cloud and what the cloud is told with it."""

    jpeg: bytes
    context: OpinionContext


@dataclass(frozen=True, slots=True)
class NewField:
    """Everything that one transaction stores of one field.

    Attributes:
        result: the event for the cloud; its boot and seq are put in by the store.
        source: which source it was, as a short key.
        source_ref, replayable: the source's name of the field, and whether the same name means the same field again.
        slide_id: row of the slide it belongs to.
        sampled: what became of its picture.
        um_per_px: scale, where known.
        width_px, height_px: of the frame.
        detections: every cell, boxes in pixels of the frame.
        crops: index of a detection -> its picture as JPEG, for the gallery.
        image: picture for the cloud, if it is to be sent.
        file_stamp: of the file in a watched folder that it was read from.
    """

    result: FieldResult
    source: str
    source_ref: str
    replayable: bool
    slide_id: int
    sampled: Choice
    um_per_px: float | None
    width_px: int
    height_px: int
    detections: tuple[DetectionWire, ...]
    crops: Mapping[int, bytes] = field(default_factory=dict)
    image: NewImage | None = None
    file_stamp: FileStamp | None = None


@dataclass(frozen=True, slots=True)
class SlideTotals:
    """A slide with its counts; withheld fields are in none but `fields` and `withheld`."""

    slide_id: int
    name: str
    pseudonym: str
    opened_at: datetime
    closed_at: datetime | None
    target_white_cells: int
    fields: int
    withheld: int
    uncertain: int
    rbc: int
    platelets: int
    platelets_squared: int
    white_cells: dict[str, int]


@dataclass(frozen=True, slots=True)
class SpoolEvent:
    """An event waiting for its acknowledgement. `payload` is its JSON; the lowest `priority` leaves first."""

    row_id: int
    boot: int
    seq: int
    payload: str
    priority: Priority = Priority.RESULT


@dataclass(frozen=True, slots=True)
class SpoolImage:
    """A picture waiting for its second opinion."""

    row_id: int
    capture_id: str
    jpeg: bytes
    context: OpinionContext
    attempts: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much is in the spool.

    Attributes:
        events, images, image_bytes: what waits to be sent.
        aside: rows that cannot be sent and stay to be looked at.
    """

    events: int
    images: int
    image_bytes: int
    aside: int = 0


@dataclass(frozen=True, slots=True)
class StoredField:
    """A field as it is read back; `model` is the digest of the bundle that read it."""

    capture_id: str
    source: str
    source_ref: str
    model: str
    um_per_px: float | None
    width_px: int
    height_px: int
    captured_at: datetime
    slide: str
    decision: Decision
    reasons: tuple[str, ...]
    latency_ms: float
    counts: FieldCounts
    detections: tuple[DetectionWire, ...]


@dataclass(frozen=True, slots=True)
class StoredOpinion:
    """A second opinion as it is read back; `whole` once it came by HTTP with its cells."""

    opinion: str
    capture_id: str
    state: str
    source: str
    labels: dict[str, int]
    whole: bool


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A white cell for the gallery."""

    cell_id: int
    capture_id: str
    label: str
    probability: float
    prediction_set: tuple[str, ...]
    in_domain: bool
    second_label: str | None
    second_source: str | None
