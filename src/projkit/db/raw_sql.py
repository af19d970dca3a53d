"""SQL text without parameters, run on a single connection of a driver: for start-up checks and health probes.

SQLAlchemy's engines bring its ORM with them, which a server that runs on a driver would then hold for good. Each
driver therefore has one function here that runs a text and returns the first row.
"""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from projkit.db.postgresql_connector import PostgresqlConnector, session_settings
from projkit.db.statement import Row

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from projkit.settings import Settings


async def engine_first_row(connection: "AsyncConnection", sql: str) -> Row | None:
    """Return the first row of ``sql`` on a connection of an ``AsyncEngine``, or None."""
    return (await connection.exec_driver_sql(sql)).first()


async def postgresql_first_row(connection: Any, sql: str) -> Row | None:
    """Return the first row of ``sql`` on a connection of asyncpg, or None."""
    row: Row | None = await connection.fetchrow(sql)
    return row


def sqlite_first_row(connection: sqlite3.Connection, sql: str) -> Row | None:
    """Return the first row of ``sql`` in an SQLite file, or None."""
    row: Row | None = connection.execute(sql).fetchone()
    return row


@dataclass(frozen=True, slots=True)
class RawConnection:
    """One connection that runs SQL text, in one transaction where the database has transactions for reads."""

    dialect: str
    first_row: Callable[[str], Awaitable[Row | None]]

    @classmethod
    def of_engine(cls, connection: "AsyncConnection") -> "RawConnection":
        """Wrap a connection of an ``AsyncEngine``."""
        return cls(connection.dialect.name, partial(engine_first_row, connection))


@asynccontextmanager
async def raw_connection(settings: "Settings") -> AsyncIterator[RawConnection]:
    """Open a connection to the database in the settings, and close it afterwards."""
    if settings.dialect == "sqlite":
        # Never wait for a lock: opening or migrating the database afterwards waits, or reports the error.
        with closing(sqlite3.connect(settings.sqlite_path, timeout=0)) as file:

            async def first_row(sql: str) -> Row | None:
                return sqlite_first_row(file, sql)

            yield RawConnection("sqlite", first_row)
        return
    # As in the mode in use, because PgBouncer rejects the settings of the fast mode.
    fast = settings.database_mode == "fast"
    connect = PostgresqlConnector(
        settings.database_url,
        connect_seconds=settings.database_connect_seconds,
        server_settings=session_settings(settings.database_statement_seconds) if fast else None,
    )
    connection = await connect()
    try:
        async with connection.transaction(isolation="read_committed"):
            yield RawConnection("postgresql", partial(postgresql_first_row, connection))
    finally:
        await connection.close(timeout=settings.database_connect_seconds)
