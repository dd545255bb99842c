"""MQTT messages, one class a topic (see topics.py for the directions)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fleet.contract.base import (
    SCHEMA_VERSION,
    ClockQuality,
    Count,
    DeviceId,
    Digest,
    Envelope,
    Finite,
    Ratio,
    Sha256,
    SiteId,
    TolerantEnum,
    UtcTime,
    WireModel,
)
from fleet.contract.cells import BBox, Decision, FieldCounts, ModelRef

MAX_CROP_BYTES = 32 * 1024
"""Largest picture of one cell that travels inside an event."""

MAX_CROP_CHARACTERS = (MAX_CROP_BYTES + 2) // 3 * 4


class Presence(TolerantEnum):
    """Whether a device is connected."""

    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


class Status(WireModel):
    """`up/status`, retained and the Will. A death whose `session` is not the current one is ignored."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    device: DeviceId
    session: str = Field(min_length=8, max_length=64, description="new with every connection")
    presence: Presence
    agent_version: str = Field(max_length=32)
    reason: str = Field("", max_length=200)


class UpdateState(TolerantEnum):
    """Where the device's model update stands."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    WAITING = "waiting"
    VERIFIED = "verified"
    TRIAL = "trial"
    UNCONFIRMED = "unconfirmed"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"


class SelfTestSummary(WireModel):
    """Last self-test of the active model."""

    passed: bool
    age_s: float = Field(ge=0)
    failures: tuple[str, ...] = Field((), max_length=32)


class SoakFigures(WireModel):
    """What the new model has shown on live fields beside the old one; both see the same pictures."""

    fields: Count
    white_cells: Count = Field(description="cells that both models name or leave unidentified")
    disagreement_ratio: Ratio | None = Field(None, description="share of cells both named, differently; null without")
    uncertain_ratio: Ratio | None = None
    withheld_ratio: Ratio | None = None
    baseline_uncertain_ratio: Ratio | None = Field(None, description="the device's own, before the new model")
    baseline_withheld_ratio: Ratio | None = None
    latency_ratio: float | None = Field(None, ge=0, allow_inf_nan=False, description="median latency, new over old")


class Reported(Envelope):
    """`up/reported`, retained: what the device really runs."""

    active: ModelRef
    previous: Digest | None = None
    update_state: UpdateState = UpdateState.IDLE
    update_code: str | None = Field(None, max_length=32)
    release_counter: Count = 0
    desired_version: Count = Field(0, description="last desired version applied")
    pending: Digest | None = Field(None, description="release the update is about; null when there is none")
    rollout: str | None = Field(None, max_length=64, description="rollout the update belongs to")
    soak: SoakFigures | None = Field(None, description="while and after the new model proves itself on live fields")
    self_test: SelfTestSummary | None = None
    degraded: tuple[str, ...] = Field((), max_length=32)


class Capabilities(WireModel):
    """What the workstation can do."""

    agent_version: str = Field(max_length=32)
    python: str = Field(max_length=32)
    onnxruntime: str = Field(max_length=32)
    providers: tuple[str, ...] = Field((), max_length=16)
    cpu_cores: Count = Field(ge=1)
    memory_bytes: Count
    source: str = Field(max_length=200, description="kind of camera source, never an address with a password")
    max_packet_bytes: Count = Field(ge=1024)


class Birth(Envelope):
    """`up/birth`: on connect, on `rebirth`, when the host comes online."""

    site: SiteId
    session: str = Field(min_length=8, max_length=64)
    capabilities: Capabilities
    reported: Reported
    open_operations: tuple[str, ...] = Field((), max_length=64)


class FieldResult(WireModel):
    """One field read: an event."""

    kind: Literal["field"] = "field"
    boot: Count
    seq: Count
    capture_id: str = Field(min_length=1, max_length=120)
    captured_at: UtcTime
    clock: ClockQuality = ClockQuality.OK
    slide: str | None = Field(None, max_length=64, description="pseudonym of the slide, never the specimen id")
    decision: Decision
    reasons: tuple[str, ...] = Field((), max_length=32)
    counts: FieldCounts
    model: Digest
    latency_ms: float = Field(ge=0)
    focus: Finite | None = None
    rbc_diameter_px: Finite | None = None
    image_sha256: Sha256 | None = Field(None, description="hash of the image sent for a second opinion, if any")


class SlideKind(TolerantEnum):
    """What a slide is for."""

    SPECIMEN = "specimen"
    QC = "qc"
    UNKNOWN = "unknown"


class ClosedBy(TolerantEnum):
    """What ended a slide."""

    TARGET = "target"
    TECHNICIAN = "technician"
    RUN = "run"
    UNKNOWN = "unknown"


class LengthUnit(TolerantEnum):
    """What a length is measured in."""

    UM = "um"
    PX = "px"
    UNKNOWN = "unknown"


class SizeHistogram(WireModel):
    """How many cells are how large; `counts[i]` lies from `edges[i]` up to, not including, `edges[i + 1]`."""

    edges: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(min_length=2, max_length=257)
    counts: tuple[Count, ...] = Field(min_length=1, max_length=256)
    unit: LengthUnit

    @model_validator(mode="after")
    def _bins(self) -> SizeHistogram:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("a histogram has one edge more than counts")
        if any(right <= left for left, right in pairwise(self.edges)):
            raise ValueError("the edges of a histogram grow")
        return self


class SlideQuality(WireModel):
    """How good the pictures of a slide were."""

    reasons: dict[str, Count] = Field(default_factory=dict, max_length=32, description="reason -> fields that had it")
    focus_median: Finite | None = Field(None, description="of the fields that count")
    clock: ClockQuality = Field(ClockQuality.OK, description="the worst while the slide was read")


class SlideResult(WireModel):
    """A slide closed, or corrected after it was: an event. What a device does not tell is null or empty."""

    kind: Literal["slide"] = "slide"
    boot: Count
    seq: Count
    slide: str = Field(max_length=64)
    opened_at: UtcTime
    closed_at: UtcTime
    fields: Count
    withheld: Count
    rbc: Count
    platelets: Count
    white_cells: dict[str, Count]
    limits: dict[str, tuple[Ratio, Ratio]] = Field(description="exact 95 % limits of each type's share")
    model: Digest = Field(description="the one in use at the end; see `models`")
    version: Count = Field(1, ge=1, description="grows with each correction after the slide was closed")
    slide_kind: SlideKind = SlideKind.SPECIMEN
    closed_by: ClosedBy = ClosedBy.UNKNOWN
    target: Count | None = Field(None, description="identified white cells that were wanted")
    uncertain: Count | None = Field(None, description="fields in doubt; they count")
    unidentified_limits: tuple[Ratio, Ratio] | None = Field(
        None, description="exact 95 % limits of the unidentified share of all white cells"
    )
    platelet_estimate: Finite | None = Field(None, description="10^9 per litre")
    platelet_estimate_margin: Finite | None = Field(None, description="half of the 95 % interval, 10^9 per litre")
    red_cell_histogram: SizeHistogram | None = Field(None, description="diameters of the counted red cells")
    quality: SlideQuality | None = None
    corrected: Count = Field(0, description="cells whose type a person at the bench changed")
    agent_version: str = Field("", max_length=32)
    models: dict[Digest, Count] = Field(default_factory=dict, max_length=64, description="model -> fields it read")
    notes: tuple[str, ...] = Field((), max_length=16, description="codes of what a reader has to know")


class Severity(TolerantEnum):
    """How loud an alarm is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class Alarm(WireModel):
    """Something a person should know: an event."""

    kind: Literal["alarm"] = "alarm"
    boot: Count
    seq: Count
    raised_at: UtcTime
    severity: Severity
    code: str = Field(max_length=64)
    text: str = Field("", max_length=500)


class Dropped(WireModel):
    """Rows the spool had to give up, counted: the one exception to exactly-once."""

    kind: Literal["dropped"] = "dropped"
    boot: Count
    seq: Count
    dropped_at: UtcTime
    reason: str = Field(max_length=64)
    results: Count = 0
    images: Count = 0
    aside: Count = Field(0, description="rows kept on the device, because they cannot be sent; not among the others")


class FieldUndone(WireModel):
    """A field that a technician took back: an event. The field's own result may be known already; both are kept."""

    kind: Literal["undone"] = "undone"
    boot: Count
    seq: Count
    capture_id: str = Field(min_length=1, max_length=120)
    slide: str | None = Field(None, max_length=64, description="pseudonym of the slide")
    undone_at: UtcTime


class BenchLabel(WireModel):
    """What a technician says a white cell is, beside the microscope: an event. Confirming is a label, too."""

    kind: Literal["bench_label"] = "bench_label"
    boot: Count
    seq: Count
    capture_id: str = Field(min_length=1, max_length=120)
    slide: str | None = Field(None, max_length=64, description="pseudonym of the slide")
    bbox: BBox
    label: str = Field(max_length=40, description="a type, 'unidentified', 'not_classed' or 'artefact'")
    before: str = Field(max_length=40, description="what stood there; the same as `label` when it was confirmed")
    labelled_at: UtcTime
    clock: ClockQuality = ClockQuality.OK
    reader: str = Field("", max_length=100, description="name of the technician; empty when none was given")
    model: Digest = Field(description="whose type the technician saw")
    suggestion_shown: bool = Field(True, description="whether that type was shown")
    crop_jpeg: str | None = Field(
        None,
        max_length=MAX_CROP_CHARACTERS,
        pattern=r"^[A-Za-z0-9+/]*={0,2}$",
        description="the cell with its margin as JPEG, base64; at most 32 KiB before that",
    )
    withdrawn: bool = Field(False, description="the technician took this label back")


class UpdateStep(WireModel):
    """One step of a model update: an event."""

    kind: Literal["update"] = "update"
    boot: Count
    seq: Count
    happened_at: UtcTime
    release: Digest | None = None
    counter: Count = 0
    rollout: str | None = Field(None, max_length=64)
    before: UpdateState
    after: UpdateState
    code: str | None = Field(None, max_length=32)
    text: str = Field("", max_length=500)


Event = Annotated[
    FieldResult | SlideResult | Alarm | Dropped | UpdateStep | FieldUndone | BenchLabel, Field(discriminator="kind")
]


class EventBatch(Envelope):
    """`up/event`. Each event keeps the (boot, seq) it was stored under; the envelope's is the batch's own.

    An event of a kind this reader does not know is dead-lettered alone; see `codec.decode_events`.
    """

    events: tuple[Event, ...] = Field(min_length=1, max_length=500)


class Telemetry(Envelope):
    """`up/telemetry`: gauges, may be lost."""

    not_after: UtcTime
    gauges: dict[str, Finite] = Field(max_length=64)


class OperationState(TolerantEnum):
    """Progress of a command."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class OperationUpdate(Envelope):
    """`up/op/{op}`; the terminal answer is stored and repeated on a duplicate."""

    operation: str = Field(min_length=8, max_length=64)
    state: OperationState
    step: str = Field("", max_length=64)
    percent: int | None = Field(None, ge=0, le=100)
    code: str | None = Field(None, max_length=64)
    result: dict[str, str | int | float | bool | None] = Field(default_factory=dict, max_length=64)


class Need(Envelope):
    """`up/need`: chunks a device lacks."""

    release: Digest
    missing: tuple[Sha256, ...] = Field(min_length=1, max_length=4000)
    max_packet_bytes: Count = Field(ge=1024)


class Activation(TolerantEnum):
    """What to do with a desired release."""

    DOWNLOAD = "download"
    ACTIVATE = "activate"
    UNKNOWN = "unknown"


class SamplingPolicy(WireModel):
    """What is worth a second opinion, and how much of it."""

    per_hour: int = Field(60, ge=0, le=10_000)
    per_day: int | None = Field(None, ge=0, le=240_000, description="null: as many as the hours allow")
    audit_ratio: Ratio = 0.1


class Desired(WireModel):
    """What a device is to run; travels inside `release.SignedDesired`. `version` only grows, lower ones are ignored."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    device: DeviceId = Field(description="for whom: signed, so that it cannot be played to another device")
    version: Count = Field(ge=1)
    release: Digest | None = None
    counter: Count = Field(0, description="of the release")
    rollout: str | None = Field(None, max_length=64)
    activation: Activation = Activation.DOWNLOAD
    sampling: SamplingPolicy | None = None
    config: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=64)
    not_before: UtcTime | None = None
    not_after: UtcTime | None = None


class OperationKind(TolerantEnum):
    """What a device can be asked to do."""

    CAPTURE = "capture"
    SELFTEST = "selftest"
    REBIRTH = "rebirth"
    COLLECT_LOGS = "collect_logs"
    ABORT = "abort"
    UNKNOWN = "unknown"


class Operation(WireModel):
    """`down/op/{op}`."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    operation: str = Field(min_length=8, max_length=64)
    kind: OperationKind
    not_after: UtcTime
    arguments: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=32)


class SeqRange(WireModel):
    """Inclusive range of sequence numbers of one boot."""

    boot: Count
    first: Count
    last: Count


class Ack(WireModel):
    """`down/ack`: durably committed."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    ranges: tuple[SeqRange, ...] = Field((), max_length=1000)
    rejected: tuple[SeqRange, ...] = Field((), max_length=1000, description="dead-lettered: stored, never to be resent")


class OpinionState(TolerantEnum):
    """Where a second opinion stands."""

    ANSWERED = "answered"
    PENDING_REVIEW = "pending_review"
    REVIEWED = "reviewed"
    UNKNOWN = "unknown"


class OpinionReady(WireModel):
    """`down/opinion/{id}`: the answer in short; the whole of it is at `GET /v1/second-opinions/{id}`."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    opinion: str = Field(min_length=8, max_length=64)
    capture_id: str = Field(min_length=1, max_length=120)
    state: OpinionState
    source: str = Field(max_length=100, description="digest of the model, or 'reader'")
    labels: dict[str, Count] = Field(default_factory=dict, description="type -> white cells")
    late: bool = False
    not_after: UtcTime


class HostState(WireModel):
    """`host/state`, retained and the Will of the worker that holds the lease."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    online: bool
    epoch: Count
    since: UtcTime
