"""The steps of a migration, run one by one on a PostgreSQL database that is in use.

A step either runs in a transaction, whose locks exist for less than a second; or it takes locks that block neither
reads nor writes, and may take hours. Whoever waits for a lock makes all later requests of the table wait as well, so a
step gives up after :data:`LOCK_MILLISECONDS` and tries again later.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from projkit.db import row_security, schema
from projkit.db.errors import DRIVER_ERRORS, sqlstate
from projkit.db.migrations.progress import Progress
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
from projkit.db.table_names import TableNames
from projkit.errors import MigrationFailedError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Record = Callable[["AsyncConnection"], Awaitable[None]]

CONNECT_SECONDS: Final = 10.0
# How long a step waits for its locks, which is how long others wait behind it.
LOCK_MILLISECONDS: Final = 300
# How long a step that locks a table may take altogether.
LOCKED_SECONDS: Final = 0.9
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


class StepRunner:
    """The runner of the steps of one migration.

    Args:
        url: the database.
        engine: an engine on it that keeps no connections.
        names: the names of the tables.
        progress: is told what happens.
    """

    def __init__(self, url: str, engine: "AsyncEngine", names: TableNames, progress: Progress) -> None:
        self._url = url
        self._engine = engine
        self._names = names
        self._progress = progress

    async def run(self, step: Step, done: Recorded, record: Record) -> None:
        """Run a step, and ``record`` that it is done, in the step's own transaction if it has one."""

        async def is_needed(connection: "AsyncConnection") -> bool:
            return await applies(step, RawConnection.of_engine(connection))

        if not await self.in_short_transaction(step.title, is_needed):
            await self.in_short_transaction(step.title, record)
            return
        self._progress.begin(step.title)
        if isinstance(step, Transaction):

            async def run(connection: "AsyncConnection") -> None:
                await run_offline(step, connection, self._names)
                await record(connection)

            seconds = LOCKED_SECONDS if step.locks else None
            await self.in_short_transaction(step.title, run, seconds=seconds, tables=step.locks)
            return
        if isinstance(step, CreateIndex):
            await self._create_index(step)
        elif isinstance(step, DropIndex):
            await self._outside_transactions(step.title, self._drop(step.name))
        elif isinstance(step, ValidateConstraint):
            await self._outside_transactions(step.title, step.sql(self._names))
        else:
            await self._backfill(step, done)
        await self.in_short_transaction(step.title, record)

    async def in_short_transaction(
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
            self._progress.wait(f"{title}: the tables are in use; trying again")
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
            valid = await self.in_short_transaction(index.title, state)
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
                self._progress.wait(f"{index.title}: deadlock; trying again")
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
                        self._progress.advance(done, total)
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
            row = await self.in_short_transaction(
                step.title, batch.run, seconds=LOCKED_SECONDS, tables=(step.table,)
            )
            seconds = asyncio.get_running_loop().time() - started
            if row is None:
                break
            rows, cursor = rows + row[0], row[1]
            self._progress.advance(rows, max(total, rows))
            factor = min(max(_BATCH_SECONDS / seconds, 0.5), 2)
            limit = min(max(int(batch.limit * factor), 1), _MOST_BATCH_ROWS)
            # Leave the server to others half of the time.
            await asyncio.sleep(min(seconds, _LONGEST_WAIT_SECONDS))
        await self._open_policies(step, opened=False)

    async def _open_policies(self, step: Backfill, *, opened: bool) -> None:
        change = partial(row_security.open_to_migrations, names=self._names, opened=opened)
        tables = row_security.tables(self._names)
        await self.in_short_transaction(step.title, change, seconds=LOCKED_SECONDS, tables=tables)

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


async def run_offline(step: Step, connection: "AsyncConnection", names: TableNames) -> None:
    """Run a step in the transaction of ``connection``."""
    if isinstance(step, Transaction):
        await connection.run_sync(_run_operations, step.run, names.prefix)
    elif isinstance(step, CreateIndex):
        await connection.exec_driver_sql(step.sql(names, concurrently=False))
    elif isinstance(step, ValidateConstraint | Backfill):
        await connection.exec_driver_sql(step.sql(names))
    else:
        await connection.exec_driver_sql(f"DROP INDEX IF EXISTS {names.qualified(step.name)}")


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
