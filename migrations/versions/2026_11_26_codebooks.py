"""codebooks and codes: vectors of cold segments in few bytes"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "codebooks",
        sa.Column("codebook_key", _KEY, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("space", sa.String(length=128), nullable=False),
        sa.Column("codec", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True, comment="sealed; null: measured and not adopted"),
        sa.Column("recall", sa.Float(), nullable=False, comment="of what was measured: see domain.codecs.Retention"),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("bytes_per_segment", sa.Float(), nullable=False),
        sa.Column("trained_on", sa.BigInteger(), nullable=False, comment="segments"),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("codebook_key", name=op.f("pk_codebooks")),
        sa.UniqueConstraint(
            "tenant_id", "space", "codec", "version", name=op.f("uq_codebooks_tenant_id_space_codec_version")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "codes",
        sa.Column("code_key", _KEY, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("codebook_key", _KEY, nullable=False),
        sa.Column("session_key", _KEY, nullable=False),
        sa.Column("audience", sa.String(length=160), nullable=False),
        sa.Column("code", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["codebook_key"], ["codebooks.codebook_key"], name=op.f("fk_codes_codebook_key")),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.session_key"], name=op.f("fk_codes_session_key")),
        sa.PrimaryKeyConstraint("code_key", name=op.f("pk_codes")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_codes_tenant_id"), "codes", ["tenant_id"])
    op.create_index(op.f("ix_codes_codebook_key"), "codes", ["codebook_key"])
    op.create_index(op.f("ix_codes_session_key"), "codes", ["session_key"])
    op.create_table(
        "coded_segments",
        sa.Column("segment_key", _KEY, autoincrement=False, nullable=False),
        sa.Column("code_key", _KEY, nullable=False),
        sa.ForeignKeyConstraint(["code_key"], ["codes.code_key"], name=op.f("fk_coded_segments_code_key")),
        sa.PrimaryKeyConstraint("segment_key", name=op.f("pk_coded_segments")),
    )
    op.create_index(op.f("ix_coded_segments_code_key"), "coded_segments", ["code_key"])


def downgrade() -> None:
    op.drop_table("coded_segments")
    op.drop_table("codes")
    op.drop_table("codebooks")
