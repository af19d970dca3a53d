"""Which revision of the schema there is, and which is needed: without alembic, which only who migrates imports."""

from functools import cache
from importlib.resources import files
from typing import Final

from projkit.db.raw_sql import RawConnection
from projkit.errors import SchemaOutOfDateError

_MIGRATIONS: Final = "projkit.db.migrations.versions"
_HAS_TABLE: Final = {
    "postgresql": "SELECT to_regclass('{}') IS NOT NULL",
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{}'",
}


@cache
def known() -> tuple[str, ...]:
    """The revisions that this version of projkit knows, oldest first; each migration's file begins with its own."""
    names = (each.name.partition("_")[0] for each in files(_MIGRATIONS).iterdir())
    return tuple(sorted(name for name in names if name.isdigit()))


def head() -> str:
    """The revision that this version of projkit needs."""
    return known()[-1]


def table_of(table_prefix: str) -> str:
    """The table that has the schema's revision."""
    return f"{table_prefix}alembic_version"


def newest_revision_sql(table_prefix: str) -> str:
    """What its revision is, as a statement; the prefix is checked by the settings."""
    return f"SELECT max(version_num) FROM {table_of(table_prefix)}"  # noqa: S608


async def current(connection: RawConnection, table_prefix: str) -> str | None:
    """The schema's revision; None where there is none yet."""
    table = table_of(table_prefix)
    there = await connection.first_row(_HAS_TABLE[connection.dialect].format(table))
    if there is None or not there[0]:
        return None
    found = await connection.first_row(newest_revision_sql(table_prefix))
    return None if found is None else found[0]


def require(found: str | None) -> None:
    """Holds a schema's revision against the one that is needed.

    Raises:
        SchemaOutOfDateError: it is another one; the message names the command that mends it.
    """
    wanted = head()
    if found == wanted:
        return
    if found is not None and found not in known():
        raise SchemaOutOfDateError(
            f"PROJKIT_DATABASE_URL: the database's schema is at revision {found}, which this version of projkit "
            "does not know; it was migrated by a newer one, so upgrade with: pip install --upgrade projkit"
        )
    state = f"is at revision {found}" if found else "has no tables of projkit"
    raise SchemaOutOfDateError(
        f"PROJKIT_DATABASE_URL: the database {state}, and revision {wanted} is needed; "
        "bring it up to date with: projkit migrate"
    )
