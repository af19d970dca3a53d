"""What the kit requires of a database: a version that knows its SQL, and an encoding for all text."""

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


async def require_server(connection: RawConnection) -> None:
    """Check that the database is new enough and can store all text.

    Raises:
        ConfigurationError: it is too old, or has another encoding than UTF-8.
    """
    await _require_version(connection)
    if connection.dialect == "postgresql":
        encoding = required_row(await connection.first_row("SHOW server_encoding"))[0]
        if encoding != "UTF8":
            raise ConfigurationError(
                f"the database has the encoding {encoding}, in which it cannot store all text that users enter; "
                "use one with: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
            )


async def _require_version(connection: RawConnection) -> None:
    minimum = _MINIMA[connection.dialect]
    row = await connection.first_row(minimum.sql)
    number = _NUMBER.findall(required_row(row)[0])[0]
    version = tuple(map(int, number.split(".")))
    if version < minimum.version:
        oldest = ".".join(map(str, minimum.version))
        raise ConfigurationError(
            f"{minimum.name} {number} is too old: {oldest} is required, because of {minimum.feature}; {minimum.fix}"
        )
