"""Opening the database that the settings or the host name, with the schema that is needed."""

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from projkit.db import revisions, row_security
from projkit.db.errors import FAILURES
from projkit.db.port import Database
from projkit.db.postgresql import PostgresqlDatabase
from projkit.db.probe import DatabaseProbe, PostgresqlProbe, SqliteProbe
from projkit.db.raw_sql import RawConnection, raw_connection
from projkit.db.sqlite import SqliteDatabase
from projkit.db.tables import Tables
from projkit.errors import DatabaseUnavailableError
from projkit.observers import NULL_OBSERVER, Observer
from projkit.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_HINT: Final = "look closer with: projkit check"


async def open_database(
    settings: Settings,
    tables: Tables,
    engine: "AsyncEngine | None" = None,
    observer: Observer = NULL_OBSERVER,
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
            await _migrate_embedded(settings)
        else:
            await require_schema(settings, engine)
    except FAILURES as error:
        reason = getattr(error, "orig", None) or error
        where = f"PROJKIT_DATABASE_URL: the database {_shown(settings)}"
        if engine is not None:
            where = f"the engine that was handed in: {engine.url.render_as_string(hide_password=True)}"
        raise DatabaseUnavailableError(
            f"{where} does not answer ({type(reason).__name__}: {reason}); {_HINT}"
        ) from error
    seconds = settings.database_statement_seconds
    if engine is not None or settings.database_mode == "transactional":
        # SQLAlchemy's engines bring its ORM with them, some 8 MiB that a kit on a driver does without.
        from projkit.db.engine import EngineDatabase, create_engine  # noqa: PLC0415

        return EngineDatabase(
            engine
            or create_engine(
                settings.database_url,
                pool_size=settings.database_pool_size,
                connect_seconds=settings.database_connect_seconds,
                pool_wait_seconds=settings.database_pool_wait_seconds,
            ),
            tables.metadata,
            statement_seconds=seconds,
            owned=engine is None,
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


def open_probe(settings: Settings, engine: "AsyncEngine | None", *, seconds: float) -> DatabaseProbe:
    """Return a health probe of the database in the settings, or of the host's engine; it connects when first used.

    ``seconds`` limits connecting to PostgreSQL and each of its statements.
    """
    sql = revisions.newest_revision_sql(settings.table_prefix)
    if engine is not None:
        # A host with an engine has already loaded SQLAlchemy's asyncio package, which this imports.
        from projkit.db.engine_probe import EngineProbe  # noqa: PLC0415

        return EngineProbe(engine, sql)
    if settings.embedded:
        return SqliteProbe(settings.sqlite_path, sql)
    # PgBouncer rejects a connection that brings such timeouts.
    set_timeouts = settings.database_mode == "fast"
    return PostgresqlProbe(settings.database_url, sql, seconds=seconds, set_timeouts=set_timeouts)


async def require_schema(
    settings: Settings, engine: "AsyncEngine | None" = None, *, serving: bool = True
) -> None:
    """Holds the schema and its row-level security against what is needed; ``serving`` the role as well.

    Raises:
        SchemaOutOfDateError: the schema is another one; the message names the command that mends it.
        ConfigurationError: row-level security is asked for and would not hold, or holds and is not asked for.
    """
    if engine is None:
        async with raw_connection(settings) as connection:
            await _require_schema(settings, connection, serving=serving)
    else:
        async with engine.connect() as connection:
            await _require_schema(settings, RawConnection.of_engine(connection), serving=serving)


async def _require_schema(settings: Settings, connection: RawConnection, *, serving: bool) -> None:
    revisions.require(await revisions.current(connection, settings.table_prefix))
    await row_security.require_policies(connection, settings.table_prefix, wanted=settings.row_level_security)
    if serving and settings.row_level_security:
        await row_security.require_obedience(connection)


async def _migrate_embedded(settings: Settings) -> None:
    """Alembic, with what it imports some 10 MiB, only where there is something to do."""
    if settings.sqlite_path.is_file():
        with suppress(sqlite3.Error):  # whatever is wrong, migrating says it better
            async with raw_connection(settings) as connection:
                if await revisions.current(connection, settings.table_prefix) == revisions.head():
                    return
    from projkit.db import migrate  # noqa: PLC0415

    await migrate.upgrade(settings.database_url, table_prefix=settings.table_prefix)


def _shown(settings: Settings) -> str:
    if settings.embedded:
        return str(settings.sqlite_path)
    parts = urlsplit(settings.database_url)
    return f"{parts.path.lstrip('/')} at {parts.hostname}:{parts.port or 5432}"
