"""Opening the database that the settings or the host name, with the schema that is needed."""

from typing import Final
from urllib.parse import urlsplit

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from projkit.db import migrate, row_security
from projkit.db.engine import EngineDatabase, create_engine
from projkit.db.observer import NOBODY, Observer
from projkit.db.port import Database
from projkit.db.postgresql import PostgresqlDatabase
from projkit.db.sqlite import SqliteDatabase
from projkit.db.tables import Tables
from projkit.errors import DatabaseUnavailableError
from projkit.settings import Settings

_HINT: Final = "look closer with: projkit check"


async def open_database(
    settings: Settings, tables: Tables, engine: AsyncEngine | None = None, observer: Observer = NOBODY
) -> Database:
    """The database, checked to have the schema of this version.

    The embedded database is migrated on the way; any other is migrated by ``projkit migrate`` alone.

    Raises:
        SchemaOutOfDateError: the schema is another one; the message names the command that mends it.
        ConfigurationError: row-level security is asked for and would not hold, or holds and is not asked for.
        DatabaseUnavailableError: the database does not answer; the message names the setting.
    """
    try:
        if engine is None and settings.embedded:
            await migrate.upgrade(settings.database_url, table_prefix=settings.table_prefix)
        else:
            await require_schema(settings, engine)
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        sa.exc.SQLAlchemyError,
    ) as error:
        reason = getattr(error, "orig", None) or error
        where = f"PROJKIT_DATABASE_URL: the database {_shown(settings)}"
        if engine is not None:
            where = f"the engine that was handed in: {engine.url.render_as_string(hide_password=True)}"
        raise DatabaseUnavailableError(
            f"{where} does not answer ({type(reason).__name__}: {reason}); {_HINT}"
        ) from error
    seconds = settings.database_statement_seconds
    if engine is not None:
        return EngineDatabase(
            engine,
            tables.metadata,
            statement_seconds=seconds,
            owned=False,
            row_level_security=settings.row_level_security,
            observer=observer,
        )
    if settings.database_mode == "transactional":
        own = create_engine(
            settings.database_url,
            pool_size=settings.database_pool_size,
            connect_seconds=settings.database_connect_seconds,
            pool_wait_seconds=settings.database_pool_wait_seconds,
        )
        return EngineDatabase(
            own,
            tables.metadata,
            statement_seconds=seconds,
            owned=True,
            row_level_security=settings.row_level_security,
            observer=observer,
        )
    if settings.dialect == "sqlite":
        return SqliteDatabase.open(
            settings.sqlite_path,
            tables.metadata,
            pool_size=settings.database_pool_size,
            wait_seconds=settings.database_pool_wait_seconds,
            statement_seconds=seconds,
            observer=observer,
        )
    return PostgresqlDatabase.open(
        settings.database_url,
        pool_size=settings.database_pool_size,
        connect_seconds=settings.database_connect_seconds,
        pool_wait_seconds=settings.database_pool_wait_seconds,
        statement_seconds=seconds,
        row_level_security=settings.row_level_security,
        observer=observer,
    )


async def require_schema(
    settings: Settings, engine: AsyncEngine | None = None, *, serving: bool = True
) -> None:
    """Holds the schema and its row-level security against what is needed; ``serving`` the role as well.

    Raises:
        SchemaOutOfDateError: the schema is another one; the message names the command that mends it.
        ConfigurationError: row-level security is asked for and would not hold, or holds and is not asked for.
    """
    if engine is None:
        async with migrate.single_use(settings.database_url, settings.database_connect_seconds) as own:
            await require_schema(settings, own, serving=serving)
        return
    migrate.require(await migrate.current_of(engine, table_prefix=settings.table_prefix))
    async with engine.connect() as connection:
        await row_security.require_policies(
            connection, settings.table_prefix, wanted=settings.row_level_security
        )
        if serving and settings.row_level_security:
            await row_security.require_obedience(connection)


def _shown(settings: Settings) -> str:
    if settings.embedded:
        return str(settings.sqlite_path)
    parts = urlsplit(settings.database_url)
    return f"{parts.path.lstrip('/')} at {parts.hostname}:{parts.port or 5432}"
