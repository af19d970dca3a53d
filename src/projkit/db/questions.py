"""What is asked of a database once, when a kit starts: is the schema the one that is needed, do its policies hold.

Each question is one SQL text without parameters, so that a driver's connection can answer it: SQLAlchemy's engines
bring its ORM with them, which a server that runs on a driver would then hold for good.
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

from projkit.db.dsn import asyncpg_dsn
from projkit.db.statement import Row

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from projkit.settings import Settings


class Questions(Protocol):
    """A connection that answers, within one transaction where there are any."""

    dialect: str

    async def first(self, sql: str) -> Row | None:
        """The first row, if there is one."""


class EngineQuestions:
    """Through a connection of an ``AsyncEngine``."""

    def __init__(self, connection: "AsyncConnection") -> None:
        self.dialect = connection.dialect.name
        self._connection = connection

    async def first(self, sql: str) -> Row | None:
        return (await self._connection.exec_driver_sql(sql)).first()


class PostgresqlQuestions:
    """Through a connection of asyncpg's."""

    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def first(self, sql: str) -> Row | None:
        found: Row | None = await self._connection.fetchrow(sql)
        return found


class SqliteQuestions:
    """Of an open file; what is asked of one is over at once."""

    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def first(self, sql: str) -> Row | None:
        found: Row | None = self._connection.execute(sql).fetchone()
        return found


@asynccontextmanager
async def questions_for(settings: "Settings") -> AsyncIterator[Questions]:
    """Questions to the database that the settings name, on a connection of their own."""
    if settings.dialect == "sqlite":
        # Nobody is waited for: who cannot be answered at once finds out in another way.
        with closing(sqlite3.connect(settings.sqlite_path, timeout=0)) as opened:
            yield SqliteQuestions(opened)
        return
    connection = await asyncpg.connect(
        asyncpg_dsn(settings.database_url),
        timeout=settings.database_connect_seconds,
        statement_cache_size=0,  # PgBouncer may stand before it
    )
    try:
        async with connection.transaction():
            yield PostgresqlQuestions(connection)
    finally:
        await connection.close(timeout=settings.database_connect_seconds)
