"""moves: what left which tier, and how far the log was when a segment was last used"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    stored = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
    op.create_table(
        "moves",
        sa.Column("move_key", key, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("session_key", key, nullable=False),
        sa.Column("audience", sa.String(length=160), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("target", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("pieces", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double()),
        sa.Column("parts", sa.JSON(none_as_null=True).with_variant(stored, "postgresql")),
        sa.Column("cluster_key", key),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_moves_session_key_sessions")),
        sa.PrimaryKeyConstraint("move_key", name=op.f("pk_moves")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_moves_tenant_id_move_key", "moves", ["tenant_id", "move_key"])
    op.create_index("ix_moves_session_key_move_key", "moves", ["session_key", "move_key"])
    op.create_index(op.f("ix_moves_at"), "moves", ["at"])
    op.add_column(
        "segments",
        sa.Column(
            "used_seq",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="the last seq of its log when it was last used; at first its own",
        ),
    )
    op.execute("UPDATE segments SET used_seq = seq")
    op.add_column(
        "sessions",
        sa.Column(
            "slid_tokens",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="up to there on the token axis it is written down that the window has moved on",
        ),
    )


def downgrade() -> None:
    op.drop_column("sessions", "slid_tokens")
    op.drop_column("segments", "used_seq")
    for name in ("ix_moves_at", "ix_moves_session_key_move_key", "ix_moves_tenant_id_move_key"):
        op.drop_index(name, "moves")
    op.drop_table("moves")
