"""Migrations of the schema, while it is in use.

On PostgreSQL, one migration runs at a time (:mod:`projkit.db.migration_lock`), step by step. A step either runs in a
transaction, whose locks exist for less than a second; or it takes locks that block neither reads nor writes, and may
take hours. Whoever waits for a lock makes all later requests of the table wait as well, so a step gives up after
:data:`LOCK_MILLISECONDS` and tries again later. Which steps are done is recorded in the table of the revision.

SQLite has one writer, and a database that has no tables yet has no requests: they are migrated in one transaction.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.resources import files
from itertools import count
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from projkit.db import migration_lock, revisions, row_security, schema
from projkit.db.engine import create_single_use_engine
from projkit.db.errors import DRIVER_ERRORS, sqlstate
from projkit.db.migrations.progress import NoProgress, Progress
from projkit.db.migrations.steps import (
    Backfill,
    CreateIndex,
    DropIndex,
    Step,
    Transaction,
    ValidateConstraint,
)
from projkit.db.port import T, required_row
from projkit.db.postgresql_connector import PostgresqlConnector
from projkit.db.raw_sql import RawConnection
from projkit.db.scoped import MIGRATION_SETTING
from projkit.db.server_version import require_server
from projkit.db.table_names import TableNames, quote
from projkit.db.tables import build_tables
from projkit.errors import MigrationFailedError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

CONNECT_SECONDS: Final = 10.0
# How long a step waits for its locks, which is how long others wait behind it.
LOCK_MILLISECONDS: Final = 300
# How long a step that locks a table may take altogether.
_LOCKED_SECONDS: Final = 0.9
# How long it tries: a report or a backup can use a table for this long.
LOCK_ATTEMPTS_SECONDS: Final = 600.0
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
_LOCK_NOT_AVAILABLE: Final = frozenset({"55P03", "40P01"})
_INDEX_ATTEMPTS: Final = 5
_CANCELLED: Final = "57014"  # here: by a time limit of the role or the server
_PROGRESS: Final = "SELECT to_jsonb(version) ->> 'progress' FROM {} version"
_INDEX_STATE: Final = "SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass('{}')"
_INDEX_PROGRESS_VERSION: Final = 12
_REPORT_SECONDS: Final = 1.0
_INDEX_PROGRESS: Final = (
    "SELECT coalesce(sum(blocks_done), 0)::bigint, coalesce(sum(blocks_total), 0)::bigint "
    "FROM pg_stat_progress_create_index WHERE datname = current_database()"
)
_ROWS: Final = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass('{}')"
_SEE_ALL_ROWS: Final = f"SELECT set_config('{MIGRATION_SETTING}', 'on', true)"
_FIRST_BATCH_ROWS: Final = 500
_MOST_BATCH_ROWS: Final = 10_000
_BATCH_SECONDS: Final = 0.1  # how long others wait for a row of a batch
_USERS_OF_TABLES: Final = (
    "SELECT string_agg(format('pid %s (%s, for %s s)', pid, coalesce(nullif(application_name, ''), 'no name'), "
    "extract(epoch FROM now() - xact_start)::int), ', ' ORDER BY xact_start) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND pid IN (SELECT pid FROM pg_locks WHERE granted AND relation IN ({}))"
)


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
        migration = _Migration(url, engine, names, progress or NoProgress())
        if engine.dialect.name == "sqlite":
            async with engine.begin() as connection:
                return await migration.upgrade_offline(connection, target, new=new)
        return await migration_lock.run_alone(
            url,
            partial(migration.upgrade_online, target, row_level_security=row_level_security, new=new),
            connect_seconds=CONNECT_SECONDS,
            progress=migration.progress,
        )


class Recorded(NamedTuple):
    """What has been done of a revision: its first steps, and how far the next one has come if it is a backfill."""

    revision: str
    steps: int = 0
    cursor: str | None = None
    rows: int = 0


class _Batch:
    """The next rows of a backfill, of which each attempt takes half as many as the one before."""

    def __init__(self, step: Backfill, names: TableNames, done: Recorded, limit: int) -> None:
        self._step = step
        self._names = names
        self._done = done
        self._next_limit = self.limit = limit

    async def run(self, connection: "AsyncConnection") -> Any:
        """Change the rows in the transaction of ``connection``; return their number and the next cursor, or None."""
        self.limit, self._next_limit = self._next_limit, max(self._next_limit // 2, 1)
        raw, done = RawConnection.of_engine(connection), self._done
        await raw.first_row(_SEE_ALL_ROWS)
        rows = f"{done.rows} + (SELECT count(*) FROM batch)"  # noqa: S608
        progress = f"'revision', '{done.revision}', 'steps', {done.steps}, 'rows', {rows}"
        return await raw.first_row(self._step.batch_sql(self._names, done.cursor, self.limit, progress))


class _Migration:
    """A migration of the tables with these names."""

    def __init__(self, url: str, engine: "AsyncEngine", names: TableNames, progress: Progress) -> None:
        self._url = url
        self._engine = engine
        self._names = names
        self._version_table = names.qualified(names.version_table)
        self.progress = progress

    async def upgrade_offline(self, connection: "AsyncConnection", target: str, *, new: bool) -> str:
        """Run all steps in the transaction of ``connection``."""
        current = await self._prepare(connection, new=new)
        await self._run_all(connection, current, target)
        return max(current or "", target)

    async def _run_all(self, connection: "AsyncConnection", current: str | None, target: str) -> None:
        for revision in _pending(current, target):
            for step in steps_of(revision, self._names.prefix):
                if await applies(step, RawConnection.of_engine(connection)):
                    await self._run_offline(step, connection)
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
            await self._in_short_transaction("prepare the migration", self._add_columns)
            for revision in pending:
                await self._run_revision(revision)
        if target == revisions.head() and (current or "") <= target:
            apply = partial(row_security.apply, names=self._names, enabled=row_level_security)
            tables = row_security.tables(self._names)
            await self._in_short_transaction(
                "row-level security", apply, seconds=_LOCKED_SECONDS, tables=tables
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
            await self._run(steps[number], done, last=number + 1 == len(steps))
            done = Recorded(revision, number + 1)

    async def _run(self, step: Step, done: Recorded, *, last: bool) -> None:
        """Run a step and record that it is done."""
        record = partial(self._record, done.revision, done.steps + 1, last=last)

        async def is_needed(connection: "AsyncConnection") -> bool:
            return await applies(step, RawConnection.of_engine(connection))

        if not await self._in_short_transaction(step.title, is_needed):
            await self._in_short_transaction(step.title, record)
            return
        self.progress.begin(step.title)
        if isinstance(step, Transaction):

            async def run(connection: "AsyncConnection") -> None:
                await self._run_offline(step, connection)
                await record(connection)

            seconds = _LOCKED_SECONDS if step.locks else None
            await self._in_short_transaction(step.title, run, seconds=seconds, tables=step.locks)
            return
        if isinstance(step, CreateIndex):
            await self._create_index(step)
        elif isinstance(step, DropIndex):
            await self._outside_transactions(step.title, self._drop(step.name))
        elif isinstance(step, ValidateConstraint):
            await self._outside_transactions(step.title, step.sql(self._names))
        else:
            await self._backfill(step, done)
        await self._in_short_transaction(step.title, record)

    async def _run_offline(self, step: Step, connection: "AsyncConnection") -> None:
        """Run a step in the transaction of ``connection``."""
        if isinstance(step, Transaction):
            await connection.run_sync(_run_operations, step.run, self._names.prefix)
        elif isinstance(step, CreateIndex):
            await connection.exec_driver_sql(step.sql(self._names, concurrently=False))
        elif isinstance(step, ValidateConstraint | Backfill):
            await connection.exec_driver_sql(step.sql(self._names))
        else:
            await connection.exec_driver_sql(f"DROP INDEX IF EXISTS {self._names.qualified(step.name)}")

    async def _in_short_transaction(
        self,
        title: str,
        work: "Callable[[AsyncConnection], Awaitable[T]]",
        *,
        seconds: float | None = None,
        tables: tuple[str, ...] = (),
    ) -> T:
        """Run ``work`` in a transaction, and again later if it does not get a lock or takes more than ``seconds``."""
        started, delay = asyncio.get_running_loop().time(), _FIRST_WAIT_SECONDS
        while True:
            try:
                async with asyncio.timeout(seconds), self._engine.begin() as connection:
                    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
                    if self._names.schema:
                        await schema.prepare(connection, self._names)
                    return await work(connection)
            except DRIVER_ERRORS as error:
                if not isinstance(error, TimeoutError) and sqlstate(error) not in _LOCK_NOT_AVAILABLE:
                    raise
            if asyncio.get_running_loop().time() - started > LOCK_ATTEMPTS_SECONDS:
                raise MigrationFailedError(
                    f"{title}: no lock for {LOCK_ATTEMPTS_SECONDS:.0f} s{await self._users(tables)}; "
                    "end these, and run projkit migrate again, which continues from here"
                )
            self.progress.wait(f"{title}: the tables are in use; trying again")
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311  # not a secret
            delay = min(delay * 2, _LONGEST_WAIT_SECONDS)

    async def _users(self, tables: tuple[str, ...]) -> str:
        """Describe the sessions that use the tables."""
        relations = ", ".join(f"to_regclass('{self._names.qualified(table)}')" for table in tables)
        if not relations:
            return ""
        async with self._engine.begin() as connection:
            row = await RawConnection.of_engine(connection).first_row(_USERS_OF_TABLES.format(relations))
        return f", because of {row[0]}" if row and row[0] else ""

    async def _create_index(self, index: CreateIndex) -> None:
        qualified = self._names.qualified(index.name)

        async def state(connection: "AsyncConnection") -> bool | None:
            row = await RawConnection.of_engine(connection).first_row(_INDEX_STATE.format(qualified))
            return None if row is None else row[0]

        for attempt in count(1):
            valid = await self._in_short_transaction(index.title, state)
            if valid:
                return
            if valid is False:  # left behind by a run that was interrupted
                await self._outside_transactions(index.title, self._drop(index.name))
            reporting = asyncio.create_task(self._report_index())
            try:
                await self._outside_transactions(index.title, index.sql(self._names, concurrently=True))
            except (MigrationFailedError, *DRIVER_ERRORS) as error:
                # An invalid index slows down every write.
                await self._outside_transactions(index.title, self._drop(index.name))
                if sqlstate(error) not in _LOCK_NOT_AVAILABLE or attempt == _INDEX_ATTEMPTS:
                    raise
                self.progress.wait(f"{index.title}: deadlock; trying again")
            finally:
                reporting.cancel()
                await asyncio.wait([reporting])

    async def _report_index(self) -> None:
        """Report the progress of the index that is being built, if there is a connection to spare for that."""
        with suppress(*DRIVER_ERRORS):
            connection = await PostgresqlConnector(self._url, connect_seconds=CONNECT_SECONDS)()
            try:
                while connection.get_server_version().major >= _INDEX_PROGRESS_VERSION:
                    async with connection.transaction():
                        done, total = await connection.fetchrow(_INDEX_PROGRESS)
                    if total:
                        self.progress.advance(done, total)
                    await asyncio.sleep(_REPORT_SECONDS)
            finally:
                connection.terminate()

    async def _backfill(self, step: Backfill, done: Recorded) -> None:
        await self._open_policies(step, opened=True)
        async with self._engine.begin() as connection:
            size = _ROWS.format(self._names.qualified(step.table))
            (total,) = required_row(await RawConnection.of_engine(connection).first_row(size))
        cursor, rows, limit = done.cursor, done.rows, _FIRST_BATCH_ROWS
        while True:
            batch = _Batch(step, self._names, Recorded(done.revision, done.steps, cursor, rows), limit)
            started = asyncio.get_running_loop().time()
            row = await self._in_short_transaction(
                step.title, batch.run, seconds=_LOCKED_SECONDS, tables=(step.table,)
            )
            seconds = asyncio.get_running_loop().time() - started
            if row is None:
                break
            rows, cursor = rows + row[0], row[1]
            self.progress.advance(rows, max(total, rows))
            factor = min(max(_BATCH_SECONDS / seconds, 0.5), 2)
            limit = min(max(int(batch.limit * factor), 1), _MOST_BATCH_ROWS)
            # Leave the server to others half of the time.
            await asyncio.sleep(min(seconds, _LONGEST_WAIT_SECONDS))
        await self._open_policies(step, opened=False)

    async def _open_policies(self, step: Backfill, *, opened: bool) -> None:
        change = partial(row_security.open_to_migrations, names=self._names, opened=opened)
        tables = row_security.tables(self._names)
        await self._in_short_transaction(step.title, change, seconds=_LOCKED_SECONDS, tables=tables)

    def _drop(self, name: str) -> str:
        return f"DROP INDEX CONCURRENTLY IF EXISTS {self._names.qualified(name)}"

    async def _outside_transactions(self, title: str, sql: str) -> None:
        """Run a statement that may take hours and cannot be in a transaction."""
        connection = await PostgresqlConnector(self._url, connect_seconds=CONNECT_SECONDS)()
        try:
            # PgBouncer may run each statement on another connection to the server: settings would reach others.
            async with connection.transaction():
                server_pid = await connection.fetchval("SELECT pg_backend_pid()")
            if server_pid == connection.get_server_pid():
                await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
            await connection.execute(sql)
        except DRIVER_ERRORS as error:
            if sqlstate(error) != _CANCELLED:
                raise
            raise MigrationFailedError(
                f"{title}: cancelled ({error}); give projkit migrate a role or a URL without a statement_timeout, "
                "for example that of the server instead of PgBouncer's, and run it again"
            ) from error
        finally:
            with suppress(*DRIVER_ERRORS):  # it first waits until a statement that is cancelled has ended
                await connection.close(timeout=CONNECT_SECONDS)

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


def steps_of(revision: str, prefix: str) -> list[Step]:
    """Return the steps that lead to a revision from the one before it."""
    module = module_of(revision)
    if hasattr(module, "steps"):
        steps: list[Step] = module.steps(prefix)
        return steps
    return [Transaction(str(module.__doc__).rstrip("."), module.upgrade)]


def required_by(revision: str) -> str:
    """Return the revision that a version of projkit has to know to use the schema of ``revision``.

    A revision that older versions can use names the oldest of them in ``compatible_from``.
    """
    applied = [each for each in revisions.known() if each <= revision]
    return max(getattr(module_of(each), "compatible_from", each) for each in applied)


def module_of(revision: str) -> ModuleType:
    """Return the module of a revision."""
    (name,) = [
        each.name.removesuffix(".py")
        for each in files(revisions.MIGRATIONS).iterdir()
        if each.name.startswith(f"{revision}_")
    ]
    return import_module(f"{revisions.MIGRATIONS}.{name}")


def _pending(current: str | None, target: str) -> list[str]:
    return [each for each in revisions.known() if (current or "") < each <= target]


async def recorded(connection: RawConnection, names: TableNames, revision: str) -> Recorded:
    """Return what an earlier run has done of a revision, on PostgreSQL."""
    row = await connection.first_row(_PROGRESS.format(names.qualified(names.version_table)))
    progress = json.loads(row[0]) if row and row[0] else {}
    return Recorded(**progress) if progress.get("revision") == revision else Recorded(revision)


async def applies(step: Step, connection: RawConnection) -> bool:
    """Return whether a step is for this database, and its condition is met."""
    if step.dialect not in ("", connection.dialect):
        return False
    if not step.condition or connection.dialect != "postgresql":
        return True
    return bool(required_row(await connection.first_row(step.condition))[0])


def _run_operations(connection: sa.Connection, run: Callable[[], None], prefix: str) -> None:
    context = MigrationContext.configure(connection, opts={"table_prefix": prefix})
    with Operations.context(context):
        run()


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
