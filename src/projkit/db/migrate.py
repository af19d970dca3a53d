"""Migrations of the schema."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from projkit.db import revisions, row_security, schema
from projkit.db.engine import create_single_use_engine
from projkit.db.raw_sql import RawConnection
from projkit.db.server_version import require_version
from projkit.db.table_names import TableNames
from projkit.db.tables import build_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

# An arbitrary number, which must be the same in every version of projkit.
_ADVISORY_LOCK_KEY: Final = 0x70726F6A6B6974
CONNECT_SECONDS: Final = 10.0


async def upgrade(
    url: str,
    *,
    table_prefix: str = "projkit_",
    database_schema: str = "",
    revision: str = "head",
    row_level_security: bool = False,
    new: bool = False,
) -> str:
    """Upgrade the schema at ``url`` to ``revision`` and return the revision; several processes may do so at once.

    A ``database_schema`` is created if it does not exist. At the newest revision, the policies of row-level security
    are created or dropped. Everything happens in one transaction.

    Raises:
        SchemaOutOfDateError: a newer version of projkit has migrated this database; or it has no tables yet, but
            another schema has, and they are not to be ``new``.
        ConfigurationError: the role lacks a privilege, or other tables have the names of the kit's.
    """
    names = TableNames(table_prefix, database_schema)
    names.require_dialect("sqlite" if url.startswith("sqlite") else "postgresql")
    async with single_use(url) as engine, engine.begin() as connection:
        postgresql = connection.dialect.name == "postgresql"
        if postgresql:
            await connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK_KEY}
            )
        raw = RawConnection.of_engine(connection)
        await require_version(raw)
        if names.schema:
            await schema.prepare(connection, names)
        current_revision = await revisions.current(raw, names)
        if current_revision is None:
            await _require_room(raw, names, new=new)
        elif current_revision not in revisions.known():
            revisions.require_head(current_revision)
        if postgresql and current_revision != revisions.head():
            await schema.require_create(raw, names)
        if postgresql and current_revision not in (None, revisions.head()):
            # A migration changes the rows of all owners. Other transactions do not see the tables without policies.
            await row_security.apply(connection, names, enabled=False)
        await connection.run_sync(_upgrade, names, revision)
        if postgresql and revision in ("head", revisions.head()):
            await row_security.apply(connection, names, enabled=row_level_security)
        return await revisions.current(raw, names) or ""


async def _require_room(connection: RawConnection, names: TableNames, *, new: bool) -> None:
    """Check that the first migration creates no second set of tables by mistake, and finds no others in its place."""
    if not new:
        await schema.require_no_other(connection, names)
    relations = []
    for table in build_tables(names.prefix).metadata.tables.values():
        relations += [table.name, str(table.primary_key.name), *(str(index.name) for index in table.indexes)]
    await schema.require_unused_names(connection, names, relations)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "projkit:db/migrations")
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: sa.Connection, names: TableNames, revision: str) -> None:
    config = _config()
    config.attributes.update(connection=connection, names=names, table_prefix=names.prefix)
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
