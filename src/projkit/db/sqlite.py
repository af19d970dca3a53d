"""SQLite: compiled SQL on :mod:`sqlite3`, with several reader connections and one writer, each with its own thread.

With ten pooled writers, the slowest of a hundred writes waits 640 ms for the file's lock; with one writer, writes wait
in a fair queue. The threads of an executor end with the interpreter even if the host never runs a lifespan, which
those of aiosqlite do not.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import sqlalchemy as sa

from projkit.db.errors import raise_translated
from projkit.db.port import Queries, T, Transaction, observed, row_count
from projkit.db.statement import Compiled, Params, Row, Statement
from projkit.errors import DatabaseUnavailableError
from projkit.observers import NULL_OBSERVER, Observer
from projkit.request_stats import add_database_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

R = TypeVar("R")


@contextmanager
def suppress_read_only() -> Iterator[None]:
    """Ignore that a file is read-only, so that it can be opened for reading."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise


class SqliteConnection:
    """A connection and the only thread that uses it."""

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="projkit-sqlite")
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run ``work`` in the thread; if cancelled, interrupt it and wait until it has ended."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if self._connection is not None:
                self._connection.interrupt()
            with suppress(sqlite3.Error):
                await asyncio.shield(future)
            raise

    def _work(self, work: Callable[[sqlite3.Connection], R]) -> R:
        if self._connection is None:
            self._connection = self._connect()
        return work(self._connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            with suppress_read_only():
                self._enable_wal(connection)
            # FULL: acknowledged writes survive a power failure.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.OperationalError:
            connection.close()
            raise
        return connection

    def _enable_wal(self, connection: sqlite3.Connection) -> None:
        """Enable WAL, with retries: if two connections do so at once, SQLite fails one of them without waiting."""
        deadline = monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
                sleep(0.01)
            else:
                return

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self._connection is not None

    async def close(self) -> None:
        """Close the connection in its own thread, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def abandon(self) -> None:
        """Close the connection without waiting for it."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteDatabase:
    """A :class:`~projkit.db.port.Database` on one SQLite file."""

    dialect = "sqlite"

    def __init__(
        self,
        path: Path,
        metadata: sa.MetaData,
        *,
        readers: int,
        wait_seconds: float,
        statement_seconds: float,
        observer: Observer = NULL_OBSERVER,
    ) -> None:
        self._metadata = metadata
        self._observer = observer
        self._wait_seconds = wait_seconds
        self._statement_seconds = statement_seconds
        self._connections = [
            SqliteConnection(path, busy_seconds=statement_seconds) for _ in range(readers + 1)
        ]
        self._readers: asyncio.LifoQueue[SqliteConnection] = asyncio.LifoQueue()
        for connection in self._connections[1:]:
            self._readers.put_nowait(connection)
        self._writer = self._connections[0]
        self._write_lock = asyncio.Lock()
        self._waiting = 0

    @classmethod
    def open(
        cls,
        path: Path,
        metadata: sa.MetaData,
        *,
        pool_size: int,
        wait_seconds: float,
        statement_seconds: float,
        observer: Observer = NULL_OBSERVER,
    ) -> Self:
        """Return a database whose connections are opened when they are needed.

        It has at most four readers, whatever ``pool_size``: more would only compete for the interpreter.
        """
        return cls(
            path,
            metadata,
            readers=min(pool_size, 4),
            wait_seconds=wait_seconds,
            statement_seconds=statement_seconds,
            observer=observer,
        )

    def scoped(self, tenant_id: str, owner_id: str) -> Queries:
        return self

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        compiled = statement.for_sqlite()
        arguments = compiled.arguments(params)
        row = await self._read(
            compiled, lambda connection: connection.execute(compiled.sql, arguments).fetchone()
        )
        return None if row is None else compiled.row(row)

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        compiled = statement.for_sqlite()
        arguments = compiled.arguments(params)
        rows = await self._read(
            compiled, lambda connection: connection.execute(compiled.sql, arguments).fetchall()
        )
        return [compiled.row(row) for row in rows]

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        compiled = statement.for_sqlite()
        arguments = compiled.arguments(params)
        committed = False
        try:
            rows = await self._write(compiled, arguments)
            committed = True
        finally:
            self._observer.record_transaction(committed=committed)
        return compiled.row(rows[0]) if rows else None

    async def _write(self, compiled: Compiled, arguments: Sequence[Any]) -> list[Row]:
        async with self._acquire_writer() as writer:
            # Autocommit ends the statement's transaction with its last row, so all rows are read.
            with observed(self._observer, compiled) as observation:
                rows = await writer.run(
                    lambda connection: connection.execute(compiled.sql, arguments).fetchall()
                )
                observation.rows = len(rows)
                return rows

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        committed = False
        try:
            async with self._acquire_writer() as writer:
                try:
                    await writer.run(lambda connection: connection.execute("BEGIN IMMEDIATE"))
                    result = await work(_SqliteTransaction(writer, self._observer))
                    await writer.run(lambda connection: connection.commit())
                    committed = True
                except BaseException:
                    await asyncio.shield(writer.run(lambda connection: connection.rollback()))
                    raise
        finally:
            self._observer.record_transaction(committed=committed)
        return result

    async def ping(self) -> None:
        await self.fetch_one(_PING, {})

    def connections(self) -> dict[str, int]:
        opened = sum(connection.is_open for connection in self._connections)
        busy = len(self._connections) - 1 - self._readers.qsize() + self._write_lock.locked()
        return {
            "maximum": len(self._connections),
            "open": opened,
            "checked_out": busy,
            "overflow": 0,
            "waiting": self._waiting,
        }

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    def abandon(self) -> None:
        for connection in self._connections:
            connection.abandon()

    async def _read(self, compiled: Compiled, work: Callable[[sqlite3.Connection], R]) -> R:
        started = perf_counter()
        reader = await self._wait_for(self._readers.get(), "All database connections are in use")
        try:
            with observed(self._observer, compiled) as observation:
                async with asyncio.timeout(self._statement_seconds):
                    result = await reader.run(work)
                observation.rows = row_count(result)
        except Exception as error:
            raise_translated(error, self._metadata)
        finally:
            self._readers.put_nowait(reader)
            add_database_time(perf_counter() - started)
        return result

    async def _wait_for(self, acquire: Coroutine[Any, Any, R], message: str) -> R:
        """Await a connection or lock, for a limited time; ``message`` is that of the error after it."""
        started = perf_counter()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await acquire
        except TimeoutError:
            raise DatabaseUnavailableError(message) from None
        finally:
            self._waiting -= 1
            self._observer.record_pool_wait(perf_counter() - started)

    @asynccontextmanager
    async def _acquire_writer(self) -> "AsyncIterator[SqliteConnection]":
        started = perf_counter()
        await self._wait_for(self._write_lock.acquire(), "The database is busy with other writes")
        try:
            yield self._writer
        except Exception as error:
            raise_translated(error, self._metadata)
        finally:
            self._write_lock.release()
            add_database_time(perf_counter() - started)


_PING: Final = Statement(sa.select(sa.literal(1, sa.Integer)))


class _SqliteTransaction:
    __slots__ = ("_connection", "_observer")

    def __init__(self, connection: SqliteConnection, observer: Observer) -> None:
        self._connection = connection
        self._observer = observer

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        compiled = statement.for_sqlite()
        arguments = compiled.arguments(params)
        row = await self._run(
            compiled, lambda connection: connection.execute(compiled.sql, arguments).fetchone()
        )
        return None if row is None else compiled.row(row)

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        compiled = statement.for_sqlite()
        arguments = compiled.arguments(params)
        rows = await self._run(
            compiled, lambda connection: connection.execute(compiled.sql, arguments).fetchall()
        )
        return [compiled.row(row) for row in rows]

    async def execute_many(self, statement: Statement, params: Sequence[Params]) -> None:
        compiled = statement.for_sqlite()
        arguments = [compiled.arguments(each) for each in params]

        def run(connection: sqlite3.Connection) -> Any:
            return connection.executemany(compiled.sql, arguments)

        with observed(self._observer, compiled):
            await self._connection.run(run)

    async def _run(self, compiled: Compiled, work: Callable[[sqlite3.Connection], R]) -> R:
        with observed(self._observer, compiled) as observation:
            result = await self._connection.run(work)
            observation.rows = row_count(result)
            return result
