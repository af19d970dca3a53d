"""Migrations of the schema."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from projkit.db import revisions, row_security
from projkit.db.engine import create_single_use_engine
from projkit.db.raw_sql import RawConnection
from projkit.db.server_version import require_version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

# An arbitrary number, which must be the same in every version of projkit.
_ADVISORY_LOCK_KEY: Final = 0x70726F6A6B6974
CONNECT_SECONDS: Final = 10.0


async def upgrade(
    url: str, *, table_prefix: str = "projkit_", revision: str = "head", row_level_security: bool = False
) -> str:
    """Upgrade the schema at ``url`` to ``revision`` and return the revision; several processes may do so at once.

    At the newest revision, the policies of row-level security are created or dropped. Everything happens in one
    transaction.

    Raises:
        SchemaOutOfDateError: a newer version of projkit has migrated this database.
    """
    async with single_use(url) as engine, engine.begin() as connection:
        postgresql = connection.dialect.name == "postgresql"
        if postgresql:
            await connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK_KEY}
            )
        raw = RawConnection.of_engine(connection)
        await require_version(raw)
        current_revision = await revisions.current(raw, table_prefix)
        if current_revision is not None and current_revision not in revisions.known():
            revisions.require_head(current_revision)
        if postgresql and current_revision not in (None, revisions.head()):
            # A migration changes the rows of all owners. Other transactions do not see the tables without policies.
            await row_security.apply(connection, table_prefix, enabled=False)
        await connection.run_sync(_upgrade, table_prefix, revision)
        if postgresql and revision in ("head", revisions.head()):
            await row_security.apply(connection, table_prefix, enabled=row_level_security)
        return await revisions.current(raw, table_prefix) or ""


async def current(
    url: str, *, table_prefix: str = "projkit_", connect_seconds: float = CONNECT_SECONDS
) -> str | None:
    """Return the revision of the schema at ``url``; None if there is none yet."""
    async with single_use(url, connect_seconds) as engine, engine.connect() as connection:
        return await revisions.current(RawConnection.of_engine(connection), table_prefix)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "projkit:db/migrations")
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: sa.Connection, table_prefix: str, revision: str) -> None:
    config = _config()
    config.attributes.update(connection=connection, table_prefix=table_prefix)
    command.upgrade(config, revision)


@asynccontextmanager
async def single_use(url: str, connect_seconds: float = CONNECT_SECONDS) -> "AsyncIterator[AsyncEngine]":
    """Create an engine that keeps no connections, and close it afterwards."""
    engine = create_single_use_engine(url, connect_seconds=connect_seconds)
    if engine.dialect.name == "sqlite":
        # The driver would commit before each CREATE TABLE. An explicit transaction also locks out other migrations.
        @sa.event.listens_for(engine.sync_engine, "connect")
        def disable_implicit_transactions(connection: Any, _record: object) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        yield engine
    finally:
        await engine.dispose()
