"""Which rows does the memory keep? One definition for SQLite and PostgreSQL."""

import sqlalchemy as sa

from memory.adapters.sql.columns import Id, Instant, Json, Key, few, key, session_key

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant_id", Id, primary_key=True),
    sa.Column("secret", sa.LargeBinary, nullable=False, comment="keys the HMACs of this tenant's texts"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("space", sa.String(128), comment="that it is served in; null until something was embedded"),
)

spaces = sa.Table(
    "spaces",
    metadata,
    sa.Column("space", sa.String(128), primary_key=True),
    sa.Column("embedder", sa.Text, nullable=False, comment="as STRATAMEM_EMBEDDER names it"),
    sa.Column("noted_at", Instant, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", Id, primary_key=True),
    sa.Column("tenant_id", Id, sa.ForeignKey("tenants.tenant_id"), nullable=False, index=True),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("agent_id", Id),
    sa.Column("session_ids", Json),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("name", sa.String(256)),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("last_used_at", Instant, comment="true to the minute: a use costs no write"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    key("session_key"),
    sa.Column("tenant_id", Id, sa.ForeignKey("tenants.tenant_id"), nullable=False),
    sa.Column("session_id", Id, nullable=False),
    sa.Column("title", sa.Text),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("window_tokens", sa.Integer, nullable=False),
    sa.Column("semantic_turns", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("event_count", sa.BigInteger, nullable=False, default=0),
    sa.Column("token_count", sa.BigInteger, nullable=False, default=0),
    sa.Column("shared_tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("turns", sa.BigInteger, nullable=False, default=0),
    sa.Column("version", sa.Integer, nullable=False, default=1),
    sa.Column("segmented_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("semantic_version", sa.Integer, nullable=False, default=0),
    sa.Column("parent_key", Key, comment="the session it was forked from"),
    sa.Column("family_key", Key, index=True, comment="the first session of all that were forked from each other"),
    sa.Column("inherited", Json, comment="stretches of other logs: [session_key, first, last seq, memory, tokens]"),
    sa.Column("inherited_events", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("inherited_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("redactions", sa.Integer, nullable=False, server_default="0", comment="of its own events, so far"),
    sa.Column("closed", sa.Boolean, nullable=False, server_default=sa.false(), comment="to all but its agents"),
    sa.Column(
        "slid_tokens",
        sa.BigInteger,
        nullable=False,
        server_default="0",
        comment="up to there on the token axis it is written down that the window has moved on",
    ),
    sa.UniqueConstraint("tenant_id", "session_id"),
    few("ix_sessions_closed", "tenant_id", where="closed"),
    sqlite_autoincrement=True,
)

session_agents = sa.Table(
    "session_agents",
    metadata,
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), primary_key=True),
    sa.Column("agent_id", Id, primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("added_at", Instant, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    key("event_key"),
    session_key(),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("agent_id", Id),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("token_count", sa.Integer, nullable=False),
    sa.Column("token_start", sa.BigInteger, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("tokenizer", sa.String(64), nullable=False, comment="what the tokens were counted with"),
    sa.Column("redacted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"]),
    sa.UniqueConstraint("session_key", "seq"),
    sa.UniqueConstraint("session_key", "event_id"),
    sa.Index("ix_events_session_key_token_start", "session_key", "token_start"),
    sqlite_autoincrement=True,
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), primary_key=True),
    sa.Column("key_hash", sa.LargeBinary, primary_key=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("event_ids", Json, nullable=False),
    sa.Column("token_count", sa.BigInteger, nullable=False),
    sa.Column("created_at", Instant, nullable=False, index=True),
)

memories = sa.Table(
    "memories",
    metadata,
    key("memory_key"),
    sa.Column("tenant_id", Id, sa.ForeignKey("tenants.tenant_id"), nullable=False),
    sa.Column("memory_id", Id, nullable=False),
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), index=True),
    sa.Column("session_seq", sa.BigInteger, nullable=False, server_default="0", comment="the last seq by then"),
    sa.Column("agent_id", Id),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("valid_from", Instant),
    sa.Column("valid_to", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("source", Json),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("segmented_version", sa.Integer, nullable=False, default=0),
    sa.Column("token_count", sa.Integer, nullable=False),
    sa.Column("scope_hash", sa.LargeBinary, comment="one text per scope: unique while the memory is valid"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Column("access_count", sa.BigInteger, nullable=False, default=0),
    sa.Column("last_accessed_at", Instant),
    sa.Column("superseded_by", Id, comment="the memory_id of what took its place"),
    sa.Column("supersedes", Id),
    sa.Column("near_duplicate_of", Id, comment="the memory_id of one that says the same in slightly other words"),
    sa.Column("compared", sa.Boolean, nullable=False, server_default=sa.false(), comment="with others of its scope"),
    sa.UniqueConstraint("tenant_id", "memory_id"),
    sa.UniqueConstraint("tenant_id", "scope_hash"),
    few("ix_memories_unsegmented", "tenant_id", "memory_key", where="segmented_version < version"),
    few("ix_memories_uncompared", "tenant_id", "memory_key", where="NOT compared"),
    few("ix_memories_superseded_by", "tenant_id", "superseded_by", where="superseded_by IS NOT NULL"),
    few("ix_memories_near_duplicate_of", "tenant_id", "near_duplicate_of", where="near_duplicate_of IS NOT NULL"),
    few("ix_memories_changed", "tenant_id", "updated_at", where="version > 1 OR valid_from IS NOT NULL"),
    few("ix_memories_expires_at", "expires_at", where="expires_at IS NOT NULL"),
    sqlite_autoincrement=True,
)

memory_versions = sa.Table(
    "memory_versions",
    metadata,
    sa.Column("memory_key", Key, sa.ForeignKey("memories.memory_key"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("valid_to", Instant),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("superseded_by", Id),
    sa.Column("changed_at", Instant, nullable=False),
    sa.Column("changed_by", Id),
    sa.Column("reason", sa.Text),
)

clusters = sa.Table(
    "clusters",
    metadata,
    key("cluster_key"),
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), nullable=False, index=True),
    sa.Column("audience", sa.String(160), nullable=False),
    sa.Column("centroid", sa.LargeBinary, nullable=False, comment="float32, 256 dimensions"),
    sa.Column("size", sa.Integer, nullable=False),
    sqlite_autoincrement=True,
)

segments = sa.Table(
    "segments",
    metadata,
    key("segment_key"),
    sa.Column("tenant_id", Id, nullable=False),
    session_key(nullable=True),
    sa.Column("item", sa.BigInteger, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("audience", sa.String(160), nullable=False, comment="its visibility class"),
    sa.Column("char_start", sa.Integer, nullable=False),
    sa.Column("char_end", sa.Integer, nullable=False),
    sa.Column("content_hash", sa.LargeBinary, nullable=False),
    sa.Column("space", sa.String(128), nullable=False),
    sa.Column("vector", sa.LargeBinary, comment="float16; null until embedded"),
    sa.Column("signature", sa.BigInteger, comment="of a memory's first segment: like vectors have like signatures"),
    sa.Column("cluster_key", Key, sa.ForeignKey("clusters.cluster_key"), index=True),
    sa.Column("semantic", sa.Boolean, comment="held by the semantic tier; null until it has seen the segment"),
    sa.Column("uses", sa.Integer, nullable=False, default=0),
    sa.Column("last_use", Instant, nullable=False),
    sa.Column(
        "used_seq",
        sa.BigInteger,
        nullable=False,
        server_default="0",
        comment="the last seq of its log when it was last used; at first its own",
    ),
    sa.UniqueConstraint("item", "space", "ordinal"),
    sa.Index("ix_segments_session_key_seq", "session_key", "seq"),
    sa.Index("ix_segments_content", "tenant_id", "space", "content_hash"),
    few("ix_segments_pending", "session_key", "segment_key", where="vector IS NULL"),
    few("ix_segments_signed", "tenant_id", "segment_key", where="signature IS NOT NULL"),
    sqlite_autoincrement=True,
)

moves = sa.Table(
    "moves",
    metadata,
    key("move_key"),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), nullable=False),
    sa.Column("audience", sa.String(160), nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("target", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("pieces", sa.Integer, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("unit", sa.String(16), nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("parts", Json),
    sa.Column("cluster_key", Key),
    sa.Column("at", Instant, nullable=False, index=True),
    sa.Index("ix_moves_tenant_id_move_key", "tenant_id", "move_key"),
    sa.Index("ix_moves_session_key_move_key", "session_key", "move_key"),
    sqlite_autoincrement=True,
)

summaries = sa.Table(
    "summaries",
    metadata,
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True, comment="made of the shared log up to step * 4,096 tokens"),
    sa.Column("sentences", Json, nullable=False),
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("operation_id", Id, primary_key=True),
    sa.Column("tenant_id", Id, nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False, comment="session:<key> or memories: what it is about"),
    session_key(nullable=True),
    sa.Column("session_id", Id),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False, default=0),
    sa.Column("total", sa.BigInteger, nullable=False, default=0),
    sa.Column("unit", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("lease_until", Instant, comment="a worker is at it until then; the sweep takes it up again afterwards"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("error", sa.Text),
    sa.Column("result", Json),
    sa.Index(
        "uq_operations_unfinished",
        "tenant_id",
        "kind",
        "subject",
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    ),
)

codebooks = sa.Table(
    "codebooks",
    metadata,
    key("codebook_key"),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("space", sa.String(128), nullable=False),
    sa.Column("codec", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, comment="sealed; null: measured and not adopted"),
    sa.Column("recall", sa.Float, nullable=False, comment="of what was measured: see domain.codecs.Retention"),
    sa.Column("asked", sa.Integer, nullable=False),
    sa.Column("bytes_per_segment", sa.Float, nullable=False),
    sa.Column("trained_on", sa.BigInteger, nullable=False, comment="segments"),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("tenant_id", "space", "codec", "version"),
    sqlite_autoincrement=True,
)

codes = sa.Table(
    "codes",
    metadata,
    key("code_key"),
    sa.Column("tenant_id", Id, nullable=False, index=True),
    sa.Column("codebook_key", Key, sa.ForeignKey("codebooks.codebook_key"), nullable=False, index=True),
    sa.Column("session_key", Key, sa.ForeignKey("sessions.session_key"), nullable=False, index=True),
    sa.Column("audience", sa.String(160), nullable=False),
    sa.Column("code", sa.LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

coded_segments = sa.Table(
    "coded_segments",
    metadata,
    sa.Column("segment_key", Key, primary_key=True, autoincrement=False),
    sa.Column("code_key", Key, sa.ForeignKey("codes.code_key"), nullable=False, index=True),
)

turns = sa.Table(
    "turns",
    metadata,
    key("turn_key"),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("session_id", Id, nullable=False, comment="it may be yet to be made"),
    sa.Column("lease_until", Instant, nullable=False, comment="unless it is renewed, it lapses then"),
    sa.Index("ix_turns_queue", "tenant_id", "session_id", "turn_key"),
    sqlite_autoincrement=True,  # a key that was given out never comes again: it is the place in the queue
)

changes = sa.Table(
    "changes",
    metadata,
    key("number"),
    sa.Column("xid", sa.BigInteger, nullable=False, comment="the writing transaction; 0 on SQLite"),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    session_key(nullable=True),
    sa.Column("first_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("last_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("memory_key", Key),
    sa.Index("ix_changes_tenant_id_xid_number", "tenant_id", "xid", "number"),
    sa.Index("ix_changes_xid_number", "xid", "number"),
    sqlite_autoincrement=True,
)

audit = sa.Table(
    "audit",
    metadata,
    key("number"),
    sa.Column("tenant_id", Id, nullable=False),
    sa.Column("at", Instant, nullable=False, index=True),
    sa.Column("caller", sa.String(160), comment="a key_id, or whom a token names"),
    sa.Column("agent_id", Id),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("session_id", Id),
    sa.Column("subject", Id),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("request_id", Id),
    sa.Index("ix_audit_tenant_id_number", "tenant_id", "number"),
    sa.Index("ix_audit_tenant_id_session_id_number", "tenant_id", "session_id", "number"),
    sqlite_autoincrement=True,  # a trigger refuses changes of a row: see its migration
)

followers = sa.Table(
    "followers",
    metadata,
    sa.Column("node", Id, primary_key=True),
    sa.Column("xid", sa.BigInteger, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
)
