"""First tables."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "sites",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("site_id", name=op.f("pk_sites")),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=True),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_dead_letters_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_dead_letters_fingerprint")),
    )
    op.create_index(op.f("ix_dead_letters_device"), "dead_letters", ["device"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("holder", sa.String(length=120), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_leases_site_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "principals",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_principals_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principals")),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal_id", sa.String(length=32), nullable=False),
        sa.Column("principal_name", sa.String(length=120), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("before", _JSON, nullable=True),
        sa.Column("after", _JSON, nullable=True),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"], name=op.f("fk_audit_principal_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_audit_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_site_id_id"), "audit", ["site_id", "id"], unique=False)
    op.create_table(
        "devices",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("principal_id", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_devices_created_by")),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"], name=op.f("fk_devices_principal_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_devices_site_id")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_devices")),
    )
    op.create_table(
        "images",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("media_type", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_images_created_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_images_site_id")),
        sa.PrimaryKeyConstraint("site_id", "sha256", name=op.f("pk_images")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_epoch", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_outbox_created_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_outbox_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_published_at"), "outbox", ["published_at"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("principal_id", sa.String(length=32), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"], name=op.f("fk_tokens_principal_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_tokens_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_tokens_token_sha256")),
    )
    op.create_table(
        "device_events",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("happened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.String(length=32), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("text", sa.String(length=500), nullable=False),
        sa.Column("results", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_device_events_device")),
        sa.ForeignKeyConstraint(["recorded_by"], ["principals.id"], name=op.f("fk_device_events_recorded_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_device_events_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_events")),
        sa.UniqueConstraint("device", "boot", "seq", name=op.f("uq_device_events_device_boot_seq")),
    )
    op.create_index(
        op.f("ix_device_events_site_id_device_happened_at"),
        "device_events",
        ["site_id", "device", "happened_at"],
        unique=False,
    )
    op.create_table(
        "device_state",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("presence", sa.String(length=16), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=True),
        sa.Column("past_sessions", _JSON, nullable=False),
        sa.Column("presence_reason", sa.String(length=200), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agent_version", sa.String(length=32), nullable=True),
        sa.Column("capabilities", _JSON, nullable=True),
        sa.Column("reported_boot", sa.BigInteger(), nullable=False),
        sa.Column("reported_seq", sa.BigInteger(), nullable=False),
        sa.Column("reported", _JSON, nullable=True),
        sa.Column("gauges", _JSON, nullable=True),
        sa.Column("gauges_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ingest_lag_s", sa.Double(), nullable=True),
        sa.Column("fields", sa.BigInteger(), nullable=False),
        sa.Column("uncertain", sa.BigInteger(), nullable=False),
        sa.Column("withheld", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_device_state_device")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_device_state_site_id")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_device_state")),
    )
    op.create_table(
        "fields",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("capture_id", sa.String(length=120), nullable=False),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.String(length=32), nullable=False),
        sa.Column("clock", sa.String(length=16), nullable=False),
        sa.Column("slide", sa.String(length=64), nullable=True),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("reasons", _JSON, nullable=False),
        sa.Column("rbc", sa.BigInteger(), nullable=False),
        sa.Column("wbc", sa.BigInteger(), nullable=False),
        sa.Column("platelets", sa.BigInteger(), nullable=False),
        sa.Column("white_cells", _JSON, nullable=False),
        sa.Column("model", sa.String(length=71), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("focus", sa.Double(), nullable=True),
        sa.Column("rbc_diameter_px", sa.Double(), nullable=True),
        sa.Column("image_sha256", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_fields_device")),
        sa.ForeignKeyConstraint(["recorded_by"], ["principals.id"], name=op.f("fk_fields_recorded_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_fields_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fields")),
        sa.UniqueConstraint("device", "boot", "seq", name=op.f("uq_fields_device_boot_seq")),
    )
    op.create_index(
        "ix_fields_site_id_device_captured_at", "fields", ["site_id", "device", "captured_at"], unique=False
    )
    op.create_table(
        "opinions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("capture_id", sa.String(length=120), nullable=False),
        sa.Column("image_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_name", sa.String(length=63), nullable=False),
        sa.Column("model_version", sa.String(length=32), nullable=False),
        sa.Column("model_digest", sa.String(length=71), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("context", _JSON, nullable=False),
        sa.Column("detections", _JSON, nullable=False),
        sa.Column("white_cells", sa.BigInteger(), nullable=False),
        sa.Column("agreement_ratio", sa.Double(), nullable=True),
        sa.Column("needs_review", sa.Boolean(), nullable=False),
        sa.Column("review_reasons", _JSON, nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_opinions_created_by")),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_opinions_device")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_opinions_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_opinions")),
        sa.UniqueConstraint(
            "site_id",
            "device",
            "capture_id",
            "image_sha256",
            name=op.f("uq_opinions_site_id_device_capture_id_image_sha256"),
        ),
    )
    op.create_index(
        op.f("ix_opinions_site_id_created_at_id"), "opinions", ["site_id", "created_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_opinions_site_id_state_created_at"), "opinions", ["site_id", "state", "created_at"], unique=False
    )
    op.create_table(
        "slide_results",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("slide", sa.String(length=64), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.String(length=32), nullable=False),
        sa.Column("fields", sa.BigInteger(), nullable=False),
        sa.Column("withheld", sa.BigInteger(), nullable=False),
        sa.Column("rbc", sa.BigInteger(), nullable=False),
        sa.Column("platelets", sa.BigInteger(), nullable=False),
        sa.Column("white_cells", _JSON, nullable=False),
        sa.Column("limits", _JSON, nullable=False),
        sa.Column("model", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_slide_results_device")),
        sa.ForeignKeyConstraint(["recorded_by"], ["principals.id"], name=op.f("fk_slide_results_recorded_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_slide_results_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slide_results")),
        sa.UniqueConstraint("device", "boot", "seq", name=op.f("uq_slide_results_device_boot_seq")),
    )
    op.create_index(op.f("ix_slide_results_slide"), "slide_results", ["slide"], unique=False)
    op.create_table(
        "opinion_cells",
        sa.Column("opinion_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("edge", _JSON, nullable=True),
        sa.Column("cloud", _JSON, nullable=True),
        sa.Column("edge_label", sa.String(length=40), nullable=True),
        sa.Column("cloud_label", sa.String(length=40), nullable=True),
        sa.Column("agree", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["opinion_id"], ["opinions.id"], name=op.f("fk_opinion_cells_opinion_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_opinion_cells_site_id")),
        sa.PrimaryKeyConstraint("opinion_id", "position", name=op.f("pk_opinion_cells")),
    )
    _add_the_program_itself()


def _add_the_program_itself() -> None:
    """The site of what belongs to none, and the principal that the program's own changes name."""
    sites = sa.table(
        "sites", sa.column("site_id"), sa.column("created_at", sa.DateTime(timezone=True)), sa.column("created_by")
    )
    principals = sa.table(
        "principals",
        *(sa.column(name) for name in ("id", "site_id", "role", "name", "created_by")),
        sa.column("created_at", sa.DateTime(timezone=True)),
    )
    now = datetime.now(UTC) if op.get_bind().dialect.name != "sqlite" else datetime.now(UTC).replace(tzinfo=None)
    op.bulk_insert(sites, [{"site_id": "-", "created_at": now, "created_by": "system"}])
    row = {"id": "system", "site_id": "-", "role": "system", "name": "ahs-cloud", "created_by": "system"}
    op.bulk_insert(principals, [row | {"created_at": now}])


def downgrade() -> None:
    """Back."""
    op.drop_table("opinion_cells")
    op.drop_index(op.f("ix_slide_results_slide"), table_name="slide_results")
    op.drop_table("slide_results")
    op.drop_index(op.f("ix_opinions_site_id_state_created_at"), table_name="opinions")
    op.drop_index(op.f("ix_opinions_site_id_created_at_id"), table_name="opinions")
    op.drop_table("opinions")
    op.drop_index("ix_fields_site_id_device_captured_at", table_name="fields")
    op.drop_table("fields")
    op.drop_table("device_state")
    op.drop_index(op.f("ix_device_events_site_id_device_happened_at"), table_name="device_events")
    op.drop_table("device_events")
    op.drop_table("tokens")
    op.drop_index(op.f("ix_outbox_published_at"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("images")
    op.drop_table("devices")
    op.drop_index(op.f("ix_audit_site_id_id"), table_name="audit")
    op.drop_table("audit")
    op.drop_table("principals")
    op.drop_table("leases")
    op.drop_index(op.f("ix_dead_letters_device"), table_name="dead_letters")
    op.drop_table("dead_letters")
    op.drop_table("sites")
