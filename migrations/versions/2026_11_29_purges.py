"""purges: tenants that are going, private events by agent, and receipts that stay"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_REFUSAL = "a receipt is never changed"
_PRIVATE = "visibility = 'private'"


def upgrade() -> None:
    op.add_column(
        "tenants",
        sa.Column(
            "purging",
            sa.String(length=128),
            comment="the operation that takes it away: until it is done nobody comes in",
        ),
    )
    op.create_index(
        "ix_events_private",
        "events",
        ["agent_id", "session_key"],
        sqlite_where=sa.text(_PRIVATE),
        postgresql_where=sa.text(_PRIVATE),
    )
    op.create_table(
        "receipts",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False, comment="its place in the chain"),
        sa.Column("receipt_id", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False, comment="it may be gone"),
        sa.Column("statement", sa.Text(), nullable=False, comment="JSON, as it was signed"),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_receipts")),
        sa.UniqueConstraint("receipt_id", name=op.f("uq_receipts_receipt_id")),
    )
    op.create_index(op.f("ix_receipts_tenant_id_number"), "receipts", ["tenant_id", "number"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_receipt_change() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER receipts_append_only BEFORE UPDATE OR DELETE ON receipts"
            " FOR EACH ROW EXECUTE FUNCTION refuse_receipt_change()"
        )
    else:
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER receipts_no_{event.lower()} BEFORE {event} ON receipts"
                f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            )


def downgrade() -> None:
    op.drop_table("receipts")  # its triggers go with it
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_receipt_change()")
    op.drop_index("ix_events_private", "events")
    op.drop_column("tenants", "purging")
