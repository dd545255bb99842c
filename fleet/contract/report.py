"""What an agent tells of itself in a file: `ahs-edge export`, read by the demo, the tests and anybody's script."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fleet.contract.base import DeviceId, SiteId, UtcTime, WireModel
from fleet.contract.cells import Decision, DetectionWire, FieldCounts, ModelRef
from fleet.contract.messages import OpinionState


class FieldReport(WireModel):
    """One stored field."""

    capture_id: str
    source_ref: str = Field(description="what the source calls this field, e.g. sim:17 or a file's name")
    captured_at: UtcTime
    slide: str | None
    decision: Decision
    reasons: tuple[str, ...] = ()
    latency_ms: float
    counts: FieldCounts
    detections: tuple[DetectionWire, ...]


class SlideReport(WireModel):
    """One slide's result; `shares` are [share, low, high] of the identified white cells, 0..1, exact 95 % limits."""

    slide: str
    closed: bool
    fields: int
    withheld: int
    rbc: int
    platelets: int
    white_cells: dict[str, int]
    shares: dict[str, tuple[float, float, float]]


class OpinionReport(WireModel):
    """A second opinion that has reached the device."""

    opinion: str
    capture_id: str
    state: OpinionState
    labels: dict[str, int] = Field(default_factory=dict)


class SentBytes(WireModel):
    """Traffic of the agent's life in bytes of payload."""

    mqtt: int = Field(0, ge=0)
    https: int = Field(0, ge=0)


class AgentReport(WireModel):
    """Everything one agent has stored, in order of capture."""

    schema_: Literal["ahs.agent-report/1"] = Field("ahs.agent-report/1", alias="schema")
    intended_use: Literal["research use only"] = "research use only"
    device: DeviceId
    site: SiteId
    agent_version: str
    model: ModelRef
    fields: tuple[FieldReport, ...]
    slides: tuple[SlideReport, ...]
    uncertain_sent: int = Field(description="images that the cloud has taken, ever")
    uncertain_waiting: int = Field(description="images still in the spool")
    results_waiting: int = Field(description="results still in the spool")
    dropped: int = Field(description="rows given up, each counted and told")
    opinions: tuple[OpinionReport, ...]
    sent_bytes: SentBytes
