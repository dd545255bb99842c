"""HTTP schemas of the cloud's `/v1`."""

from __future__ import annotations

from pydantic import Field

from fleet.contract.base import Count, DeviceId, Digest, Finite, Sha256, SiteId, UtcTime, WireModel
from fleet.contract.cells import Decision, DetectionWire, FieldCounts, ModelRef
from fleet.contract.messages import OpinionState, Presence, UpdateState

PROBLEM_TYPE = "application/problem+json"
MAX_IMAGE_BYTES = 12 * 1024 * 1024
MAX_CONTEXT_BYTES = 256 * 1024


class Problem(WireModel):
    """RFC 9457 problem document; `hint` says what to do."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = ""
    code: str = Field("", description="stable machine-readable code")
    hint: str = ""


class OpinionContext(WireModel):
    """Part `context` (JSON) beside part `image` of `POST /v1/second-opinions`.

    (site, device, capture_id, image_sha256) is the key: the same key gets the same answer.
    """

    site: SiteId
    device: DeviceId
    capture_id: str = Field(min_length=1, max_length=120)
    image_sha256: Sha256
    captured_at: UtcTime
    slide: str | None = Field(None, max_length=64)
    decision: Decision
    reasons: tuple[str, ...] = Field((), max_length=32)
    audit: bool = Field(False, description="part of the random audit stream, not sent for doubt")
    model: ModelRef
    detections: tuple[DetectionWire, ...] = Field((), max_length=5000)
    um_per_px: float | None = Field(None, gt=0)


class CellOpinion(WireModel):
    """Both words on one white cell."""

    edge: DetectionWire | None
    cloud: DetectionWire | None
    agree: bool


class SecondOpinion(WireModel):
    """Answer of `POST` and `GET /v1/second-opinions/{id}`."""

    id: str
    site: SiteId
    device: DeviceId
    capture_id: str
    image_sha256: Sha256
    state: OpinionState
    created_at: UtcTime
    answered_at: UtcTime
    duplicate: bool = Field(False, description="this key was asked before; the stored answer is given")
    model: ModelRef
    latency_ms: float = Field(ge=0)
    detections: tuple[DetectionWire, ...]
    cells: tuple[CellOpinion, ...] = Field((), description="white cells, paired by place")
    agreement_ratio: Finite | None = Field(
        None, description="share of white cells with the same type; null without any"
    )
    needs_review: bool
    review_reasons: tuple[str, ...] = ()


class OpinionSummary(WireModel):
    """A row of `GET /v1/second-opinions`."""

    id: str
    site: SiteId
    device: DeviceId
    capture_id: str
    state: OpinionState
    created_at: UtcTime
    white_cells: Count
    agreement_ratio: Finite | None = None
    needs_review: bool


class OpinionPage(WireModel):
    """`GET /v1/second-opinions`."""

    items: tuple[OpinionSummary, ...]
    next_cursor: str | None = None


class DeviceCreate(WireModel):
    """`POST /v1/devices` (operator)."""

    device: DeviceId
    site: SiteId
    label: str = Field("", max_length=120)


class DeviceToken(WireModel):
    """Answer of `POST /v1/devices`: the token is shown this once and stored hashed."""

    device: DeviceId
    site: SiteId
    token: str = Field(repr=False)
    expires_at: UtcTime


class DeviceSummary(WireModel):
    """A row of `GET /v1/devices`."""

    device: DeviceId
    site: SiteId
    label: str = ""
    presence: Presence
    last_seen_at: UtcTime | None = None
    agent_version: str | None = None
    active_model: Digest | None = None
    active_version: str | None = None
    update_state: UpdateState = UpdateState.IDLE
    fields: Count = 0
    uncertain: Count = 0
    withheld: Count = 0
    spool_rows: Count | None = None
    degraded: tuple[str, ...] = ()


class DevicePage(WireModel):
    """`GET /v1/devices`."""

    items: tuple[DeviceSummary, ...]
    next_cursor: str | None = None


class FieldRow(WireModel):
    """One field as the cloud has committed it."""

    capture_id: str
    captured_at: UtcTime
    received_at: UtcTime
    decision: Decision
    reasons: tuple[str, ...] = ()
    counts: FieldCounts
    model: Digest


class FieldPage(WireModel):
    """`GET /v1/devices/{id}/fields`, in order of capture."""

    items: tuple[FieldRow, ...]
    next_cursor: str | None = None


class Health(WireModel):
    """`GET /healthz` and `/readyz`."""

    status: str
    parts: dict[str, str]
    version: str
