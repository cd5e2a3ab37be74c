"""forks: what a session shares with others"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    stored = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
    for column in (
        sa.Column("parent_key", key, comment="the session it was forked from"),
        sa.Column("family_key", key, comment="the first session of all that were forked from each other"),
        sa.Column(
            "inherited",
            sa.JSON(none_as_null=True).with_variant(stored, "postgresql"),
            comment="stretches of other logs: [session_key, first, last seq, memory, tokens]",
        ),
        sa.Column("inherited_events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("inherited_tokens", sa.BigInteger(), server_default="0", nullable=False),
    ):
        op.add_column("sessions", column)
    op.create_index(op.f("ix_sessions_family_key"), "sessions", ["family_key"])
    op.add_column(
        "memories",
        sa.Column("session_seq", sa.BigInteger(), server_default="0", nullable=False, comment="the last seq by then"),
    )


def downgrade() -> None:
    """Forks lose what they share: it stays with the session that they were forked from."""
    op.drop_column("memories", "session_seq")
    op.drop_index(op.f("ix_sessions_family_key"), "sessions")
    for name in ("inherited_tokens", "inherited_events", "inherited", "family_key", "parent_key"):
        op.drop_column("sessions", name)
