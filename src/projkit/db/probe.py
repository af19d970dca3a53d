"""Asking the database for a sign of life, beside all pools: a full pool is no dead database.

A connection of the probe's own, so that one that hangs is never handed to a request. What is asked is over at once,
and a connection that did not answer in time is dropped before anything else is said on it.
"""

import asyncio
import socket
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

import asyncpg

from projkit.db import revisions
from projkit.db.dsn import asyncpg_dsn
from projkit.db.errors import FAILURES
from projkit.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

CLOSE_SECONDS: Final = 0.5
PING: Final = "SELECT 1"
EPOCH: Final = "SELECT extract(epoch FROM clock_timestamp())"


class DatabaseProbe(Protocol):
    """Asks one question at a time. What the functions return is awaited only where it is an awaitable."""

    dialect: str

    def ping(self) -> Awaitable[None] | None:
        """A sign of life."""

    def revision(self) -> Awaitable[str | None] | str | None:
        """The revision of the schema; None where there is none."""

    def now(self) -> Awaitable[float] | float:
        """The database's clock, in seconds since 1970."""

    async def close(self) -> None:
        """Closes the connection, in bounded time."""

    def abandon(self) -> None:
        """Hangs up where the event loop is closed."""


def open_probe(settings: Settings, engine: "AsyncEngine | None", *, seconds: float) -> DatabaseProbe:
    """A probe of the database that the settings or the host name; connects when it is first asked.

    ``seconds`` bounds what PostgreSQL is given for an answer, beside the patience of whoever asks.
    """
    revision = revisions.question(settings.table_prefix)
    if engine is not None:
        from projkit.db.engine_probe import EngineProbe  # noqa: PLC0415  # who has an engine has SQLAlchemy's

        return EngineProbe(engine, revision)
    if settings.embedded:
        return SqliteProbe(settings.sqlite_path, revision)
    bounded = settings.database_mode == "fast"  # PgBouncer takes no such settings
    return PostgresqlProbe(settings.database_url, revision, seconds=seconds, bounded=bounded)


class WaitingProbe(ABC):
    """What is asked of a connection for whose answer one waits, one question after the other."""

    def __init__(self, revision: str) -> None:
        self._revision = revision
        self._turn = asyncio.Lock()

    async def ping(self) -> None:
        await self._ask(PING)

    async def revision(self) -> str | None:
        found: str | None = await self._ask(self._revision)
        return found

    @abstractmethod
    async def _ask(self, sql: str) -> Any:
        """The one value that answers."""


class PostgresqlProbe(WaitingProbe):
    """One asyncpg connection."""

    dialect = "postgresql"

    def __init__(self, url: str, revision: str, *, seconds: float, bounded: bool) -> None:
        super().__init__(revision)
        milliseconds = str(int(seconds * 1000))
        self._options: dict[str, Any] = {
            "dsn": asyncpg_dsn(url),
            "timeout": seconds,
            "statement_cache_size": 0,
            "server_settings": {
                "application_name": "projkit-health",
                **({"statement_timeout": milliseconds, "lock_timeout": milliseconds} if bounded else {}),
            },
        }
        self._connection: Any = None
        self._connecting: asyncio.Task[Any] | None = None

    async def now(self) -> float:
        return float(await self._ask(EPOCH))

    async def close(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            await asyncio.wait({connecting}, timeout=CLOSE_SECONDS)
            if connecting.cancel() or connecting.cancelled() or connecting.exception() is not None:
                return
            self._connection = connecting.result()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*FAILURES):
                await connection.close(timeout=CLOSE_SECONDS)

    def abandon(self) -> None:
        transport = getattr(self._connection, "_transport", None)
        line = None if transport is None else transport.get_extra_info("socket")
        if line is not None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._connection = None

    async def _ask(self, sql: str) -> Any:
        async with self._turn:
            connection = await self._connected()
            # Cancelled in the middle of a command, asyncpg would open another connection to say so, and to a server
            # that does not answer that one hangs as well. So whoever gives up hangs up instead.
            asking = asyncio.get_running_loop().create_task(connection.fetchval(sql))
            asking.add_done_callback(_retrieve)
            try:
                return await asyncio.shield(asking)
            except BaseException:
                self._connection = None
                connection.terminate()
                raise

    async def _connected(self) -> Any:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(asyncpg.connect(**self._options))
            self._connecting.add_done_callback(_retrieve)
        # Given up by its first caller it goes on, within its own time-out, and serves the next one.
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
    """A connection for each question, in whatever thread asks: opening one takes a fifth of a millisecond.

    The file must be there: one that was removed is not made anew.
    """

    dialect = "sqlite"

    def __init__(self, path: Path, revision: str) -> None:
        self._uri = f"file:{quote(str(path.absolute()))}?mode=rw"
        self._revision = revision

    def ping(self) -> None:
        self._ask("PRAGMA schema_version")  # SELECT 1 would not look into the file

    def revision(self) -> str | None:
        found: str | None = self._ask(self._revision)
        return found

    def now(self) -> float:
        return float(self._ask("SELECT strftime('%s', 'now')"))

    async def close(self) -> None:
        """Nothing is open."""

    def abandon(self) -> None:
        """Nothing is open."""

    def _ask(self, sql: str) -> Any:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=0.5)) as connection:
            return connection.execute(sql).fetchone()[0]


def _retrieve(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()
