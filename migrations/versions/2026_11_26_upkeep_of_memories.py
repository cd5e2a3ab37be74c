"""upkeep of memories: what took whose place, what repeats what, and what is looked up for it"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDEXES = (
    ("ix_memories_unsegmented", "memories", ["tenant_id", "memory_key"], "segmented_version < version"),
    ("ix_memories_uncompared", "memories", ["tenant_id", "memory_key"], "NOT compared"),
    ("ix_memories_superseded_by", "memories", ["tenant_id", "superseded_by"], "superseded_by IS NOT NULL"),
    (
        "ix_memories_near_duplicate_of",
        "memories",
        ["tenant_id", "near_duplicate_of"],
        "near_duplicate_of IS NOT NULL",
    ),
    ("ix_memories_changed", "memories", ["tenant_id", "updated_at"], "version > 1 OR valid_from IS NOT NULL"),
    ("ix_memories_expires_at", "memories", ["expires_at"], "expires_at IS NOT NULL"),
    ("ix_segments_signed", "segments", ["tenant_id", "segment_key"], "signature IS NOT NULL"),
)


def upgrade() -> None:
    op.add_column(
        "memories",
        sa.Column("superseded_by", sa.String(length=128), comment="the memory_id of what took its place"),
    )
    op.add_column("memories", sa.Column("supersedes", sa.String(length=128)))
    op.add_column(
        "memories",
        sa.Column(
            "near_duplicate_of",
            sa.String(length=128),
            comment="the memory_id of one that says the same in slightly other words",
        ),
    )
    op.add_column(
        "memories",
        sa.Column(
            "compared",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="with others of its scope",
        ),
    )
    op.add_column("memory_versions", sa.Column("superseded_by", sa.String(length=128)))
    op.add_column("memory_versions", sa.Column("reason", sa.Text()))
    op.add_column(
        "segments",
        sa.Column(
            "signature", sa.BigInteger(), comment="of a memory's first segment: like vectors have like signatures"
        ),
    )
    for name, table, indexed, where in _INDEXES:
        op.create_index(name, table, indexed, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """What was superseded stays ended; by what, and what repeated what, is no longer known."""
    for name, table, _, where in reversed(_INDEXES):
        op.drop_index(name, table, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.drop_column("segments", "signature")
    for name in ("reason", "superseded_by"):
        op.drop_column("memory_versions", name)
    for name in ("compared", "near_duplicate_of", "supersedes", "superseded_by"):
        op.drop_column("memories", name)
