"""the first schema"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False, comment="the writing transaction; 0 on SQLite"),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("memory_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_changes")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("changes", schema=None) as batch_op:
        batch_op.create_index("ix_changes_tenant_id_xid_number", ["tenant_id", "xid", "number"], unique=False)
        batch_op.create_index("ix_changes_xid_number", ["xid", "number"], unique=False)

    op.create_table(
        "followers",
        sa.Column("node", sa.String(length=128), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_followers")),
    )
    op.create_table(
        "operations",
        sa.Column("operation_id", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column(
            "subject", sa.String(length=64), nullable=False, comment="session:<key> or memories: what it is about"
        ),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("session_id", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column(
            "lease_until",
            sa.BigInteger(),
            nullable=True,
            comment="a worker is at it until then; the sweep takes it up again afterwards",
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "result",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_operations")),
    )
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_operations_tenant_id"), ["tenant_id"], unique=False)
        batch_op.create_index(
            "uq_operations_unfinished",
            ["tenant_id", "kind", "subject"],
            unique=True,
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        )

    op.create_table(
        "tenants",
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False, comment="keys the HMACs of this tenant's texts"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenants")),
    )
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "scopes",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.Column("agent_id", sa.String(length=128), nullable=True),
        sa.Column(
            "session_ids",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=True,
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_keys_tenant_id")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_keys")),
    )
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_keys_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "sessions",
        sa.Column(
            "session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("session_id", sa.String(length=128), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column(
            "metadata",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.Column("window_tokens", sa.Integer(), nullable=False),
        sa.Column("semantic_turns", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("shared_tokens", sa.BigInteger(), nullable=False),
        sa.Column("turns", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("segmented_seq", sa.BigInteger(), nullable=False),
        sa.Column("semantic_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_sessions_tenant_id")),
        sa.PrimaryKeyConstraint("session_key", name=op.f("pk_sessions")),
        sa.UniqueConstraint("tenant_id", "session_id", name=op.f("uq_sessions_tenant_id_session_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "clusters",
        sa.Column(
            "cluster_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("audience", sa.String(length=160), nullable=False),
        sa.Column("centroid", sa.LargeBinary(), nullable=False, comment="float32, 256 dimensions"),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_clusters_session_key")),
        sa.PrimaryKeyConstraint("cluster_key", name=op.f("pk_clusters")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("clusters", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_clusters_session_key"), ["session_key"], unique=False)

    op.create_table(
        "events",
        sa.Column(
            "event_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("agent_id", sa.String(length=128), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column(
            "metadata",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.Column("visibility", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("token_count", sa.Integer(), nullable=False),
        sa.Column("token_start", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("tokenizer", sa.String(length=64), nullable=False, comment="what the tokens were counted with"),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_events_session_key")),
        sa.PrimaryKeyConstraint("event_key", name=op.f("pk_events")),
        sa.UniqueConstraint("session_key", "event_id", name=op.f("uq_events_session_key_event_id")),
        sa.UniqueConstraint("session_key", "seq", name=op.f("uq_events_session_key_seq")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_session_key_token_start", ["session_key", "token_start"], unique=False)

    op.create_table(
        "idempotency",
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column(
            "event_ids",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_idempotency_session_key")),
        sa.PrimaryKeyConstraint("session_key", "key_hash", name=op.f("pk_idempotency")),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_created_at"), ["created_at"], unique=False)

    op.create_table(
        "memories",
        sa.Column(
            "memory_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("memory_id", sa.String(length=128), nullable=False),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("agent_id", sa.String(length=128), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("visibility", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column(
            "metadata",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.Column("valid_from", sa.BigInteger(), nullable=True),
        sa.Column("valid_to", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column(
            "source",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=True,
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("segmented_version", sa.Integer(), nullable=False),
        sa.Column("token_count", sa.Integer(), nullable=False),
        sa.Column(
            "scope_hash",
            sa.LargeBinary(),
            nullable=True,
            comment="one text per scope: unique while the memory is valid",
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("access_count", sa.BigInteger(), nullable=False),
        sa.Column("last_accessed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_memories_session_key")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_memories_tenant_id")),
        sa.PrimaryKeyConstraint("memory_key", name=op.f("pk_memories")),
        sa.UniqueConstraint("tenant_id", "memory_id", name=op.f("uq_memories_tenant_id_memory_id")),
        sa.UniqueConstraint("tenant_id", "scope_hash", name=op.f("uq_memories_tenant_id_scope_hash")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("memories", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_memories_session_key"), ["session_key"], unique=False)

    op.create_table(
        "summaries",
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False, comment="made of the shared log up to step * 4,096 tokens"),
        sa.Column(
            "sentences",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_summaries_session_key")),
        sa.PrimaryKeyConstraint("session_key", "step", name=op.f("pk_summaries")),
    )
    op.create_table(
        "memory_versions",
        sa.Column("memory_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column(
            "metadata",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
        ),
        sa.Column("visibility", sa.String(length=16), nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=True),
        sa.ForeignKeyConstraint(["memory_key"], ["memories.memory_key"], name=op.f("fk_memory_versions_memory_key")),
        sa.PrimaryKeyConstraint("memory_key", "version", name=op.f("pk_memory_versions")),
    )
    op.create_table(
        "segments",
        sa.Column(
            "segment_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("item", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("audience", sa.String(length=160), nullable=False, comment="its visibility class"),
        sa.Column("char_start", sa.Integer(), nullable=False),
        sa.Column("char_end", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("space", sa.String(length=128), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True, comment="float16; null until embedded"),
        sa.Column("cluster_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column(
            "semantic",
            sa.Boolean(),
            nullable=True,
            comment="held by the semantic tier; null until it has seen the segment",
        ),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("last_use", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cluster_key"], ["clusters.cluster_key"], name=op.f("fk_segments_cluster_key")),
        sa.PrimaryKeyConstraint("segment_key", name=op.f("pk_segments")),
        sa.UniqueConstraint("item", "space", "ordinal", name=op.f("uq_segments_item_space_ordinal")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("segments", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_segments_cluster_key"), ["cluster_key"], unique=False)
        batch_op.create_index("ix_segments_content", ["tenant_id", "space", "content_hash"], unique=False)
        batch_op.create_index(
            "ix_segments_pending",
            ["session_key", "segment_key"],
            unique=False,
            sqlite_where=sa.text("vector IS NULL"),
            postgresql_where=sa.text("vector IS NULL"),
        )
        batch_op.create_index("ix_segments_session_key_seq", ["session_key", "seq"], unique=False)

    # ### end Alembic commands ###


def downgrade() -> None:
    with op.batch_alter_table("segments", schema=None) as batch_op:
        batch_op.drop_index("ix_segments_session_key_seq")
        batch_op.drop_index(
            "ix_segments_pending", sqlite_where=sa.text("vector IS NULL"), postgresql_where=sa.text("vector IS NULL")
        )
        batch_op.drop_index("ix_segments_content")
        batch_op.drop_index(batch_op.f("ix_segments_cluster_key"))

    op.drop_table("segments")
    op.drop_table("memory_versions")
    op.drop_table("summaries")
    with op.batch_alter_table("memories", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_memories_session_key"))

    op.drop_table("memories")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_created_at"))

    op.drop_table("idempotency")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_session_key_token_start")

    op.drop_table("events")
    with op.batch_alter_table("clusters", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_clusters_session_key"))

    op.drop_table("clusters")
    op.drop_table("sessions")
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_keys_tenant_id"))

    op.drop_table("keys")
    op.drop_table("tenants")
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_operations_unfinished",
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        )
        batch_op.drop_index(batch_op.f("ix_operations_tenant_id"))

    op.drop_table("operations")
    op.drop_table("followers")
    with op.batch_alter_table("changes", schema=None) as batch_op:
        batch_op.drop_index("ix_changes_xid_number")
        batch_op.drop_index("ix_changes_tenant_id_xid_number")

    op.drop_table("changes")
    # ### end Alembic commands ###
