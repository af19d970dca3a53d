"""The index that the plain list is counted from holds what the policies of row-level security read as well."""

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _index_again(["archived_at", "deleted_at"])


def downgrade() -> None:
    _index_again(["archived_at"])


def _index_again(included: list[str]) -> None:
    if op.get_bind().dialect.name != "postgresql":  # no other index includes columns
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
