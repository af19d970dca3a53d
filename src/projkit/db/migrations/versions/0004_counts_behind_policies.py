"""Include the column that row-level security reads in the index from which lists are counted."""

from projkit.db.migrations.steps import CreateIndex, Step, replace_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def steps(prefix: str) -> list[Step]:
    table = f"{prefix}projects"
    return replace_index(
        CreateIndex(
            f"ix_{table}_created_at",
            table,
            ("tenant_id", "owner_id", "created_at", "id"),
            where="deleted_at IS NULL",
            include=("archived_at", "deleted_at"),
            dialect="postgresql",  # SQLite has no indexes with INCLUDE
        )
    )
