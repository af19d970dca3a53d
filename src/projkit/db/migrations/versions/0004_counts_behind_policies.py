"""Include the column that row-level security reads in the index from which lists are counted."""

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _recreate_index(["archived_at", "deleted_at"])


def downgrade() -> None:
    _recreate_index(["archived_at"])


def _recreate_index(included: list[str]) -> None:
    if op.get_bind().dialect.name != "postgresql":  # only PostgreSQL has indexes with INCLUDE
        return
    table = f"{context.config.attributes['table_prefix']}projects"
    name = f"ix_{table}_created_at"
    op.drop_index(name, table_name=table)
    op.create_index(
        name,
        table,
        ["tenant_id", "owner_id", "created_at", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
        postgresql_include=included,
    )
