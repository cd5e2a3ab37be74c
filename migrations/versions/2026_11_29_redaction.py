"""redaction: events that keep their place in the log without their content"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("events", sa.Column("redacted", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column(
        "sessions",
        sa.Column("redactions", sa.Integer(), server_default="0", nullable=False, comment="of its own events, so far"),
    )


def downgrade() -> None:
    op.drop_column("sessions", "redactions")
    op.drop_column("events", "redacted")
