"""What every message has in common: tolerance inwards, strictness outwards, the envelope."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
"""Version of the wire schema; a change that an old reader cannot live with raises it."""

MAX_MESSAGE_BYTES = 256 * 1024
"""Largest control or event message that is read; chunks and trust have limits of their own."""

DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$", description="lower case, digits, dashes")]
SiteId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$", description="lower case, digits, dashes")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="sha256:<64 hex digits>")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""Whole number that JSON readers and 64-bit database columns hold exactly."""
Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time on the wire carries its zone; send UTC, e.g. 2026-01-31T12:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:  # year 1 or 9999 with an offset: pydantic would let this through as a crash
        raise ValueError("a time that cannot be told in UTC") from exc


UtcTime = Annotated[datetime, AfterValidator(_utc)]


class TolerantEnum(StrEnum):
    """An enum that reads a value it does not know as UNKNOWN, so that a newer peer can be understood."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        unknown = cls.__members__.get("UNKNOWN")
        return unknown if isinstance(value, str) else None


class WireModel(BaseModel):
    """Frozen; unknown fields are ignored, because the peer may be newer than we are."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)


class ClockQuality(TolerantEnum):
    """How far the sender's wall clock can be trusted."""

    OK = "ok"
    UNSYNCED = "unsynced"
    STEPPED = "stepped"
    UNKNOWN = "unknown"


class Envelope(WireModel):
    """First fields of every message from a device.

    (device, boot, seq) is the identity of what is told; `message_id` only that of the telling.
    """

    schema_version: Count = Field(SCHEMA_VERSION, ge=1)
    message_id: str = Field(min_length=8, max_length=64)
    device: DeviceId
    boot: Count = Field(description="how often this store was opened; grows by one a start")
    seq: Count = Field(description="grows by one with each message of this boot")
    sent_at: UtcTime
    clock: ClockQuality = ClockQuality.OK


class CaptureId(WireModel):
    """A captured field's name in the whole system, written `device/boot/frame`."""

    device: DeviceId
    boot: Count
    frame: Count

    def __str__(self) -> str:
        return f"{self.device}/{self.boot}/{self.frame}"

    @classmethod
    def parse(cls, text: str) -> CaptureId:
        """Reads `device/boot/frame`; ValueError for anything else (the sender's fault)."""
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
            raise ValueError(f"capture id is written device/boot/frame, e.g. bench-1/3/1041, not {text!r}")
        return cls(device=parts[0], boot=int(parts[1]), frame=int(parts[2]))


def utc_now_text(moment: datetime) -> str:
    """A UTC time as the wire writes it, milliseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


JsonObject = dict[str, Any]
