"""keys: names, expiry, revocation, last use"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("name", sa.String(length=256)))
    op.add_column("keys", sa.Column("expires_at", sa.BigInteger()))
    op.add_column("keys", sa.Column("revoked_at", sa.BigInteger()))
    op.add_column(
        "keys", sa.Column("last_used_at", sa.BigInteger(), comment="true to the minute: a use costs no write")
    )


def downgrade() -> None:
    """A version that knows no revocation must not let in again who was shut out."""
    op.execute("DELETE FROM keys WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL")
    for name in ("last_used_at", "revoked_at", "expires_at", "name"):
        op.drop_column("keys", name)
