"""PostgreSQL in the fast mode: compiled SQL on asyncpg, autocommit reads, no reset between uses of a connection."""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final, Self

import asyncpg
import sqlalchemy as sa

from projkit.db.errors import is_read_only, is_retryable, raise_translated, unavailable
from projkit.db.pool import Connection, ConnectionPool
from projkit.db.port import Queries, T, Transaction, observed, row_count
from projkit.db.postgresql_connector import PostgresqlConnector, session_settings
from projkit.db.retries import retrying
from projkit.db.scoped import ScopedDatabase
from projkit.db.statement import Compiled, Params, Row, Statement
from projkit.observers import NULL_OBSERVER, Observer
from projkit.request_stats import add_database_time

_CONNECTION_LOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    # The server has announced on an idle connection that it shuts down; asyncpg then sends nothing on it.
    asyncpg.InternalClientError,
)
_RETRY_WITHIN_SECONDS: Final = 1.0


class PostgresqlDatabase:
    """A :class:`~projkit.db.port.Database` on a pool of asyncpg connections."""

    dialect = "postgresql"

    def __init__(
        self, pool: ConnectionPool, *, row_level_security: bool = False, observer: Observer = NULL_OBSERVER
    ) -> None:
        self.pool = pool
        self._row_level_security = row_level_security
        self._observer = observer

    @classmethod
    def open(
        cls,
        url: str,
        *,
        pool_size: int,
        connect_seconds: float,
        pool_wait_seconds: float,
        statement_seconds: float,
        maximum_age_seconds: float = 0,
        row_level_security: bool = False,
        observer: Observer = NULL_OBSERVER,
    ) -> Self:
        """Return a database whose connections are opened when they are needed."""
        connector = PostgresqlConnector(
            url,
            connect_seconds=connect_seconds,
            prepared=True,
            server_settings=session_settings(statement_seconds),
        )
        return cls(
            ConnectionPool(
                connector,
                size=pool_size,
                connect_seconds=connect_seconds,
                wait_seconds=pool_wait_seconds,
                # The server's own timeout comes first; the watchdog is for servers that no longer respond.
                statement_seconds=statement_seconds + 0.5,
                maximum_age_seconds=maximum_age_seconds,
            ),
            row_level_security=row_level_security,
            observer=observer,
        )

    def scoped(self, tenant_id: str, owner_id: str) -> Queries:
        return ScopedDatabase(self, tenant_id, owner_id) if self._row_level_security else self

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        compiled = statement.for_postgresql()
        record = await self._read("fetchrow", compiled, params)
        return None if record is None else compiled.row(record)

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        compiled = statement.for_postgresql()
        return [compiled.row(record) for record in await self._read("fetch", compiled, params)]

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        compiled = statement.for_postgresql()
        committed = False
        try:
            record = await self._run("fetchrow", compiled, compiled.arguments(params))
            committed = True
        except Exception as error:
            raise_translated(error)
        finally:
            self._observer.record_transaction(committed=committed)
        return None if record is None else compiled.row(record)

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        return await retrying(lambda: self._transact_once(work))

    async def ping(self) -> None:
        try:
            compiled = _PING.for_postgresql()
            await self._run("fetchval", compiled, compiled.arguments({}))
        except Exception as error:
            raise_translated(error)

    def connections(self) -> dict[str, int]:
        return {
            "maximum": self.pool.maximum,
            "open": self.pool.size,
            "checked_out": self.pool.checked_out,
            "overflow": 0,
            "waiting": self.pool.waiting,
        }

    async def close(self) -> None:
        await self.pool.close()

    def abandon(self) -> None:
        self.pool.abandon()

    async def _read(self, method: str, compiled: Compiled, params: Params) -> Any:
        arguments = compiled.arguments(params)
        started = perf_counter()
        try:
            return await self._run(method, compiled, arguments)
        except _CONNECTION_LOST as error:
            # A connection that was lost while idle fails only when it is used, so a read is run once more.
            if perf_counter() - started > _RETRY_WITHIN_SECONDS:
                raise unavailable(error) from error
        except Exception as error:
            raise_translated(error)
        try:
            return await self._run(method, compiled, arguments)
        except Exception as error:
            raise_translated(error)

    async def _run(self, method: str, compiled: Compiled, arguments: Sequence[Any]) -> Any:
        started = perf_counter()
        try:
            with observed(self._observer, compiled) as observation:
                connection = self.pool.take()
                if connection is None:
                    connection = await self.pool.acquire()
                observation.started = acquired = perf_counter()
                self._observer.record_pool_wait(acquired - started)
                try:
                    if compiled.plan_each_time:
                        # A statement without a name is not kept.
                        prepared = await connection.prepare(compiled.sql, name="")
                        result = await getattr(prepared, method)(*arguments)
                    else:
                        result = await getattr(connection, method)(compiled.sql, *arguments)
                except BaseException as error:
                    self._give_back(connection, error, usable=_is_rejection(error))
                    raise
                observation.rows = row_count(result)
        finally:
            add_database_time(perf_counter() - started)
        self.pool.release(connection)
        return result

    def _give_back(self, connection: Connection, error: BaseException, *, usable: bool) -> None:
        """Return a connection to the pool after an error, or discard it."""
        if is_read_only(error):
            self.pool.replace_all()
            usable = False
        if usable:
            self.pool.release(connection)
        else:
            self.pool.discard(connection)

    async def _transact_once(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        started = perf_counter()
        committed = False
        try:
            result = await self.run_in_transaction(work)
            committed = True
            return result
        finally:
            add_database_time(perf_counter() - started)
            self._observer.record_transaction(committed=committed)

    async def run_in_transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        started = perf_counter()
        connection = await self.pool.acquire()
        self._observer.record_pool_wait(perf_counter() - started)
        rolled_back = False
        try:
            await connection.execute("BEGIN")
            try:
                result = await work(_PostgresqlTransaction(connection, self.pool, self._observer))
            except Exception:
                self.pool.touch(connection)
                await connection.execute("ROLLBACK")
                rolled_back = True
                raise
            self.pool.touch(connection)
            await connection.execute("COMMIT")
        except Exception as error:
            usable = rolled_back or (_is_rejection(error) and not connection.is_in_transaction())
            self._give_back(connection, error, usable=usable)
            if is_retryable(error):
                raise
            raise_translated(error)
        except BaseException:
            self.pool.discard(connection)
            raise
        self.pool.release(connection)
        return result


def _is_rejection(error: BaseException) -> bool:
    """Return whether the server rejected the command with severity ERROR, after which it accepts another.

    After FATAL the server closes the connection, and asyncpg still considers a command to be in progress.
    """
    return isinstance(error, asyncpg.PostgresError) and getattr(error, "severity_en", "") == "ERROR"


_PING: Final = Statement(sa.select(sa.literal(1, sa.Integer)))


class _PostgresqlTransaction:
    __slots__ = ("_connection", "_observer", "_pool")

    def __init__(self, connection: Connection, pool: ConnectionPool, observer: Observer) -> None:
        self._connection = connection
        self._pool = pool
        self._observer = observer

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        compiled = statement.for_postgresql()
        record = await self._run("fetchrow", compiled, *compiled.arguments(params))
        return None if record is None else compiled.row(record)

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        compiled = statement.for_postgresql()
        records = await self._run("fetch", compiled, *compiled.arguments(params))
        return [compiled.row(record) for record in records]

    async def execute_many(self, statement: Statement, params: Sequence[Params]) -> None:
        compiled = statement.for_postgresql()
        await self._run("executemany", compiled, [compiled.arguments(each) for each in params])

    async def _run(self, method: str, compiled: Compiled, *arguments: Any) -> Any:
        self._pool.touch(self._connection)
        with observed(self._observer, compiled) as observation:
            result = await getattr(self._connection, method)(compiled.sql, *arguments)
            if method != "executemany":
                observation.rows = row_count(result)
            return result
