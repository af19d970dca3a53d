"""The statements on single projects, each compiled once. Those of lists are in :mod:`projkit.projects.listing`."""

from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from projkit.db.statement import Statement, bind, equals
from projkit.db.tables import Tables
from projkit.projects.schemas import PRIORITIES, STATUSES
from projkit.projects.scoping import owned


class ProjectRow(NamedTuple):
    """A project as its statements return it: ``priority`` is the rank, ``tags`` and ``metadata`` are JSON text."""

    id: UUID
    owner_id: str
    name: str
    description: str
    status: str
    priority: int
    tags: str
    start_date: date | None
    due_date: date | None
    metadata: str
    external_id: str | None
    archived_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int


_EDITABLE_COLUMNS: Final = (
    "name",
    "description",
    "search_text",
    "status",
    "priority",
    "tags",
    "start_date",
    "due_date",
    "metadata",
    "external_id",
    "completed_at",
    "updated_at",
)


def resource_columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns of :class:`ProjectRow`, in its order."""
    return [table.c[name] for name in ProjectRow._fields]


class ProjectStatements:
    """The statements for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        table = tables.projects
        columns = resource_columns(table)
        undeleted = sa.and_(owned(table), table.c.deleted_at.is_(None))
        this = sa.and_(undeleted, equals(table.c.id))
        at_version = equals(table.c.version, "expected_version")
        now = bind(table.c.updated_at)
        touched = {table.c.version: table.c.version + 1, table.c.updated_at: now}

        self.insert = Statement(
            sa.insert(table)
            .values({column: bind(column) for column in _insertable(table)})
            .returning(*columns)
        )
        self.get = Statement(sa.select(*columns).where(this))
        self._get_for_update = Statement(sa.select(*columns).where(this).with_for_update())
        # SQLite locks the whole file, and only for writers: a transaction that reads before it writes can fail.
        self._get_by_update = Statement(
            sa.update(table).where(this).values({table.c.version: table.c.version}).returning(*columns)
        )
        self.update = Statement(
            sa.update(table)
            .where(this, at_version, table.c.archived_at.is_(None))
            .values({**{table.c[name]: bind(table.c[name]) for name in _EDITABLE_COLUMNS}, **touched})
            .returning(*columns)
        )
        # For imports, which can contain archived projects, and do not use the returned row.
        self.insert_imported = Statement(
            sa.insert(table).values(
                {column: bind(column) for column in (*_insertable(table), table.c.archived_at)}
            )
        )
        self.update_imported = Statement(
            sa.update(table)
            .where(this, at_version, table.c.archived_at.is_(None))
            .values({**{table.c[name]: bind(table.c[name]) for name in _EDITABLE_COLUMNS}, **touched})
        )
        # For imports of projects that have been deleted here.
        self.restore_imported = Statement(
            sa.update(table)
            .where(owned(table), equals(table.c.id), at_version)
            .values(
                {
                    **{table.c[name]: bind(table.c[name]) for name in _EDITABLE_COLUMNS},
                    **touched,
                    table.c.deleted_at: None,
                    table.c.archived_at: None,
                }
            )
        )
        self.archive = Statement(
            sa.update(table)
            .where(this, at_version, table.c.archived_at.is_(None))
            .values({**touched, table.c.archived_at: now})
            .returning(*columns)
        )
        self.unarchive = Statement(
            sa.update(table)
            .where(this, at_version, table.c.archived_at.is_not(None))
            .values({**touched, table.c.archived_at: None})
            .returning(*columns)
        )
        self.delete = Statement(
            sa.update(table)
            .where(this, at_version)
            .values({**touched, table.c.deleted_at: now})
            .returning(table.c.id)
        )
        self.get_deleted = Statement(
            sa.select(*columns).where(owned(table), equals(table.c.id), table.c.deleted_at.is_not(None))
        )
        self.restore = Statement(
            sa.update(table)
            .where(owned(table), equals(table.c.id), table.c.deleted_at.is_not(None), at_version)
            .values({**touched, table.c.deleted_at: None})
            .returning(*columns)
        )
        self.stats = Statement(_stats(table, undeleted))

    def get_locked(self, dialect: str) -> Statement:
        """Return the statement that reads a project and locks its row until the end of the transaction."""
        return self._get_for_update if dialect == "postgresql" else self._get_by_update


class IdempotencyStatements:
    """The statements on idempotency keys for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        table = tables.idempotency_keys
        this = sa.and_(owned(table), equals(table.c.key))
        self.lock = Statement(
            sa.select(sa.func.pg_try_advisory_xact_lock(sa.bindparam("lock", type_=sa.BigInteger())))
        )
        self.get = Statement(
            sa.select(
                table.c.fingerprint, table.c.project_id, table.c.etag, table.c.body, table.c.created_at
            ).where(this)
        )
        self.delete = Statement(sa.delete(table).where(this))
        self.insert = Statement(sa.insert(table).values({column: bind(column) for column in table.c}))


def _insertable(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name not in {"deleted_at", "archived_at", "version"}]


def constant(value: str | int) -> sa.ColumnElement[Any]:
    """Return a constant that is part of the SQL text instead of a parameter; not for what clients can choose freely."""
    return sa.literal_column(f"'{value}'" if isinstance(value, str) else str(value))


def _stats(table: sa.Table, undeleted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    today = bind(table.c.due_date, "today")
    in_a_week = bind(table.c.due_date, "in_a_week")
    a_month_ago = bind(table.c.created_at, "a_month_ago")
    # Each half has indexes of its own, which have all these columns, and so are read instead of the table.
    halves = [(table.c.archived_at.is_(None), constant(0)), (table.c.archived_at.is_not(None), constant(1))]
    names = ("status", "priority", "due_date", "completed_at", "created_at")
    columns = [table.c[name] for name in names]
    each = sa.union_all(
        *(sa.select(*columns, flag.label("archived")).where(undeleted, half) for half, flag in halves)
    ).subquery("each")
    latest = sa.union_all(
        *(
            sa.select(
                sa.func.max(table.c.updated_at, type_=table.c.updated_at.type).label("updated_at")
            ).where(undeleted, half)
            for half, _ in halves
        )
    ).subquery("latest")
    status, due_date = each.c.status, each.c.due_date
    open_ = sa.and_(
        status.not_in([constant("completed"), constant("cancelled")]), each.c.archived == constant(0)
    )

    def counted(label: str, *conditions: sa.ColumnElement[bool]) -> sa.Label[int]:
        return sa.func.count().filter(*conditions).label(label)

    counts: list[sa.ColumnElement[Any]] = [
        sa.func.count().label("total"),
        counted("archived", each.c.archived == constant(1)),
        *(counted(f"status_{name}", status == constant(name)) for name in STATUSES),
        *(counted(f"priority_{rank}", each.c.priority == constant(rank)) for rank in range(len(PRIORITIES))),
        counted("overdue", open_, due_date < today),
        counted("due_within_7_days", open_, due_date.between(today, in_a_week)),
        counted("created_last_30_days", each.c.created_at >= a_month_ago),
        counted("completed_last_30_days", each.c.completed_at >= a_month_ago),
        sa.select(sa.func.max(latest.c.updated_at, type_=table.c.updated_at.type))
        .scalar_subquery()
        .label("updated_at_latest"),
    ]
    return sa.select(*counts).select_from(each)


@lru_cache(maxsize=32)
def project_statements(tables: Tables) -> ProjectStatements:
    """Return the statements for ``tables``, with their compiled forms; the same object on each call."""
    return ProjectStatements(tables)


@lru_cache(maxsize=32)
def idempotency_statements(tables: Tables) -> IdempotencyStatements:
    """Return the statements for ``tables``, with their compiled forms; the same object on each call."""
    return IdempotencyStatements(tables)
