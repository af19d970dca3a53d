"""The revisions of the schema, without importing Alembic, which takes some 10 MiB and only migrations need.

Each version of projkit runs on a range of schemas: from :data:`OLDEST`, the newest schema of the release before it, to
any newer one whose migrations say that this version can use it. So the database can be migrated before or after
servers are replaced, and an old server can be restarted in between. On PostgreSQL, the table of the revision has both:
the column ``revision``, and in ``version_num`` the revision that a version of projkit has to know to use the schema,
which version 0.1.0 compares with its own.
"""

from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple, Self

from projkit.db import schema
from projkit.db.raw_sql import RawConnection
from projkit.db.table_names import TableNames
from projkit.errors import SchemaOutOfDateError

MIGRATIONS: Final = "projkit.db.migrations.versions"
# The newest revision of the release before this version; see the rules in docs/decisions/storage.md.
OLDEST: Final = "0004"
_HAS_TABLE: Final = {
    "postgresql": "SELECT to_regclass('{qualified}') IS NOT NULL",
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{name}'",
}
# Both in one value. A table that Alembic has created has no column "revision".
_READ: Final = {
    "postgresql": (
        "SELECT max(version_num) || ' ' || greatest(max(version_num), max(to_jsonb(version) ->> 'revision')) "
        "FROM {} version"
    ),
    "sqlite": "SELECT max(version_num) || ' ' || max(version_num) FROM {}",
}


class SchemaRevision(NamedTuple):
    """The revision of a schema, and the one that a version of projkit has to know to use it."""

    required: str
    revision: str

    @classmethod
    def parse(cls, value: str | None) -> Self | None:
        """Read the value of :func:`current_revision_sql`."""
        return None if value is None else cls(*value.split(" "))


@cache
def known() -> tuple[str, ...]:
    """Return the revisions of this version of projkit, oldest first, from the names of the migrations' files."""
    names = (each.name.partition("_")[0] for each in files(MIGRATIONS).iterdir())
    return tuple(sorted(name for name in names if name.isdigit()))


def head() -> str:
    """Return the newest revision that this version of projkit knows."""
    return known()[-1]


def current_revision_sql(names: TableNames, dialect: str) -> str:
    """Return the SQL that reads the schema's revision, for :meth:`SchemaRevision.parse`."""
    return _READ[dialect].format(names.qualified(names.version_table))


async def current(connection: RawConnection, names: TableNames) -> SchemaRevision | None:
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
    row = await connection.first_row(current_revision_sql(names, connection.dialect))
    return None if row is None else SchemaRevision.parse(row[0])


async def require_usable(connection: RawConnection, names: TableNames, *, host_engine: bool = False) -> str:
    """Check that this version runs on the schema, and return the schema's revision.

    Raises:
        SchemaOutOfDateError: it does not; the message names the command that fixes it.
        ConfigurationError: the role may not use the PostgreSQL schema, or the database has no schemas.
    """
    found = await current(connection, names)
    if found is None:
        await schema.require_no_other(connection, names)
    return require_supported(found, host_engine=host_engine)


def require_supported(found: SchemaRevision | None, *, host_engine: bool = False) -> str:
    """Check that this version runs on a schema, that of a host's engine or of DATABASE_URL; return its revision.

    Raises:
        SchemaOutOfDateError: it does not; the message names the command that fixes it.
    """
    database = "the database of the host's engine" if host_engine else "PROJKIT_DATABASE_URL: the database"
    if found is not None and found.required > head():
        raise SchemaOutOfDateError(
            f"{database} has the schema of revision {found.revision}, which this version of projkit "
            "cannot use. A newer version of projkit has migrated it: install that version"
        )
    if found is not None and found.revision >= OLDEST:
        return found.revision
    state = f"is at revision {found.revision}" if found else "has no projkit tables"
    command = "PROJKIT_DATABASE_URL=<its URL> projkit migrate" if host_engine else "projkit migrate"
    raise SchemaOutOfDateError(
        f"{database} {state}, but revision {OLDEST} is required; upgrade it with: {command}"
    )
