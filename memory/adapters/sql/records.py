"""Which rows say what was done? They are added, and never changed: a trigger refuses it (see their migrations)."""

import sqlalchemy as sa

from memory.adapters.sql.columns import Id, Instant, key, metadata

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
    sqlite_autoincrement=True,
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False, comment="its place in the chain"),
    sa.Column("receipt_id", Id, nullable=False, unique=True),
    sa.Column("tenant_id", Id, nullable=False, comment="it may be gone"),
    sa.Column("statement", sa.Text, nullable=False, comment="JSON, as it was signed"),
    sa.Column("signature", sa.String(128), nullable=False),
    sa.Column("public_key", sa.String(64), nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Index("ix_receipts_tenant_id_number", "tenant_id", "number"),
)
