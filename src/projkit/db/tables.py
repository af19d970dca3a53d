"""The tables, as SQLAlchemy Core objects for statements and migrations.

``tenant_id`` comes first in every key and index, so that partitioning by it later needs no rewrite.
"""

from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from projkit.db.types import IsoDate, JsonText, UtcDateTime, text
from projkit.settings import TableSettings


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The tables with one prefix in one schema; kits that differ in either can share a database."""

    prefix: str
    metadata: sa.MetaData
    projects: sa.Table
    idempotency_keys: sa.Table
    users: sa.Table
    identities: sa.Table
    sessions: sa.Table
    one_time_values: sa.Table
    counts: sa.Table

    @property
    def external_id_constraint(self) -> str:
        """Name of the index that makes ``external_id`` unique among an owner's undeleted projects."""
        return f"uq_{self.prefix}projects_external_id"


def tables_of(settings: TableSettings) -> Tables:
    """Return the tables with the prefix and in the schema of the settings."""
    return build_tables(settings.table_prefix, settings.database_schema)


@lru_cache(maxsize=32)
def build_tables(prefix: str, schema: str = "") -> Tables:
    """Return the tables with this prefix, in this schema if it is not empty; the same objects on each call."""
    metadata = sa.MetaData(schema=sa.quoted_name(schema, quote=True) if schema else None)
    projects = sa.Table(
        f"{prefix}projects",
        metadata,
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
        sa.Column("start_date", IsoDate()),
        sa.Column("due_date", IsoDate()),
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
    undeleted = projects.c.deleted_at.is_(None)
    for archived in (False, True):
        _list_indexes(prefix, projects, archived=archived)
    # Of all owners: with the owner in the index, it would need the extension btree_gin.
    sa.Index(
        f"ix_{prefix}projects_tags",
        projects.c.tags,
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},  # each search would read all that has been inserted lately
        postgresql_where=undeleted,
    ).ddl_if(dialect="postgresql")
    # For release 0.1, whose statements do not choose between archived projects and the others.
    sa.Index(
        f"ix_{prefix}projects_owner",
        projects.c.tenant_id,
        projects.c.owner_id,
        postgresql_where=undeleted,
        sqlite_where=undeleted,
    )
    named = sa.and_(undeleted, projects.c.external_id.is_not(None))
    sa.Index(
        f"uq_{prefix}projects_external_id",
        projects.c.tenant_id,
        projects.c.owner_id,
        projects.c.external_id,
        unique=True,
        postgresql_where=named,
        sqlite_where=named,
    )
    deleted = projects.c.deleted_at.is_not(None)
    sa.Index(
        f"ix_{prefix}projects_deleted_at",
        projects.c.deleted_at,
        postgresql_where=deleted,
        sqlite_where=deleted,
    )
    idempotency_keys = sa.Table(
        f"{prefix}idempotency_keys",
        metadata,
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
    sa.Index(f"ix_{prefix}idempotency_keys_created_at", idempotency_keys.c.created_at)
    return Tables(prefix, metadata, projects, idempotency_keys, **_auth_tables(prefix, metadata))


def _list_indexes(prefix: str, projects: sa.Table, *, archived: bool) -> None:
    """Add the indexes of lists, one for each sort order, of either the archived projects or the others.

    Each page starts at its place in an index. The columns after the id do not change the order: rows that a filter
    excludes are skipped in the index, without reading the table.
    """
    columns = projects.c
    state = columns.archived_at.is_not(None) if archived else columns.archived_at.is_(None)
    condition = sa.and_(columns.deleted_at.is_(None), state)
    name = f"ix_{prefix}projects_archived" if archived else f"ix_{prefix}projects_unarchived"
    for key in ("created_at", "updated_at", "name", "due_date", "priority"):
        filters = [columns[each] for each in ("status", "priority", "due_date") if each != key]
        sa.Index(
            f"{name}_{key}",
            columns.tenant_id,
            columns.owner_id,
            columns[key],
            columns.id,
            *filters,
            postgresql_where=condition,
            sqlite_where=condition,
            # So that the index alone is read for counts and for the summary, also with row-level security.
            postgresql_include=["completed_at", "archived_at", "deleted_at"] if key == "created_at" else [],
        )
    if not archived:
        sa.Index(
            f"{name}_status",
            columns.tenant_id,
            columns.owner_id,
            columns.status,
            columns.created_at,
            columns.id,
            postgresql_where=condition,
            sqlite_where=condition,
        )


def _auth_tables(prefix: str, metadata: sa.MetaData) -> dict[str, sa.Table]:
    # A row for each user with a password, an OpenID Connect identity, or revoked tokens. Names and passwords are
    # optional.
    users = sa.Table(
        f"{prefix}users",
        metadata,
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
        sa.PrimaryKeyConstraint("tenant_id", "subject", name=f"pk_{prefix}users"),
    )
    sa.Index(f"uq_{prefix}users_username", users.c.tenant_id, users.c.username_key, unique=True)
    identities = sa.Table(
        f"{prefix}identities",
        metadata,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("issuer", text(), nullable=False),
        sa.Column("issuer_subject", text(), nullable=False),
        sa.Column("subject", text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "issuer", "issuer_subject", name=f"pk_{prefix}identities"),
    )
    sessions = sa.Table(
        f"{prefix}sessions",
        metadata,
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
        sa.PrimaryKeyConstraint("tenant_id", "id_hash", name=f"pk_{prefix}sessions"),
    )
    sa.Index(
        f"ix_{prefix}sessions_subject_created_at",
        sessions.c.tenant_id,
        sessions.c.subject,
        sessions.c.created_at,
    )
    sa.Index(f"ix_{prefix}sessions_expires_at", sessions.c.expires_at)  # of the previous release
    sa.Index(f"ix_{prefix}sessions_idle_expires_at", sessions.c.idle_expires_at)
    one_time_values = sa.Table(
        f"{prefix}one_time_values",
        metadata,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("value_hash", text(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "value_hash", name=f"pk_{prefix}one_time_values"),
    )
    sa.Index(f"ix_{prefix}one_time_values_expires_at", one_time_values.c.expires_at)
    counts = sa.Table(
        f"{prefix}counts",
        metadata,
        sa.Column("tenant_id", text(), nullable=False, server_default=""),
        sa.Column("name", text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=f"pk_{prefix}counts"),
    )
    sa.Index(f"ix_{prefix}counts_expires_at", counts.c.expires_at)
    return {
        "counts": counts,
        "users": users,
        "identities": identities,
        "sessions": sessions,
        "one_time_values": one_time_values,
    }
