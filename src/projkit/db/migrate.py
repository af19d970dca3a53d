"""Migrations of the schema, while it is in use.

On PostgreSQL, one migration runs at a time (:mod:`projkit.db.migration_lock`), step by step
(:mod:`projkit.db.step_runner`). Which steps are done is recorded in the table of the revision.

SQLite has one writer, and a database that has no tables yet has no requests: they are migrated in one transaction.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from projkit.db import migration_lock, revisions, row_security, schema
from projkit.db.engine import create_single_use_engine
from projkit.db.migrations.modules import required_by, steps_of
from projkit.db.migrations.progress import NoProgress, Progress
from projkit.db.raw_sql import RawConnection
from projkit.db.server_version import require_server
from projkit.db.step_runner import (
    CONNECT_SECONDS,
    LOCKED_SECONDS,
    Recorded,
    StepRunner,
    applies,
    recorded,
    run_offline,
)
from projkit.db.table_names import TableNames, quote
from projkit.db.tables import build_tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


async def upgrade(
    url: str,
    *,
    table_prefix: str = "projkit_",
    database_schema: str = "",
    revision: str = "head",
    row_level_security: bool = False,
    new: bool = False,
    progress: Progress | None = None,
) -> str:
    """Upgrade the schema at ``url`` to ``revision`` and return the revision; several processes may do so at once.

    A ``database_schema`` is created if it does not exist. At the newest revision, the policies of row-level security
    are created or dropped.

    Raises:
        SchemaOutOfDateError: a newer version of projkit has migrated this database; or it has no tables yet, but
            another schema has, and they are not to be ``new``.
        ConfigurationError: the role lacks a privilege, or other tables have the names of the kit's.
        MigrationFailedError: a step could not get its locks, or has been cancelled by a time limit of the server.
    """
    names = TableNames(table_prefix, database_schema)
    names.require_dialect("sqlite" if url.startswith("sqlite") else "postgresql")
    target = revisions.head() if revision == "head" else revision
    async with single_use(url) as engine:
        progress = progress or NoProgress()
        migration = _Migration(url, engine, names, progress)
        if engine.dialect.name == "sqlite":
            async with engine.begin() as connection:
                return await migration.upgrade_offline(connection, target, new=new)
        return await migration_lock.run_alone(
            url,
            partial(migration.upgrade_online, target, row_level_security=row_level_security, new=new),
            connect_seconds=CONNECT_SECONDS,
            progress=progress,
        )


class _Migration:
    """A migration of the tables with these names."""

    def __init__(self, url: str, engine: "AsyncEngine", names: TableNames, progress: Progress) -> None:
        self._engine = engine
        self._names = names
        self._version_table = names.qualified(names.version_table)
        self._steps = StepRunner(url, engine, names, progress)

    async def upgrade_offline(self, connection: "AsyncConnection", target: str, *, new: bool) -> str:
        """Run all steps in the transaction of ``connection``."""
        current = await self._prepare(connection, new=new)
        await self._run_all(connection, current, target)
        return max(current or "", target)

    async def _run_all(self, connection: "AsyncConnection", current: str | None, target: str) -> None:
        for revision in _pending(current, target):
            for step in steps_of(revision, self._names.prefix):
                if await applies(step, RawConnection.of_engine(connection)):
                    await run_offline(step, connection, self._names)
            await self._replace_revision(connection, revision)

    async def _replace_revision(self, connection: "AsyncConnection", revision: str) -> None:
        table, values = self._version_table, {"version_num": revision}
        # SQLite's table keeps the one column that Alembic created.
        if connection.dialect.name == "postgresql":
            values = {"version_num": required_by(revision), "revision": revision}
        columns, quoted = ", ".join(values), ", ".join(f"'{value}'" for value in values.values())
        await connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608  # names are validated
        await connection.exec_driver_sql(f"INSERT INTO {table} ({columns}) VALUES ({quoted})")  # noqa: S608

    async def upgrade_online(self, target: str, *, row_level_security: bool, new: bool) -> str:
        """Run the steps one by one, or in one transaction if there are no tables yet."""
        async with self._engine.begin() as connection:
            current = await self._prepare(connection, new=new)
            if current is None:
                await self._run_all(connection, current, target)
        if current is not None and (pending := _pending(current, target)):
            await self._steps.in_short_transaction("prepare the migration", self._add_columns)
            for revision in pending:
                await self._run_revision(revision)
        if target == revisions.head() and (current or "") <= target:
            apply = partial(row_security.apply, names=self._names, enabled=row_level_security)
            tables = row_security.tables(self._names)
            await self._steps.in_short_transaction(
                "row-level security", apply, seconds=LOCKED_SECONDS, tables=tables
            )
        return max(current or "", target)

    async def _prepare(self, connection: "AsyncConnection", *, new: bool) -> str | None:
        """Check the database, create the schema and the table of the revision, and return the revision."""
        raw, names = RawConnection.of_engine(connection), self._names
        await require_server(raw)
        if names.schema:
            await schema.prepare(connection, names)
        found = await revisions.current(raw, names)
        current = None if found is None else found.revision
        if found is None:
            await _require_room(raw, names, new=new)
        elif found.required > revisions.head():
            revisions.require_supported(found)
        if raw.dialect == "postgresql" and (current or "") < revisions.head():
            await schema.require_create(raw, names)
        if current is None:
            await connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {self._version_table} (version_num VARCHAR(32) NOT NULL "
                f"CONSTRAINT {quote(names.version_table + '_pkc')} PRIMARY KEY)"
            )
            if raw.dialect == "postgresql":
                await self._add_columns(connection)
        return current

    async def _run_revision(self, revision: str) -> None:
        steps = steps_of(revision, self._names.prefix)
        async with self._engine.begin() as connection:
            done = await recorded(RawConnection.of_engine(connection), self._names, revision)
        for number in range(done.steps, len(steps)):
            record = partial(self._record, revision, number + 1, last=number + 1 == len(steps))
            await self._steps.run(steps[number], done, record)
            done = Recorded(revision, number + 1)

    async def _add_columns(self, connection: "AsyncConnection") -> None:
        await connection.exec_driver_sql(
            f"ALTER TABLE {self._version_table} ADD COLUMN IF NOT EXISTS revision text, "
            "ADD COLUMN IF NOT EXISTS progress text"
        )

    async def _record(self, revision: str, steps: int, connection: "AsyncConnection", *, last: bool) -> None:
        """Record that a step is done, in the step's own transaction if it has one."""
        if last:
            await self._replace_revision(connection, revision)
            return
        progress = json.dumps({"revision": revision, "steps": steps})
        await connection.exec_driver_sql(f"UPDATE {self._version_table} SET progress = '{progress}'")  # noqa: S608


def _pending(current: str | None, target: str) -> list[str]:
    return [each for each in revisions.known() if (current or "") < each <= target]


async def _require_room(connection: RawConnection, names: TableNames, *, new: bool) -> None:
    """Check that the first migration creates no second set of tables by mistake, and finds no others in its place."""
    if not new:
        await schema.require_no_other(connection, names)
    relations = []
    for table in build_tables(names.prefix).metadata.tables.values():
        relations += [table.name, str(table.primary_key.name), *(str(index.name) for index in table.indexes)]
    await schema.require_unused_names(connection, names, relations)


@asynccontextmanager
async def single_use(url: str, connect_seconds: float = CONNECT_SECONDS) -> AsyncIterator["AsyncEngine"]:
    """Create an engine that keeps no connections, and close it afterwards."""
    engine = create_single_use_engine(url, connect_seconds=connect_seconds)
    if engine.dialect.name == "sqlite":
        # The driver would commit before each CREATE TABLE. An explicit transaction also locks out other migrations.
        @sa.event.listens_for(engine.sync_engine, "connect")
        def disable_implicit_transactions(connection: Any, _record: object) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        yield engine
    finally:
        await engine.dispose()
