"""Health probes of the database, beside all pools: a full pool does not mean that the database is down.

A probe has a connection of its own, so that one that hangs is never handed to a request. Its queries take next to no
time, and a connection that did not respond in time is closed before anything else is sent on it.

:func:`projkit.db.connect.open_probe` chooses the class.
"""

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from projkit.db.errors import DRIVER_ERRORS
from projkit.db.pool import shut_down_socket
from projkit.db.postgresql_connector import PostgresqlConnector
from projkit.db.raw_sql import postgresql_first_row, sqlite_first_row
from projkit.db.statement import Row
from projkit.tasks import retrieve_exception

CLOSE_SECONDS: Final = 0.5
# Also on in a standby, and if default_transaction_read_only is.
POSTGRESQL_READ_ONLY: Final = "SELECT current_setting('transaction_read_only')"
# In seconds since 1970.
POSTGRESQL_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())"
SQLITE_TIME: Final = "SELECT strftime('%s', 'now')"
_SQLITE_LOCK_SECONDS: Final = 0.5


class DatabaseProbe(Protocol):
    """A connection for health checks; SQLite's returns its results directly, the others return awaitables."""

    dialect: str

    def accepts_writes(self) -> Awaitable[bool] | bool:
        """Check that the database responds; return whether the server accepts writes."""

    def revision(self) -> Awaitable[str | None] | str | None:
        """Return the revision of the schema; None if there is none."""

    def now(self) -> Awaitable[float] | float:
        """Return the time of the database's clock, in seconds since 1970."""

    async def close(self) -> None:
        """Close the connection, within :data:`CLOSE_SECONDS`."""

    def abandon(self) -> None:
        """Close the socket after its event loop has been closed."""


class AsyncProbe(ABC):
    """A probe that awaits its results, one query after the other."""

    def __init__(self, revision_sql: str) -> None:
        self._revision_sql = revision_sql
        self._lock = asyncio.Lock()

    @abstractmethod
    async def accepts_writes(self) -> bool:
        """Check that the database responds; return whether the server accepts writes."""

    async def revision(self) -> str | None:
        revision: str | None = await self._value(self._revision_sql)
        return revision

    async def _value(self, sql: str) -> Any:
        async with self._lock:
            return _only_value(await self._first_row(sql))

    @abstractmethod
    async def _first_row(self, sql: str) -> Row | None:
        """Run ``sql`` and return its first row; the caller holds the lock."""


class PostgresqlProbe(AsyncProbe):
    """A probe with an asyncpg connection, opened at the first query.

    ``seconds`` limits connecting and, with ``set_timeouts``, each statement on the server.
    """

    dialect = "postgresql"

    def __init__(self, url: str, revision_sql: str, *, seconds: float, set_timeouts: bool) -> None:
        super().__init__(revision_sql)
        milliseconds = str(int(seconds * 1000))
        timeouts = {"statement_timeout": milliseconds, "lock_timeout": milliseconds}
        self._connect = PostgresqlConnector(
            url, connect_seconds=seconds, suffix="-health", server_settings=timeouts if set_timeouts else None
        )
        self._connection: Any = None
        self._connecting: asyncio.Task[Any] | None = None

    async def accepts_writes(self) -> bool:
        async with self._lock:
            writable: bool = _only_value(await self._first_row(POSTGRESQL_READ_ONLY)) == "off"
            if not writable and self._connection is not None:
                self._connection.terminate()  # after a failover, the next one may lead to the new primary
        return writable

    async def now(self) -> float:
        return float(await self._value(POSTGRESQL_TIME))

    async def close(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            await asyncio.wait({connecting}, timeout=CLOSE_SECONDS)
            if connecting.cancel() or connecting.cancelled() or connecting.exception() is not None:
                return
            self._connection = connecting.result()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=CLOSE_SECONDS)

    def abandon(self) -> None:
        shut_down_socket(self._connection)
        self._connection = None

    async def _first_row(self, sql: str) -> Row | None:
        connection = await self._connected()
        # If a command is cancelled, asyncpg opens a second connection to tell the server, and if the server does not
        # respond that one hangs as well. On cancellation this closes the connection instead.
        command = asyncio.get_running_loop().create_task(postgresql_first_row(connection, sql))
        command.add_done_callback(retrieve_exception)
        try:
            return await asyncio.shield(command)
        except BaseException:
            self._connection = None
            connection.terminate()
            raise

    async def _connected(self) -> Any:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(retrieve_exception)
        # If its first caller is cancelled, connecting continues, within its own timeout, for the next one.
        connecting = self._connecting
        try:
            connection = await asyncio.shield(connecting)
        except BaseException:
            if connecting.done() and (connecting.cancelled() or connecting.exception() is not None):
                self._connecting = None
            raise
        self._connecting, self._connection = None, connection
        return connection


class SqliteProbe:
    """A probe that opens the file for each query, in the caller's thread: that takes a fifth of a millisecond.

    It never creates the file, so a file that has been removed is reported.
    """

    dialect = "sqlite"

    def __init__(self, path: Path, revision_sql: str) -> None:
        self._uri = f"file:{quote(str(path.absolute()))}?mode=rw"
        self._revision_sql = revision_sql

    def accepts_writes(self) -> bool:
        self._value("PRAGMA schema_version")  # SELECT 1 would not read the file
        return True

    def revision(self) -> str | None:
        revision: str | None = self._value(self._revision_sql)
        return revision

    def now(self) -> float:
        return float(self._value(SQLITE_TIME))

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    def abandon(self) -> None:
        """Do nothing: no connection is kept."""

    def _value(self, sql: str) -> Any:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=_SQLITE_LOCK_SECONDS)) as connection:
            return _only_value(sqlite_first_row(connection, sql))


def _only_value(row: Row | None) -> Any:
    return None if row is None else row[0]
