"""Create the table of idempotency keys."""

import sqlalchemy as sa
from alembic import op

from projkit.db.types import UtcDateTime, text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    prefix = op.get_context().opts["table_prefix"]
    table = f"{prefix}idempotency_keys"
    op.create_table(
        table,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("owner_id", text(), nullable=False),
        sa.Column("key", text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "owner_id", "key", name=f"pk_{prefix}idempotency_keys"),
    )
    op.create_index(f"ix_{prefix}idempotency_keys_created_at", table, ["created_at"])
