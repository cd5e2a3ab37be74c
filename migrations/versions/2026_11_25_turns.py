"""turns: the queue of each session, in all processes"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "turns",
        sa.Column("turn_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("session_id", sa.String(length=128), nullable=False, comment="it may be yet to be made"),
        sa.Column("lease_until", sa.BigInteger(), nullable=False, comment="unless it is renewed, it lapses then"),
        sa.PrimaryKeyConstraint("turn_key", name=op.f("pk_turns")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_turns_queue", "turns", ["tenant_id", "session_id", "turn_key"])


def downgrade() -> None:
    op.drop_index("ix_turns_queue", "turns")
    op.drop_table("turns")
