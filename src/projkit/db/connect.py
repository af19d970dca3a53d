"""Opening the database of the settings or of the host's engine, after checking its schema."""

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from projkit.db import revisions, row_security
from projkit.db.errors import DRIVER_ERRORS, describe
from projkit.db.port import Database, required_row
from projkit.db.postgresql import PostgresqlDatabase
from projkit.db.postgresql_connector import session_settings
from projkit.db.probe import DatabaseProbe, PostgresqlProbe, SqliteProbe
from projkit.db.raw_sql import RawConnection, raw_connection
from projkit.db.server_version import require_server
from projkit.db.sqlite import SqliteDatabase
from projkit.db.table_names import TableNames
from projkit.db.tables import Tables, tables_of
from projkit.errors import DatabaseUnavailableError
from projkit.observers import NULL_OBSERVER, Observer
from projkit.settings import Settings, parse_postgresql_url

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

logger: Final = logging.getLogger("projkit.db")

_HINT: Final = "for details, run: projkit check"


async def open_database(
    settings: Settings,
    tables: Tables,
    engine: "AsyncEngine | None" = None,
    observer: Observer = NULL_OBSERVER,
) -> Database:
    """Open the database, after checking that this version runs on its schema.

    The embedded database is migrated first. Any other is migrated only by ``projkit migrate``.

    Raises:
        SchemaOutOfDateError: this version does not run on the schema; the message names the command that fixes it.
        ConfigurationError: row-level security differs from its setting, or cannot be enforced.
        DatabaseUnavailableError: the database is unavailable; the message names the setting.
    """
    if engine is not None:
        # A host with an engine has already loaded SQLAlchemy's asyncio package, which this imports.
        from projkit.db.host_engine import for_kit  # noqa: PLC0415

        engine = for_kit(engine)
    isolation_level = await _prepare(settings, engine)
    seconds = settings.database_statement_seconds
    if engine is not None or settings.database_mode == "transactional":
        # SQLAlchemy's engines import its ORM, some 8 MiB that a kit on a driver saves.
        from projkit.db.engine import EngineDatabase, create_engine  # noqa: PLC0415

        return EngineDatabase(
            engine
            or create_engine(
                settings.database_url,
                pool_size=settings.database_pool_size,
                connect_seconds=settings.database_connect_seconds,
                pool_wait_seconds=settings.database_pool_wait_seconds,
                maximum_age_seconds=settings.database_connection_max_seconds,
            ),
            tables.metadata,
            statement_seconds=seconds,
            owned=engine is None,
            isolation_level=isolation_level,
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
        maximum_age_seconds=settings.database_connection_max_seconds,
        row_level_security=settings.row_level_security,
        observer=observer,
    )


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[tuple[Database, Tables]]:
    """Open the database of the settings, yield it with its tables, and close it afterwards."""
    tables = tables_of(settings)
    database = await open_database(settings, tables)
    try:
        yield database, tables
    finally:
        await database.close()


def open_probe(settings: Settings, engine: "AsyncEngine | None", *, seconds: float) -> DatabaseProbe:
    """Return a health probe of the database in the settings, or of the host's engine; it connects when first used.

    ``seconds`` limits connecting to PostgreSQL and each of its statements.
    """
    dialect = settings.dialect if engine is None else engine.dialect.name
    sql = revisions.current_revision_sql(TableNames.of(settings), dialect)
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
    """Check the schema and its row-level security; with ``serving``, also that the role is subject to it.

    Raises:
        SchemaOutOfDateError: this version does not run on the schema; the message names the command that fixes it.
        ConfigurationError: row-level security differs from its setting, or cannot be enforced.
    """
    if engine is None:
        async with raw_connection(settings) as connection:
            await _require_schema(settings, connection, serving=serving, host_engine=False)
            if settings.database_mode == "fast" and connection.dialect == "postgresql":
                await _warn_of_pooler(settings, connection)
    else:
        async with engine.connect() as connection:
            await _require_schema(
                settings, RawConnection.of_engine(connection), serving=serving, host_engine=True
            )


async def _prepare(settings: Settings, engine: "AsyncEngine | None") -> str | None:
    """Migrate the embedded database, or check any other.

    Returns:
        The isolation level to set on connections of the host's engine; None if they have that of the kit.
    """
    isolation_level = None
    try:
        if engine is not None:
            from projkit.db.engine_check import require_usable  # noqa: PLC0415

            isolation_level = await require_usable(engine)
            await require_schema(settings, engine)
        elif settings.embedded:
            await _migrate_embedded(settings)
        else:
            await require_schema(settings)
    except DRIVER_ERRORS as error:
        if engine is None:
            database = f"PROJKIT_DATABASE_URL: the database {_without_password(settings)}"
        else:
            database = (
                f"The database of the host's engine, {engine.url.render_as_string(hide_password=True)},"
            )
        raise DatabaseUnavailableError(f"{database} is unavailable ({describe(error)}); {_HINT}") from error
    return isolation_level


async def _require_schema(
    settings: Settings, connection: RawConnection, *, serving: bool, host_engine: bool
) -> None:
    await require_server(connection)
    names = TableNames.of(settings)
    await revisions.require_usable(connection, names, host_engine=host_engine)
    await row_security.require_policies(connection, names, enabled=settings.row_level_security)
    if serving and settings.row_level_security:
        await row_security.require_enforcement(connection)


async def _warn_of_pooler(settings: Settings, connection: RawConnection) -> None:
    """Warn if something between the kit and the server has left out the settings of the session."""
    sent = session_settings(settings.database_statement_seconds)["statement_timeout"]
    row = await connection.first_row("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")
    if required_row(row)[0] != sent:
        logger.warning(
            "PROJKIT_DATABASE_URL: a pooler ignores the timeouts of the kit; if it is PgBouncer in transaction mode, "
            "set PROJKIT_DATABASE_MODE=transactional"
        )


async def _migrate_embedded(settings: Settings) -> None:
    names = TableNames.of(settings)
    # Alembic takes some 10 MiB with all that it imports, so it is used only if there is something to do.
    if settings.sqlite_path.is_file():
        with suppress(sqlite3.Error):  # migrating reports the same problem in more detail
            async with raw_connection(settings) as connection:
                found = await revisions.current(connection, names)
                if found is not None and found.revision == revisions.head():
                    return
    from projkit.db import migrate  # noqa: PLC0415

    await migrate.upgrade(settings.database_url, table_prefix=names.prefix, database_schema=names.schema)


def _without_password(settings: Settings) -> str:
    if settings.embedded:
        return str(settings.sqlite_path)
    return parse_postgresql_url(settings.database_url).location
