"""The tables. Every row has its site; what people or devices change names its principal.

A row that belongs to no site (a lease, a dead letter of a device nobody registered) carries `NO_SITE`, a name no
token can be issued for, so that no question asked for a site ever finds it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cloud.storage.types import Json, RowId, UtcDateTime

NO_SITE = "-"

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Constraints are named by rule, so that a migration can drop them by name on both databases."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
        bytes: LargeBinary(),
    }


def _site() -> Mapped[str]:
    return mapped_column(String(63), ForeignKey("sites.site_id"))


def _principal() -> Mapped[str]:
    return mapped_column(String(32), ForeignKey("principals.id"))


class SiteRow(Base):
    """A laboratory: what separates one tenant from another."""

    __tablename__ = "sites"
    site_id: Mapped[str] = mapped_column(String(63), primary_key=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(32))


class PrincipalRow(Base):
    """Somebody or something that can change rows: a person's access, a device, the system itself."""

    __tablename__ = "principals"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = _site()
    role: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(120))
    device: Mapped[str | None] = mapped_column(String(63))
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(32))


class TokenRow(Base):
    """An access token, of which only the SHA-256 is kept; 256 random bits need no slow hash."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = _site()
    principal_id: Mapped[str] = _principal()
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(32))
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(32))


class DeviceRow(Base):
    """A registered device. Its id is unique over all sites, because topics carry no site."""

    __tablename__ = "devices"
    device: Mapped[str] = mapped_column(String(63), primary_key=True)
    site_id: Mapped[str] = _site()
    principal_id: Mapped[str] = _principal()
    label: Mapped[str] = mapped_column(String(120), default="")
    created_at: Mapped[datetime]
    created_by: Mapped[str] = _principal()
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(32))


class DeviceStateRow(Base):
    """What a device last said of itself, and its running totals (kept in the transaction that adds the rows)."""

    __tablename__ = "device_state"
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"), primary_key=True)
    site_id: Mapped[str] = _site()
    presence: Mapped[str] = mapped_column(String(16), default="unknown")
    session: Mapped[str | None] = mapped_column(String(64))
    past_sessions: Mapped[list[Any]] = mapped_column(default=list)
    presence_reason: Mapped[str] = mapped_column(String(200), default="")
    last_seen_at: Mapped[datetime | None]
    agent_version: Mapped[str | None] = mapped_column(String(32))
    capabilities: Mapped[dict[str, Any] | None]
    reported_boot: Mapped[int] = mapped_column(BigInteger, default=-1)
    reported_seq: Mapped[int] = mapped_column(BigInteger, default=-1)
    reported: Mapped[dict[str, Any] | None]
    gauges: Mapped[dict[str, Any] | None]
    gauges_at: Mapped[datetime | None]
    ingest_lag_s: Mapped[float | None]
    fields: Mapped[int] = mapped_column(BigInteger, default=0)
    uncertain: Mapped[int] = mapped_column(BigInteger, default=0)
    withheld: Mapped[int] = mapped_column(BigInteger, default=0)


class FieldRecord(Base):
    """A field that a device has read; (device, boot, seq) is the ledger's key."""

    __tablename__ = "fields"
    __table_args__ = (
        UniqueConstraint("device", "boot", "seq"),
        Index("ix_fields_site_id_device_captured_at", "site_id", "device", "captured_at"),
    )
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"))
    boot: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    capture_id: Mapped[str] = mapped_column(String(120))
    captured_at: Mapped[datetime]
    received_at: Mapped[datetime]
    recorded_by: Mapped[str] = _principal()
    clock: Mapped[str] = mapped_column(String(16))
    slide: Mapped[str | None] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[Any]]
    rbc: Mapped[int] = mapped_column(BigInteger)
    wbc: Mapped[int] = mapped_column(BigInteger)
    platelets: Mapped[int] = mapped_column(BigInteger)
    white_cells: Mapped[dict[str, Any]]
    model: Mapped[str] = mapped_column(String(71))
    latency_ms: Mapped[float]
    focus: Mapped[float | None]
    rbc_diameter_px: Mapped[float | None]
    image_sha256: Mapped[str | None] = mapped_column(String(64))


class SlideResultRow(Base):
    """A slide that a device has closed; its review and signature get tables of their own."""

    __tablename__ = "slide_results"
    __table_args__ = (UniqueConstraint("device", "boot", "seq"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"))
    boot: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    slide: Mapped[str] = mapped_column(String(64), index=True)
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime]
    received_at: Mapped[datetime]
    recorded_by: Mapped[str] = _principal()
    fields: Mapped[int] = mapped_column(BigInteger)
    withheld: Mapped[int] = mapped_column(BigInteger)
    rbc: Mapped[int] = mapped_column(BigInteger)
    platelets: Mapped[int] = mapped_column(BigInteger)
    white_cells: Mapped[dict[str, Any]]
    limits: Mapped[dict[str, Any]]
    model: Mapped[str] = mapped_column(String(71))


class DeviceEventRow(Base):
    """An alarm, or rows a device had to give up (`kind` dropped)."""

    __tablename__ = "device_events"
    __table_args__ = (UniqueConstraint("device", "boot", "seq"), Index(None, "site_id", "device", "happened_at"))
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"))
    boot: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    happened_at: Mapped[datetime]
    received_at: Mapped[datetime]
    recorded_by: Mapped[str] = _principal()
    severity: Mapped[str] = mapped_column(String(16))
    code: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(String(500))
    results: Mapped[int] = mapped_column(BigInteger, default=0)
    images: Mapped[int] = mapped_column(BigInteger, default=0)


class DeadLetterRow(Base):
    """A message that could not be taken; the same message again only counts up `times`."""

    __tablename__ = "dead_letters"
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    device: Mapped[str | None] = mapped_column(String(63), index=True)
    topic: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    code: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    boot: Mapped[int | None] = mapped_column(BigInteger)
    seq: Mapped[int | None] = mapped_column(BigInteger)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    times: Mapped[int] = mapped_column(BigInteger, default=1)


class ImageRow(Base):
    """An image of a site; the bytes lie in the image store under their hash."""

    __tablename__ = "images"
    site_id: Mapped[str] = mapped_column(String(63), ForeignKey("sites.site_id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width_px: Mapped[int]
    height_px: Mapped[int]
    media_type: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]
    created_by: Mapped[str] = _principal()


class OpinionRow(Base):
    """A second opinion; (site, device, capture id, image hash) is asked once."""

    __tablename__ = "opinions"
    __table_args__ = (
        UniqueConstraint("site_id", "device", "capture_id", "image_sha256"),
        Index(None, "site_id", "state", "created_at"),
        Index(None, "site_id", "created_at", "id"),
    )
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = _site()
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"))
    capture_id: Mapped[str] = mapped_column(String(120))
    image_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    created_by: Mapped[str] = _principal()
    answered_at: Mapped[datetime]
    model_name: Mapped[str] = mapped_column(String(63))
    model_version: Mapped[str] = mapped_column(String(32))
    model_digest: Mapped[str] = mapped_column(String(71))
    latency_ms: Mapped[float]
    width_px: Mapped[int]
    height_px: Mapped[int]
    context: Mapped[dict[str, Any]]
    detections: Mapped[list[Any]]
    white_cells: Mapped[int] = mapped_column(BigInteger)
    agreement_ratio: Mapped[float | None]
    needs_review: Mapped[bool]
    review_reasons: Mapped[list[Any]]


class OpinionCellRow(Base):
    """Both words on one white cell."""

    __tablename__ = "opinion_cells"
    opinion_id: Mapped[str] = mapped_column(String(32), ForeignKey("opinions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[str] = _site()
    edge: Mapped[dict[str, Any] | None]
    cloud: Mapped[dict[str, Any] | None]
    edge_label: Mapped[str | None] = mapped_column(String(40))
    cloud_label: Mapped[str | None] = mapped_column(String(40))
    agree: Mapped[bool]


class LabelRow(Base):
    """A reader's word on one white cell. Never changed: a cell read again gets a further row, the newest counts."""

    __tablename__ = "labels"
    __table_args__ = (Index(None, "site_id", "opinion_id"), Index(None, "site_id", "labelled_at", "id"))
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    opinion_id: Mapped[str] = mapped_column(String(32), ForeignKey("opinions.id"))
    cell: Mapped[int | None]
    bbox: Mapped[list[Any]]
    label: Mapped[str] = mapped_column(String(40))
    labelled_at: Mapped[datetime]
    labelled_by: Mapped[str] = _principal()
    reader: Mapped[str] = mapped_column(String(120))
    suggested: Mapped[str | None] = mapped_column(String(40))
    suggested_by: Mapped[str | None] = mapped_column(String(71))
    edge_label: Mapped[str | None] = mapped_column(String(40))
    edge_model: Mapped[str | None] = mapped_column(String(71))
    suggestion_shown: Mapped[bool]


class TrustDocumentRow(Base):
    """A TUF document as it was signed: every root, and the newest of the others. One trust for all sites."""

    __tablename__ = "trust_documents"
    role: Mapped[str] = mapped_column(String(16), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    site_id: Mapped[str] = _site()
    document: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime]
    stored_at: Mapped[datetime]
    stored_by: Mapped[str] = _principal()


class ReleaseRow(Base):
    """A signed release; its zip lies in the image store under its SHA-256, and chunks are cut from it."""

    __tablename__ = "releases"
    __table_args__ = (Index(None, "site_id", "digest"),)
    counter: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    site_id: Mapped[str] = _site()
    digest: Mapped[str] = mapped_column(String(71))
    name: Mapped[str] = mapped_column(String(63))
    version: Mapped[str] = mapped_column(String(32))
    archive_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    target: Mapped[dict[str, Any]]
    evidence: Mapped[dict[str, Any] | None]
    checked: Mapped[bool]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = _principal()


class ChunkWantRow(Base):
    """What a device has asked for last: the chunks of a release it lacks."""

    __tablename__ = "chunk_wants"
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"), primary_key=True)
    site_id: Mapped[str] = _site()
    digest: Mapped[str] = mapped_column(String(71))
    missing: Mapped[list[Any]]
    asked_at: Mapped[datetime]
    asked_by: Mapped[str] = _principal()
    served_at: Mapped[datetime | None]


class DesiredRow(Base):
    """What a device is to run, signed; published retained by the worker that leads. `version` only grows."""

    __tablename__ = "desired"
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"), primary_key=True)
    site_id: Mapped[str] = _site()
    version: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[dict[str, Any]]
    envelope: Mapped[str | None] = mapped_column(Text)
    made_at: Mapped[datetime]
    made_by: Mapped[str] = _principal()
    published_version: Mapped[int] = mapped_column(BigInteger, default=0)


class RolloutRow(Base):
    """A release on its way to devices, wave by wave; every change says WHERE the epoch is the leader's."""

    __tablename__ = "rollouts"
    __table_args__ = (Index(None, "site_id", "created_at"), Index(None, "state"))
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = _site()
    counter: Mapped[int] = mapped_column(BigInteger, ForeignKey("releases.counter"))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(500), default="")
    paused_from: Mapped[str | None] = mapped_column(String(16))
    wave: Mapped[int] = mapped_column(default=0)
    waived_wave: Mapped[int | None]
    waived_for: Mapped[dict[str, Any] | None]
    waves: Mapped[list[Any]]
    thresholds: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = _principal()
    wave_opened_at: Mapped[datetime | None]
    soaking_since: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(BigInteger, default=0)


class RolloutMemberRow(Base):
    """A device in a rollout."""

    __tablename__ = "rollout_members"
    __table_args__ = (Index(None, "device"),)
    rollout_id: Mapped[str] = mapped_column(String(32), ForeignKey("rollouts.id"), primary_key=True)
    device: Mapped[str] = mapped_column(String(63), ForeignKey("devices.device"), primary_key=True)
    site_id: Mapped[str] = _site()
    wave: Mapped[int]
    offered_at: Mapped[datetime | None]
    desired_version: Mapped[int | None] = mapped_column(BigInteger)
    previous_digest: Mapped[str | None] = mapped_column(String(71))
    previous_counter: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="idle")
    state_since: Mapped[datetime | None]
    code: Mapped[str | None] = mapped_column(String(32))
    returned_at: Mapped[datetime | None]
    straggler: Mapped[bool] = mapped_column(default=False)
    soak: Mapped[dict[str, Any] | None]


class RolloutDecisionRow(Base):
    """What was decided, by the controller or a person, with the figures; never changed."""

    __tablename__ = "rollout_decisions"
    __table_args__ = (Index(None, "rollout_id", "id"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    rollout_id: Mapped[str] = mapped_column(String(32), ForeignKey("rollouts.id"))
    at: Mapped[datetime]
    decided_by: Mapped[str] = _principal()
    name: Mapped[str] = mapped_column(String(120))
    action: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(500))
    gates: Mapped[list[Any]]


class OutboxRow(Base):
    """A message towards a device, written with what it tells and published by the worker that leads."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    topic: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes]
    not_after: Mapped[datetime]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = _principal()
    published_at: Mapped[datetime | None] = mapped_column(index=True)
    published_epoch: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str | None] = mapped_column(String(16))


class AuditRow(Base):
    """Who changed what; triggers refuse UPDATE and DELETE."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "site_id", "id"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = _site()
    at: Mapped[datetime]
    principal_id: Mapped[str] = _principal()
    principal_name: Mapped[str] = mapped_column(String(120))
    role: Mapped[str] = mapped_column(String(16))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(200))
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]


class LeaseRow(Base):
    """Who leads; the epoch grows with each new holder."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = _site()
    holder: Mapped[str] = mapped_column(String(120))
    epoch: Mapped[int] = mapped_column(BigInteger)
    expires_at_s: Mapped[float]
