"""HTTP schemas of the cloud's `/v1`."""

from __future__ import annotations

from pydantic import Field

from fleet.contract.base import Count, DeviceId, Digest, Finite, JsonObject, Sha256, SiteId, UtcTime, WireModel
from fleet.contract.cells import BBox, Decision, DetectionWire, FieldCounts, ModelRef
from fleet.contract.messages import OpinionState, Presence, SoakFigures, UpdateState
from fleet.contract.release import ReleaseTarget, RolloutState, Thresholds, WavePlan

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
    reader: str | None = Field(None, description="a person's label, once the opinion is `reviewed`")


class CellLabel(WireModel):
    """A reader's word on one white cell of a second opinion."""

    cell: Count | None = Field(None, description="place in SecondOpinion.cells; null for a cell both models missed")
    bbox: BBox | None = Field(None, description="of a missed cell; not read where `cell` is given")
    label: str = Field(
        min_length=1,
        max_length=40,
        description="a white-cell type, `not_classed` or `artefact`; `withdrawn` takes one's last word back",
    )


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
    missed: tuple[CellLabel, ...] = Field((), description="cells that a person added, once it is `reviewed`")


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


class LabelsCreate(WireModel):
    """`POST /v1/reviews/{id}/labels`: cells that were read. A cell read again gets a new label, the old one stays."""

    labels: tuple[CellLabel, ...] = Field((), max_length=1000)
    done: bool = Field(False, description="the opinion is read to its end; refused while a cell has no label")
    suggestion_shown: bool = Field(True, description="whether the reader saw what the models say")


class LabelRow(WireModel):
    """A stored label."""

    id: Count
    opinion: str
    cell: Count | None
    bbox: BBox
    label: str
    reader: str = Field(description="name of the reader")
    labelled_at: UtcTime
    suggested: str | None = Field(None, description="label of the larger model; null for a cell it did not see")
    suggested_by: Digest | None = None
    edge_label: str | None = None
    edge_model: Digest | None = None
    suggestion_shown: bool


class ReviewLabels(WireModel):
    """Answer of `POST` and `GET /v1/reviews/{id}/labels`: the newest label of each cell."""

    opinion: str
    state: OpinionState
    labels: tuple[LabelRow, ...]


class ReleaseSummary(WireModel):
    """A row of `GET /v1/releases`."""

    digest: Digest
    counter: Count
    name: str
    version: str
    size_bytes: Count
    created_at: UtcTime
    created_by: str
    checked: bool
    evidence_accepted: bool | None = Field(None, description="null without evidence")
    devices_running: Count = Field(0, description="devices that report it as active")
    withdrawn: bool = Field(False, description="left out of the signed list: no device takes it up any more")


class ReleasePage(WireModel):
    """`GET /v1/releases`, newest first."""

    items: tuple[ReleaseSummary, ...]


class ReleasesNeeded(WireModel):
    """`GET /v1/releases/needed`: what must not be left out of the signed list."""

    counters: tuple[Count, ...]


class ReleasesPrune(WireModel):
    """`POST /v1/releases/prune`."""

    targets: str = Field(max_length=1024 * 1024, description="TUF targets with some releases less, signed")


class ReleaseDetail(WireModel):
    """`GET /v1/releases/{counter}` and the answer of `POST /v1/releases`."""

    summary: ReleaseSummary
    target: ReleaseTarget
    evidence: JsonObject | None = None


class RolloutCreate(WireModel):
    """`POST /v1/rollouts`."""

    counter: Count = Field(ge=1, description="of the release")
    devices: tuple[DeviceId, ...] = Field(
        (), max_length=10_000, description="none: those of the waves, else the site's"
    )
    waves: tuple[WavePlan, ...] = Field((), max_length=32, description="none: 1 device, 5 % (at least 2), 25 %, 100 %")
    thresholds: Thresholds = Thresholds()
    supersede: bool = Field(
        False, description="replaces the open rollouts of these devices; without it such a rollout is a conflict"
    )


class RolloutCommand(WireModel):
    """`POST /v1/rollouts/{id}/{pause|resume|waive|abort|rollback}`; `waive` needs a reason."""

    reason: str = Field("", max_length=500)


class MemberRow(WireModel):
    """One device of a rollout."""

    device: DeviceId
    wave: Count
    presence: Presence
    offered: bool = Field(description="whether it was told to activate the release")
    state: UpdateState = Field(description="as the device itself reports it for this rollout")
    code: str | None = None
    active: Digest | None = Field(None, description="what it reports as running")
    straggler: bool = False
    since: UtcTime | None = None
    soak: SoakFigures | None = None


class GateFigure(WireModel):
    """One figure that a wave is held against."""

    name: str = Field(max_length=64)
    figure: Finite | None = None
    limit: Finite | None = None
    passed: bool
    text: str = Field("", max_length=300)


class DecisionRow(WireModel):
    """Something that was decided in a rollout, by the controller or a person, with the figures it was made on."""

    at: UtcTime
    by: str
    action: str = Field(max_length=64)
    reason: str = Field("", max_length=500)
    gates: tuple[GateFigure, ...] = ()


class RolloutSummary(WireModel):
    """A row of `GET /v1/rollouts`."""

    id: str
    site: SiteId
    counter: Count
    digest: Digest
    version: str
    state: RolloutState
    reason: str = Field("", description="why it is where it is")
    wave: Count = Field(description="the wave that is open, from 0")
    waves: Count
    devices: Count
    confirmed: Count
    bad: Count
    created_at: UtcTime
    created_by: str


class RolloutPage(WireModel):
    """`GET /v1/rollouts`, newest first."""

    items: tuple[RolloutSummary, ...]


class RolloutDetail(WireModel):
    """`GET /v1/rollouts/{id}`."""

    summary: RolloutSummary
    thresholds: Thresholds
    members: tuple[MemberRow, ...]
    gates: tuple[GateFigure, ...] = Field((), description="of the wave that is open, as of now")
    decisions: tuple[DecisionRow, ...] = Field((), description="newest first")


class Health(WireModel):
    """`GET /healthz` and `/readyz`."""

    status: str
    parts: dict[str, str]
    version: str
