"""The revisions of the schema, without importing Alembic, which takes some 10 MiB and only migrations need."""

from functools import cache
from importlib.resources import files
from typing import Final

from projkit.db import schema
from projkit.db.raw_sql import RawConnection
from projkit.db.table_names import TableNames
from projkit.errors import SchemaOutOfDateError

MIGRATIONS: Final = "projkit.db.migrations.versions"
_HAS_TABLE: Final = {
    "postgresql": "SELECT to_regclass('{qualified}') IS NOT NULL",
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{name}'",
}


@cache
def known() -> tuple[str, ...]:
    """Return the revisions of this version of projkit, oldest first, from the names of the migrations' files."""
    names = (each.name.partition("_")[0] for each in files(MIGRATIONS).iterdir())
    return tuple(sorted(name for name in names if name.isdigit()))


def head() -> str:
    """Return the revision that this version of projkit needs."""
    return known()[-1]


def current_revision_sql(names: TableNames) -> str:
    """Return the SQL that reads the schema's revision."""
    return f"SELECT max(version_num) FROM {names.qualified(names.version_table)}"  # noqa: S608  # names are validated


async def current(connection: RawConnection, names: TableNames) -> str | None:
    """Return the schema's revision; None if there is none yet.

    Raises:
        ConfigurationError: the role may not use the PostgreSQL schema, or the database has no schemas.
    """
    await schema.require_usage(connection, names)
    table = names.version_table
    sql = _HAS_TABLE[connection.dialect].format(name=table, qualified=names.qualified(table))
    exists = await connection.first_row(sql)
    if exists is None or not exists[0]:
        return None
    row = await connection.first_row(current_revision_sql(names))
    return None if row is None else row[0]


async def require_current(connection: RawConnection, names: TableNames, *, host_engine: bool = False) -> str:
    """Check that the schema's revision is :func:`head`, and return it.

    Raises:
        SchemaOutOfDateError: it is not; the message names the command that fixes it.
        ConfigurationError: the role may not use the PostgreSQL schema, or the database has no schemas.
    """
    revision = await current(connection, names)
    if revision is None:
        await schema.require_no_other(connection, names)
    require_head(revision, host_engine=host_engine)
    return head()


def require_head(revision: str | None, *, host_engine: bool = False) -> None:
    """Check that a schema's revision is :func:`head`; the schema is that of a host's engine or of DATABASE_URL.

    Raises:
        SchemaOutOfDateError: it is not; the message names the command that fixes it.
    """
    if revision == head():
        return
    database = "the database of the host's engine" if host_engine else "PROJKIT_DATABASE_URL: the database"
    if revision is not None and revision not in known():
        raise SchemaOutOfDateError(
            f"{database} has the schema of revision {revision}, which this version of projkit "
            "does not know. A newer version has migrated it: install that version of projkit"
        )
    state = f"is at revision {revision}" if revision else "has no projkit tables"
    command = "PROJKIT_DATABASE_URL=<its URL> projkit migrate" if host_engine else "projkit migrate"
    raise SchemaOutOfDateError(
        f"{database} {state}, but revision {head()} is required; upgrade it with: {command}"
    )
