"""Opening the database that the settings or the host name, with the schema that is needed."""

from typing import Final
from urllib.parse import urlsplit

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from projkit.db import migrate
from projkit.db.engine import EngineDatabase, create_engine
from projkit.db.port import Database
from projkit.db.postgresql import PostgresqlDatabase
from projkit.db.sqlite import SqliteDatabase
from projkit.db.tables import Tables
from projkit.errors import DatabaseUnavailableError
from projkit.settings import Settings

_HINT: Final = "look closer with: projkit check"


async def open_database(settings: Settings, tables: Tables, engine: AsyncEngine | None = None) -> Database:
    """The database, checked to have the schema of this version.

    The embedded database is migrated on the way; any other is migrated by ``projkit migrate`` alone.

    Raises:
        SchemaOutOfDateError: the schema is another one; the message names the command that mends it.
        DatabaseUnavailableError: the database does not answer; the message names the setting.
    """
    try:
        await _check_schema(settings, engine)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, sa.exc.SQLAlchemyError) as error:
        reason = getattr(error, "orig", None) or error
        raise DatabaseUnavailableError(
            f"PROJKIT_DATABASE_URL: the database {_shown(settings)} does not answer "
            f"({type(reason).__name__}: {reason}); {_HINT}"
        ) from error
    seconds = settings.database_statement_seconds
    if engine is not None:
        return EngineDatabase(engine, tables.metadata, statement_seconds=seconds, owned=False)
    if settings.database_mode == "transactional":
        own = create_engine(
            settings.database_url,
            pool_size=settings.database_pool_size,
            connect_seconds=settings.database_connect_seconds,
            pool_wait_seconds=settings.database_pool_wait_seconds,
        )
        return EngineDatabase(own, tables.metadata, statement_seconds=seconds, owned=True)
    if settings.dialect == "sqlite":
        return SqliteDatabase.open(
            settings.sqlite_path,
            tables.metadata,
            pool_size=settings.database_pool_size,
            wait_seconds=settings.database_pool_wait_seconds,
            statement_seconds=seconds,
        )
    return PostgresqlDatabase.open(
        settings.database_url,
        pool_size=settings.database_pool_size,
        connect_seconds=settings.database_connect_seconds,
        pool_wait_seconds=settings.database_pool_wait_seconds,
        statement_seconds=seconds,
    )


async def _check_schema(settings: Settings, engine: AsyncEngine | None) -> None:
    if engine is not None:
        migrate.require(await migrate.current_of(engine, table_prefix=settings.table_prefix))
    elif settings.embedded:
        await migrate.upgrade(settings.database_url, table_prefix=settings.table_prefix)
    else:
        migrate.require(await migrate.current(settings.database_url, table_prefix=settings.table_prefix))


def _shown(settings: Settings) -> str:
    if settings.embedded:
        return str(settings.sqlite_path)
    parts = urlsplit(settings.database_url)
    return f"{parts.path.lstrip('/')} at {parts.hostname}:{parts.port or 5432}"
