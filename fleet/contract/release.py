"""What is signed and delivered: a release's description, the trust message, a device's signed wish, codes of refusal.

A release is one TUF target: the bundle packed as one zip. Its `custom` part is a `ReleaseTarget`, so the list of chunks
is signed with it. The zip is cut into chunks in order: chunk i begins where chunk i - 1 ends.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from fleet.contract.base import (
    SCHEMA_VERSION,
    Count,
    DeviceId,
    Digest,
    Ratio,
    Sha256,
    TolerantEnum,
    UtcTime,
    WireModel,
)

MAX_CHUNK_BYTES = 64 * 1024
"""Largest piece of a release that travels in one message."""

MAX_TRUST_BYTES = 512 * 1024
"""Largest trust message that is read."""

MAX_RELEASE_BYTES = 256 * 1024 * 1024
"""Largest bundle that is released."""

MAX_CHUNKS = 20_000

SIGNED_AT = "x-ahs-signed-at"
"""Field of a signed TUF timestamp: when it was signed. From it a device knows that it is at least that late."""


class ChunkRef(WireModel):
    """One chunk; `sha256` names it on the wire."""

    sha256: Sha256
    size_bytes: int = Field(ge=1, le=MAX_CHUNK_BYTES)


class EvidenceRef(WireModel):
    """What the release says of its evaluation; the document itself is kept by the cloud under its hash."""

    sha256: Sha256 = Field(description="of the evidence document's bytes")
    champion: Digest = Field(description="model it was compared with")
    frozen_set: Sha256 = Field(description="hash of the frozen evaluation set")
    accepted: bool


class ReleaseTarget(WireModel):
    """The signed description of a release: `custom` of its TUF target."""

    schema_: Literal["ahs.release/1"] = Field("ahs.release/1", alias="schema")
    digest: Digest = Field(description="of the bundle's manifest: the model's identity")
    name: str = Field(max_length=63)
    version: str = Field(max_length=32)
    counter: Count = Field(ge=1, description="grows by one with each release; an older one is refused")
    bundle_schema: str = Field(max_length=32, description="schema of the bundle's manifest")
    size_bytes: int = Field(ge=1, le=MAX_RELEASE_BYTES)
    chunks: tuple[ChunkRef, ...] = Field(min_length=1, max_length=MAX_CHUNKS)
    created_at: UtcTime
    checked: bool = Field(description="whether the bundle passed its self-test when it was released")
    evidence: EvidenceRef | None = Field(None, description="without it a release never leaves the bench wave")

    @model_validator(mode="after")
    def _adds_up(self) -> ReleaseTarget:
        if sum(chunk.size_bytes for chunk in self.chunks) != self.size_bytes:
            raise ValueError("the chunks do not add up to size_bytes")
        return self

    @property
    def path(self) -> str:
        """Name of the TUF target."""
        return target_path(self.digest, self.counter)


def target_path(digest: str, counter: int) -> str:
    """Name of a release's TUF target: `{counter}-{hex}.zip`."""
    return f"{counter}-{digest.removeprefix('sha256:')}.zip"


class Trust(WireModel):
    """`trust`, retained: the whole TUF metadata in one message, each document as the text that was signed."""

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    roots: tuple[str, ...] = Field(min_length=1, max_length=64, description="root 1, root 2, ... without a gap")
    timestamp: str
    snapshot: str
    targets: str


class SignedDesired(WireModel):
    """`down/desired`, retained: a `Desired` as text, signed by the online key over exactly these bytes.

    The key is the one that the trusted root names for the role `timestamp`.
    """

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    signed: str = Field(max_length=64 * 1024, description="JSON text of a Desired")
    keyid: str = Field(max_length=64)
    signature: str = Field(pattern=r"^[0-9a-f]{128}$", description="Ed25519, hex")


class UpdateCode(TolerantEnum):
    """Why a model is not, or no longer, installed."""

    SIGNATURE = "E_SIG"
    ROLLBACK = "E_ROLLBACK"
    STALE = "E_STALE"
    HASH = "E_HASH"
    LENGTH = "E_LEN"
    CHUNK = "E_CHUNK"
    PATH = "E_PATH"
    SLOW = "E_SLOW"
    SPACE = "E_SPACE"
    INCOMPATIBLE = "E_INCOMPAT"
    LOAD = "E_LOAD"
    SELF_TEST = "E_SELFTEST"
    PARITY = "E_PARITY"
    LATENCY = "E_LATENCY"
    QUALITY = "E_QUALITY"
    TIMEOUT = "E_TIMEOUT"
    UNKNOWN = "unknown"


class CodeFamily(StrEnum):
    """Who must act on a code."""

    RETRYABLE = "retryable"
    FINAL = "final"
    SECURITY = "security"


CODE_FAMILIES: dict[UpdateCode, CodeFamily] = {
    UpdateCode.SIGNATURE: CodeFamily.SECURITY,
    UpdateCode.ROLLBACK: CodeFamily.SECURITY,
    UpdateCode.STALE: CodeFamily.RETRYABLE,
    UpdateCode.HASH: CodeFamily.SECURITY,
    UpdateCode.LENGTH: CodeFamily.SECURITY,
    UpdateCode.CHUNK: CodeFamily.SECURITY,
    UpdateCode.PATH: CodeFamily.SECURITY,
    UpdateCode.SLOW: CodeFamily.RETRYABLE,
    UpdateCode.SPACE: CodeFamily.RETRYABLE,
    UpdateCode.INCOMPATIBLE: CodeFamily.FINAL,
    UpdateCode.LOAD: CodeFamily.FINAL,
    UpdateCode.SELF_TEST: CodeFamily.FINAL,
    UpdateCode.PARITY: CodeFamily.FINAL,
    UpdateCode.LATENCY: CodeFamily.FINAL,
    UpdateCode.QUALITY: CodeFamily.FINAL,
    UpdateCode.TIMEOUT: CodeFamily.RETRYABLE,
    UpdateCode.UNKNOWN: CodeFamily.FINAL,
}


class RolloutState(TolerantEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    APPROVED = "approved"
    RUNNING = "running"
    SOAKING = "soaking"
    PAUSED = "paused"
    ABORTING = "aborting"
    ABORTED = "aborted"
    COMPLETED = "completed"
    DENIED = "denied"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"


class WavePlan(WireModel):
    """Who is in a wave: named devices, or a share of the rollout's devices, counted together with the waves before."""

    devices: tuple[DeviceId, ...] = Field((), max_length=10_000)
    percent: float | None = Field(
        None, gt=0, le=100, description="of all devices of the rollout, reached with this wave"
    )
    least: Count = Field(1, ge=1, description="smallest number of devices that this wave adds, with percent")

    @model_validator(mode="after")
    def _one_of_both(self) -> WavePlan:
        if bool(self.devices) == (self.percent is not None):
            raise ValueError("a wave names devices or a percent, one of both")
        return self


class Thresholds(WireModel):
    """When a wave opens and when a rollout stops. A value that cannot be read refuses the rollout."""

    p_ok: Ratio = Field(1.0, gt=0, description="share of a wave's devices that must be confirmed to go on")
    p_error: Ratio = Field(0.1, description="share of attempted devices that may go bad")
    min_errors: Count = Field(1, ge=1, description="bad devices that are always tolerated less one; 1 in a wave of one")
    soak_s: float = Field(300.0, ge=0, le=30 * 86400, description="rest after a wave before the next, seconds")
    step_deadline_s: float = Field(900.0, gt=0, le=7 * 86400, description="longest stay in one update state, seconds")
    wave_deadline_s: float = Field(86400.0, gt=0, le=90 * 86400, description="after it offline devices are stragglers")
    min_fields: Count = Field(10, ge=1, description="fields of evidence needed from each confirmed device")
    max_disagreement: Ratio = Field(0.2, description="share of white cells that both models name differently")
    max_uncertain_rise: Ratio = Field(
        0.25, description="how much the share of uncertain fields may grow over a device's own baseline"
    )
    max_withheld_rise: Ratio = Field(
        0.25, description="how much the share of withheld fields may grow over a device's own baseline"
    )
    max_latency_ratio: float = Field(
        3.0, gt=0, le=100, allow_inf_nan=False, description="median time of a field, new model over old"
    )
