"""Bringing a database's schema up to date, and telling whether it is."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine

from projkit.db import row_security
from projkit.db.engine import create_single_use_engine
from projkit.errors import SchemaOutOfDateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Any number will do, so long as every version of projkit uses the same one.
_ADVISORY_LOCK: Final = 0x70726F6A6B6974
CONNECT_SECONDS: Final = 10.0


def head() -> str:
    """The revision that this version of projkit needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None  # noqa: S101  # the package ships its migrations
    return revision


async def upgrade(
    url: str, *, table_prefix: str = "projkit_", revision: str = "head", row_level_security: bool = False
) -> str:
    """Brings the schema at ``url`` to ``revision``; safe when several start at once. Returns the revision.

    At the newest revision the policies of row-level security are put up or taken down, as asked. All of it happens
    in one transaction: it is applied whole or not at all.

    Raises:
        SchemaOutOfDateError: a newer version of projkit has migrated this database.
    """
    async with single_use(url) as engine, engine.begin() as connection:
        postgresql = connection.dialect.name == "postgresql"
        if postgresql:
            await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        found = await connection.run_sync(_current, table_prefix)
        if found is not None and found not in _known_revisions():
            require(found)
        if postgresql and found not in (None, head()):
            # A revision changes the rows of all owners; until the end of the transaction nobody else sees them.
            await row_security.apply(connection, table_prefix, wanted=False)
        await connection.run_sync(_upgrade, table_prefix, revision)
        if postgresql and revision in ("head", head()):
            await row_security.apply(connection, table_prefix, wanted=row_level_security)
        return await connection.run_sync(_current, table_prefix) or ""


async def current(
    url: str, *, table_prefix: str = "projkit_", connect_seconds: float = CONNECT_SECONDS
) -> str | None:
    """The revision of the schema at ``url``; None where there is none yet."""
    async with single_use(url, connect_seconds) as engine:
        return await current_of(engine, table_prefix=table_prefix)


async def current_of(engine: AsyncEngine, *, table_prefix: str) -> str | None:
    """As :func:`current`, through an engine that is there already."""
    async with engine.connect() as connection:
        return await connection.run_sync(_current, table_prefix)


def require(found: str | None) -> None:
    """Holds a schema's revision against the one that is needed.

    Raises:
        SchemaOutOfDateError: it is another one; the message names the command that mends it.
    """
    wanted = head()
    if found == wanted:
        return
    if found is not None and found not in _known_revisions():
        raise SchemaOutOfDateError(
            f"PROJKIT_DATABASE_URL: the database's schema is at revision {found}, which this version of projkit "
            "does not know; it was migrated by a newer one, so upgrade with: pip install --upgrade projkit"
        )
    state = f"is at revision {found}" if found else "has no tables of projkit"
    raise SchemaOutOfDateError(
        f"PROJKIT_DATABASE_URL: the database {state}, and revision {wanted} is needed; "
        "bring it up to date with: projkit migrate"
    )


def _known_revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "projkit:db/migrations")
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: sa.Connection, table_prefix: str, revision: str) -> None:
    config = _config()
    config.attributes.update(connection=connection, table_prefix=table_prefix)
    command.upgrade(config, revision)


def _current(connection: sa.Connection, table_prefix: str) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": f"{table_prefix}alembic_version"})
    return context.get_current_revision()


@asynccontextmanager
async def single_use(url: str, connect_seconds: float = CONNECT_SECONDS) -> "AsyncIterator[AsyncEngine]":
    """An engine that keeps no connection, closed afterwards."""
    engine = create_single_use_engine(url, connect_seconds=connect_seconds)
    if engine.dialect.name == "sqlite":
        # The driver would commit before each CREATE TABLE; a transaction of our own also keeps a second one out.
        @sa.event.listens_for(engine.sync_engine, "connect")
        def take_over(connection: Any, _record: object) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        yield engine
    finally:
        await engine.dispose()
