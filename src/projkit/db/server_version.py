"""The oldest versions of PostgreSQL and SQLite that know the SQL of the kit's statements and migrations."""

import re
from typing import Final, NamedTuple

from projkit.db.port import required_row
from projkit.db.raw_sql import RawConnection
from projkit.errors import ConfigurationError


class _Minimum(NamedTuple):
    name: str
    sql: str  # returns the version as a text that begins with its number
    version: tuple[int, ...]
    feature: str
    fix: str


_NUMBER: Final = re.compile(r"\d+(?:\.\d+)*")
_MINIMA: Final = {
    "postgresql": _Minimum(
        "PostgreSQL", "SHOW server_version", (11,), "indexes with INCLUDE", "upgrade the server"
    ),
    "sqlite": _Minimum(
        "SQLite",
        "SELECT sqlite_version()",
        (3, 35),
        "RETURNING",
        "use a Python that was built with a newer one (python -c 'import sqlite3; print(sqlite3.sqlite_version)')",
    ),
}


async def require_version(connection: RawConnection) -> None:
    """Check that the database is new enough.

    Raises:
        ConfigurationError: it is too old.
    """
    minimum = _MINIMA[connection.dialect]
    row = await connection.first_row(minimum.sql)
    number = _NUMBER.findall(required_row(row)[0])[0]
    version = tuple(map(int, number.split(".")))
    if version < minimum.version:
        oldest = ".".join(map(str, minimum.version))
        raise ConfigurationError(
            f"{minimum.name} {number} is too old: {oldest} is required, because of {minimum.feature}; {minimum.fix}"
        )
