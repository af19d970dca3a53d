"""The transactional mode: the same statements through an ``AsyncEngine``, the host's or the kit's own.

It is slower than the fast mode (a read takes three messages instead of one). It works behind PgBouncer, and with a host
that has an engine of its own, whose pool and events then apply.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from projkit.db.dsn import sqlite_url
from projkit.db.errors import (
    DRIVER_ERRORS,
    is_full,
    is_read_only,
    is_retryable,
    raise_translated,
    unavailable,
)
from projkit.db.host_engine import READ_COMMITTED, connected
from projkit.db.port import Queries, T, Transaction, observed, row_count
from projkit.db.postgresql_connector import PostgresqlConnector
from projkit.db.retries import retrying
from projkit.db.scoped import ScopedDatabase
from projkit.db.statement import Params, Row, Statement, engine_params
from projkit.observers import NULL_OBSERVER, Observer
from projkit.request_stats import StatementInfo, add_database_time
from projkit.tasks import BackgroundTasks, run_to_completion

# The URL that selects the driver; a function of the kit connects, because SQLAlchemy reads parameters differently.
_DRIVER: Final = "postgresql+asyncpg://"
# The time in which a server that responds confirms that it has cancelled a statement.
_CANCEL_SECONDS: Final = 0.5
# The time after which a connection is checked out again if the server had too many.
_FULL_DELAY_SECONDS: Final = 0.05


class EngineDatabase:
    """A :class:`~projkit.db.port.Database` on an ``AsyncEngine``, which it closes only if ``owned``."""

    def __init__(
        self,
        engine: AsyncEngine,
        metadata: sa.MetaData,
        *,
        statement_seconds: float,
        owned: bool,
        isolation_level: str | None = None,
        row_level_security: bool = False,
        observer: Observer = NULL_OBSERVER,
    ) -> None:
        self._observer = observer
        self.dialect = engine.dialect.name
        self.engine = engine
        self._metadata = metadata
        self._statement_seconds = statement_seconds
        self._owned = owned
        self._isolation_level = isolation_level
        self._row_level_security = row_level_security
        # A view of the host's engine has events of its own, so this does not affect the host's statements.
        sa.event.listen(engine.sync_engine, "handle_error", _disconnect_if_read_only)
        self._closing: set[asyncio.Task[None]] = set()
        self._background = BackgroundTasks()

    def scoped(self, tenant_id: str, owner_id: str) -> Queries:
        return ScopedDatabase(self, tenant_id, owner_id) if self._row_level_security else self

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        return await self.transact(lambda transaction: transaction.fetch_one(statement, params))

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        return await self.transact(lambda transaction: transaction.fetch_all(statement, params))

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        return await self.transact(lambda transaction: transaction.fetch_one(statement, params))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        return await retrying(lambda: self._transact_once(work))

    async def ping(self) -> None:
        await self.fetch_one(_PING, {})

    def connections(self) -> dict[str, int]:
        pool = self.engine.pool
        if not isinstance(pool, QueuePool):  # the other pools count nothing
            return {}
        return {
            "maximum": pool.size() + max(pool._max_overflow, 0),  # noqa: SLF001
            "open": pool.checkedin() + pool.checkedout(),
            "checked_out": pool.checkedout(),
            "overflow": max(pool.overflow(), 0),
        }

    async def close(self) -> None:
        await self._background.close(_CANCEL_SECONDS)
        if self._closing:  # a pool that has been disposed of would not close what is returned to it
            await asyncio.wait(self._closing, timeout=self._statement_seconds)
        if self._owned:
            await self.engine.dispose()

    def abandon(self) -> None:
        if self._owned:
            # Its connections cannot be closed without their event loop: replace the pool.
            self.engine.sync_engine.dispose(close=False)

    async def _transact_once(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        started = perf_counter()
        connected = committed = False

        async def run() -> T:
            nonlocal connected
            async with self._begin() as connection:
                connected = True
                self._observer.record_pool_wait(perf_counter() - started)
                return await work(_EngineTransaction(connection, self.dialect, self._observer))

        try:
            result = await self._in_time(run())
            committed = True
        except DRIVER_ERRORS as error:
            if not connected:  # for whatever reason
                raise unavailable(error) from None
            if is_retryable(error):
                raise
            raise_translated(error, self._metadata)
        finally:
            add_database_time(perf_counter() - started)
            self._observer.record_transaction(committed=committed)
        return result

    async def _in_time(self, transaction: Coroutine[Any, Any, T]) -> T:
        if self.engine.dialect.driver == "psycopg":
            # It reacts to a cancellation only when the server has confirmed it, or after ten seconds.
            return await self._background.run(
                transaction, seconds=self._statement_seconds, grace=_CANCEL_SECONDS
            )
        async with asyncio.timeout(self._statement_seconds):
            return await transaction

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction as ``engine.begin()`` does, without losing a connection to a cancellation."""
        connection = await self._connect()
        try:
            async with connection.begin():
                yield connection
        finally:
            await run_to_completion(connection.close())

    async def _connect(self) -> AsyncConnection:
        """Check out a connection; if the server accepts no more, wait for one that is open (``_in_time`` limits it)."""
        while True:
            try:
                return await self._check_out()
            except DRIVER_ERRORS as error:
                if not (is_full(error) and self.connections().get("open")):
                    raise
            await asyncio.sleep(_FULL_DELAY_SECONDS)

    async def _check_out(self) -> AsyncConnection:
        # SQLAlchemy loses a connection that has left the pool if it is cancelled while it sets isolation levels or
        # calls the host's events. So a task completes this, and returns the connection if the caller is cancelled.
        connecting = asyncio.create_task(connected(self.engine, self._isolation_level))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            closing = asyncio.create_task(self._close_once_connected(connecting))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise

    async def _close_once_connected(self, connecting: "asyncio.Task[AsyncConnection]") -> None:
        with suppress(*DRIVER_ERRORS):
            async with asyncio.timeout(self._statement_seconds):  # a host's pool can wait without limit
                connection = await connecting
            await connection.close()


def _disconnect_if_read_only(context: sa.engine.ExceptionContext) -> None:
    """Let SQLAlchemy replace all connections of the pool if the server no longer accepts writes."""
    if is_read_only(context.original_exception):
        context.is_disconnect = True


_PING: Final = Statement(sa.select(sa.literal(1, sa.Integer)))


def create_engine(
    url: str,
    *,
    pool_size: int,
    connect_seconds: float,
    pool_wait_seconds: float,
    maximum_age_seconds: float = 0,
) -> AsyncEngine:
    """Create an engine for the transactional mode."""
    if url.startswith("sqlite"):
        # The timeout is that of the file's lock.
        return create_async_engine(sqlite_url(url), connect_args=_sqlite_arguments(pool_wait_seconds))
    return create_async_engine(
        _DRIVER,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_seconds,
        pool_pre_ping=True,
        pool_recycle=maximum_age_seconds or -1,
        # Sent with each BEGIN, whatever the default of the server, the database or the role is.
        isolation_level=READ_COMMITTED,
        connect_args=_postgresql_arguments(url, connect_seconds),
    )


def create_single_use_engine(url: str, *, connect_seconds: float) -> AsyncEngine:
    """Create an engine that keeps no connections, for migrations and checks."""
    if not url.startswith("sqlite"):
        arguments = _postgresql_arguments(url, connect_seconds)
        return create_async_engine(
            _DRIVER, poolclass=NullPool, isolation_level=READ_COMMITTED, connect_args=arguments
        )
    location = sqlite_url(url)
    path = Path(location.database or "")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such directory", str(path.parent))
    return create_async_engine(location, poolclass=NullPool, connect_args=_sqlite_arguments(connect_seconds))


def _postgresql_arguments(url: str, connect_seconds: float) -> dict[str, Any]:
    """Return the arguments with which SQLAlchemy names no prepared statements, because of PgBouncer."""
    return {
        "async_creator_fn": PostgresqlConnector(url, connect_seconds=connect_seconds).open,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",
    }


def _sqlite_arguments(lock_seconds: float) -> dict[str, Any]:
    return {"timeout": lock_seconds, "async_creator_fn": _connect_sqlite}


async def _connect_sqlite(*args: Any, **options: Any) -> aiosqlite.Connection:
    """Connect as SQLAlchemy does, but close the connection if the caller is cancelled before it is open.

    aiosqlite itself would leave what its thread has opened by then to the garbage collector.
    """
    connection = aiosqlite.connect(*args, **options)
    # Up to aiosqlite 0.21 a connection is itself a thread. A daemon thread does not keep the interpreter from ending.
    thread: Any = getattr(connection, "_thread", connection)
    thread.daemon = True
    try:
        return await run_to_completion(_opened(connection))
    except asyncio.CancelledError:
        await asyncio.shield(connection.close())
        raise


async def _opened(connection: aiosqlite.Connection) -> aiosqlite.Connection:
    return await connection


class _EngineTransaction:
    __slots__ = ("_connection", "_observer", "_postgresql")

    def __init__(self, connection: AsyncConnection, dialect: str, observer: Observer) -> None:
        self._connection = connection
        self._postgresql = dialect == "postgresql"
        self._observer = observer

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        with observed(self._observer, self._info(statement)) as observation:
            result = await self._connection.execute(statement.for_engine(), engine_params(params))
            row = result.first() if result.returns_rows else None
            observation.rows = row_count(row)
            return row

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        with observed(self._observer, self._info(statement)) as observation:
            result = await self._connection.execute(statement.for_engine(), engine_params(params))
            rows = result.all()
            observation.rows = len(rows)
            return rows

    async def execute_many(self, statement: Statement, params: Sequence[Params]) -> None:
        if params:
            with observed(self._observer, self._info(statement)):
                await self._connection.execute(
                    statement.for_engine(), [engine_params(each) for each in params]
                )

    def _info(self, statement: Statement) -> StatementInfo:
        return statement.for_postgresql() if self._postgresql else statement.for_sqlite()
