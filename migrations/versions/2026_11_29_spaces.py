"""spaces: in which vector space a tenant is served, and how the model of a space is loaded"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "spaces",
        sa.Column("space", sa.String(length=128), nullable=False),
        sa.Column("embedder", sa.Text(), nullable=False, comment="as STRATAMEM_EMBEDDER names it"),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", name=op.f("pk_spaces")),
    )
    op.add_column(
        "tenants",
        sa.Column("space", sa.String(length=128), comment="that it is served in; null until something was embedded"),
    )
    op.execute(
        "UPDATE tenants SET space = (SELECT segments.space FROM segments"
        " WHERE segments.tenant_id = tenants.tenant_id GROUP BY segments.space ORDER BY count(*) DESC LIMIT 1)"
    )


def downgrade() -> None:
    op.drop_column("tenants", "space")
    op.drop_table("spaces")
