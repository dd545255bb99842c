"""Labels, releases with their trust, what devices are to run, and rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = ("labels", "rollout_decisions")


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "releases",
        sa.Column("counter", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("archive_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("target", _JSON, nullable=False),
        sa.Column("evidence", _JSON, nullable=True),
        sa.Column("checked", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_releases_created_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_releases_site_id")),
        sa.PrimaryKeyConstraint("counter", name=op.f("pk_releases")),
    )
    op.create_index(op.f("ix_releases_site_id_digest"), "releases", ["site_id", "digest"], unique=False)
    op.create_table(
        "trust_documents",
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_by", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_trust_documents_site_id")),
        sa.ForeignKeyConstraint(["stored_by"], ["principals.id"], name=op.f("fk_trust_documents_stored_by")),
        sa.PrimaryKeyConstraint("role", "version", name=op.f("pk_trust_documents")),
    )
    op.create_table(
        "chunk_wants",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("missing", _JSON, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_by", sa.String(length=32), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["asked_by"], ["principals.id"], name=op.f("fk_chunk_wants_asked_by")),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_chunk_wants_device")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_chunk_wants_site_id")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_chunk_wants")),
    )
    op.create_table(
        "desired",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("document", _JSON, nullable=False),
        sa.Column("envelope", sa.Text(), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("made_by", sa.String(length=32), nullable=False),
        sa.Column("published_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_desired_device")),
        sa.ForeignKeyConstraint(["made_by"], ["principals.id"], name=op.f("fk_desired_made_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_desired_site_id")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_desired")),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("paused_from", sa.String(length=16), nullable=True),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("waves", _JSON, nullable=False),
        sa.Column("thresholds", _JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.Column("wave_opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("soaking_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["counter"], ["releases.counter"], name=op.f("fk_rollouts_counter")),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_rollouts_created_by")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_rollouts_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_site_id_created_at"), "rollouts", ["site_id", "created_at"], unique=False)
    op.create_index(op.f("ix_rollouts_state"), "rollouts", ["state"], unique=False)
    op.create_table(
        "labels",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("opinion_id", sa.String(length=32), nullable=False),
        sa.Column("cell", sa.Integer(), nullable=True),
        sa.Column("bbox", _JSON, nullable=False),
        sa.Column("label", sa.String(length=40), nullable=False),
        sa.Column("labelled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("labelled_by", sa.String(length=32), nullable=False),
        sa.Column("reader", sa.String(length=120), nullable=False),
        sa.Column("suggested", sa.String(length=40), nullable=True),
        sa.Column("suggested_by", sa.String(length=71), nullable=True),
        sa.Column("edge_label", sa.String(length=40), nullable=True),
        sa.Column("edge_model", sa.String(length=71), nullable=True),
        sa.Column("suggestion_shown", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["labelled_by"], ["principals.id"], name=op.f("fk_labels_labelled_by")),
        sa.ForeignKeyConstraint(["opinion_id"], ["opinions.id"], name=op.f("fk_labels_opinion_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_labels_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
    )
    op.create_index(op.f("ix_labels_site_id_labelled_at_id"), "labels", ["site_id", "labelled_at", "id"], unique=False)
    op.create_index(op.f("ix_labels_site_id_opinion_id"), "labels", ["site_id", "opinion_id"], unique=False)
    op.create_table(
        "rollout_decisions",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_by", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("gates", _JSON, nullable=False),
        sa.ForeignKeyConstraint(["decided_by"], ["principals.id"], name=op.f("fk_rollout_decisions_decided_by")),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name=op.f("fk_rollout_decisions_rollout_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_rollout_decisions_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_decisions")),
    )
    op.create_index(op.f("ix_rollout_decisions_rollout_id_id"), "rollout_decisions", ["rollout_id", "id"], unique=False)
    op.create_table(
        "rollout_members",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("desired_version", sa.BigInteger(), nullable=True),
        sa.Column("previous_digest", sa.String(length=71), nullable=True),
        sa.Column("previous_counter", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("returned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("straggler", sa.Boolean(), nullable=False),
        sa.Column("soak", _JSON, nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_rollout_members_device")),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name=op.f("fk_rollout_members_rollout_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], name=op.f("fk_rollout_members_site_id")),
        sa.PrimaryKeyConstraint("rollout_id", "device", name=op.f("pk_rollout_members")),
    )
    op.create_index(op.f("ix_rollout_members_device"), "rollout_members", ["device"], unique=False)
    for table in _APPEND_ONLY:
        _guard(table)


def _guard(table: str) -> None:
    """Triggers that refuse to change or delete a row, whoever writes to the database."""
    words = f"{table} is append-only"
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{words}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION refuse_{table}_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{words}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION refuse_{table}_change()"
    )


def _unguard(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP TRIGGER {table}_no_update")
        op.execute(f"DROP TRIGGER {table}_no_delete")
        return
    op.execute(f"DROP TRIGGER {table}_no_change ON {table}")
    op.execute(f"DROP FUNCTION refuse_{table}_change()")


def downgrade() -> None:
    """Back."""
    for table in _APPEND_ONLY:
        _unguard(table)
    op.drop_index(op.f("ix_rollout_members_device"), table_name="rollout_members")
    op.drop_table("rollout_members")
    op.drop_index(op.f("ix_rollout_decisions_rollout_id_id"), table_name="rollout_decisions")
    op.drop_table("rollout_decisions")
    op.drop_index(op.f("ix_labels_site_id_opinion_id"), table_name="labels")
    op.drop_index(op.f("ix_labels_site_id_labelled_at_id"), table_name="labels")
    op.drop_table("labels")
    op.drop_index(op.f("ix_rollouts_state"), table_name="rollouts")
    op.drop_index(op.f("ix_rollouts_site_id_created_at"), table_name="rollouts")
    op.drop_table("rollouts")
    op.drop_table("desired")
    op.drop_table("chunk_wants")
    op.drop_table("trust_documents")
    op.drop_index(op.f("ix_releases_site_id_digest"), table_name="releases")
    op.drop_table("releases")
