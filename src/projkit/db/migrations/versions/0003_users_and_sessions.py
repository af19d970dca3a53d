"""Create the tables of users, their OpenID Connect identities, sessions, single-use values and attempt counters."""

import sqlalchemy as sa
from alembic import op

from projkit.db.types import UtcDateTime, text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAMES = ("users", "identities", "sessions", "one_time_values", "counts")


def upgrade() -> None:
    prefix = op.get_context().opts["table_prefix"]
    users, identities, sessions, one_time_values, counts = (f"{prefix}{name}" for name in _NAMES)
    op.create_table(
        users,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("subject", text(), nullable=False),
        sa.Column("username", text()),
        sa.Column("username_key", text()),
        sa.Column("password_hash", sa.Text()),
        sa.Column("scopes", sa.Text(), nullable=False, server_default=""),
        sa.Column("disabled_at", UtcDateTime()),
        sa.Column("valid_after", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "subject", name=f"pk_{users}"),
    )
    op.create_index(f"uq_{users}_username", users, ["tenant_id", "username_key"], unique=True)
    op.create_table(
        identities,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("issuer", text(), nullable=False),
        sa.Column("issuer_subject", text(), nullable=False),
        sa.Column("subject", text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "issuer", "issuer_subject", name=f"pk_{identities}"),
    )
    op.create_table(
        sessions,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("id_hash", text(), nullable=False),
        sa.Column("seed", sa.Text(), nullable=False),
        sa.Column("subject", text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("transport", sa.Text(), nullable=False),
        sa.Column("user_agent", sa.Text(), nullable=False, server_default=""),
        sa.Column("address", sa.Text(), nullable=False, server_default=""),
        sa.Column("refresh_hash", sa.Text(), nullable=False),
        sa.Column("parent_hash", sa.Text()),
        sa.Column("generation", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("rotated_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("used_at", UtcDateTime(), nullable=False),
        sa.Column("idle_expires_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id_hash", name=f"pk_{sessions}"),
    )
    op.create_index(f"ix_{sessions}_subject", sessions, ["tenant_id", "subject"])
    op.create_index(f"ix_{sessions}_expires_at", sessions, ["expires_at"])
    op.create_table(
        one_time_values,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("value_hash", text(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "value_hash", name=f"pk_{one_time_values}"),
    )
    op.create_index(f"ix_{one_time_values}_expires_at", one_time_values, ["expires_at"])
    op.create_table(
        counts,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("name", text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=f"pk_{counts}"),
    )
    op.create_index(f"ix_{counts}_expires_at", counts, ["expires_at"])
