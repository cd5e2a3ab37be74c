"""agents: who takes part in a session, and sessions that are closed to all others"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "sessions",
        sa.Column("closed", sa.Boolean(), server_default=sa.false(), nullable=False, comment="to all but its agents"),
    )
    op.create_index(
        "ix_sessions_closed",
        "sessions",
        ["tenant_id"],
        sqlite_where=sa.text("closed"),
        postgresql_where=sa.text("closed"),
    )
    op.create_table(
        "session_agents",
        sa.Column("session_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("agent_id", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_session_agents_session_key")),
        sa.PrimaryKeyConstraint("session_key", "agent_id", name=op.f("pk_session_agents")),
    )


def downgrade() -> None:
    closed = op.get_bind().execute(sa.text("SELECT COUNT(*) FROM sessions WHERE closed")).scalar_one()
    if closed:
        raise RuntimeError(f"{closed} sessions are closed to all but their agents, which the version before can't do")
    op.drop_table("session_agents")
    op.drop_index("ix_sessions_closed", "sessions")
    op.drop_column("sessions", "closed")
