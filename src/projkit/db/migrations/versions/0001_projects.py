"""Create the table of projects."""

import sqlalchemy as sa
from alembic import op

from projkit.db.types import JsonText, UtcDateTime, text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    prefix = op.get_context().opts["table_prefix"]
    table = f"{prefix}projects"
    op.create_table(
        table,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", text(), nullable=False),
        sa.Column("created_by", text(), nullable=False),
        sa.Column("name", text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=""),
        sa.Column("search_text", text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("tags", JsonText(binary=True), nullable=False, server_default="[]"),
        sa.Column("start_date", sa.Date()),
        sa.Column("due_date", sa.Date()),
        sa.Column("metadata", JsonText(), nullable=False, server_default="{}"),
        sa.Column("external_id", text()),
        sa.Column("archived_at", UtcDateTime()),
        sa.Column("completed_at", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime()),
        sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=f"pk_{prefix}projects"),
        sa.CheckConstraint("priority BETWEEN 0 AND 3", name=f"ck_{prefix}projects_priority"),
        sa.CheckConstraint(
            "status IN ('planning', 'active', 'on_hold', 'completed', 'cancelled')",
            name=f"ck_{prefix}projects_status",
        ),
    )
    undeleted = sa.text("deleted_at IS NULL")
    for column in ("created_at", "updated_at", "name", "due_date", "priority"):
        op.create_index(
            f"ix_{prefix}projects_{column}",
            table,
            ["tenant_id", "owner_id", column, "id"],
            postgresql_where=undeleted,
            sqlite_where=undeleted,
            postgresql_include=["archived_at"] if column == "created_at" else [],
        )
    named = sa.text("deleted_at IS NULL AND external_id IS NOT NULL")
    op.create_index(
        f"uq_{prefix}projects_external_id",
        table,
        ["tenant_id", "owner_id", "external_id"],
        unique=True,
        postgresql_where=named,
        sqlite_where=named,
    )
    deleted = sa.text("deleted_at IS NOT NULL")
    op.create_index(
        f"ix_{prefix}projects_deleted_at",
        table,
        ["deleted_at"],
        postgresql_where=deleted,
        sqlite_where=deleted,
    )
