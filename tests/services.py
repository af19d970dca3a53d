"""The real services that tests talk to, and databases on them that no test shares with another at the same time."""

import asyncio
import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from projkit.db import migrate
from projkit.db.tables import build_tables

POSTGRES_URL = os.environ.get("PROJKIT_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
_REQUIRED = os.environ.get("PROJKIT_REQUIRE_SERVICES") == "1"
_TABLES = [table.name for table in reversed(build_tables("projkit_").metadata.sorted_tables)]
_EMPTY = "; ".join(f'DELETE FROM "{name}"' for name in _TABLES)
_DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


def missing(reason: str) -> None:
    """Skips the test, or fails it where services are required."""
    if _REQUIRED:
        pytest.fail(f"PROJKIT_REQUIRE_SERVICES=1, but {reason}")
    pytest.skip(reason)


def database_url(name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(POSTGRES_URL)._replace(path=f"/{name}"))


async def administer(*statements: str) -> None:
    """Runs statements on the server's maintenance database."""
    connection = await asyncpg.connect(POSTGRES_URL, timeout=5)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def open_sqlite(url: str) -> Iterator[sqlite3.Connection]:
    """Open the file of an SQLite database; commit and close it at the end (``with connection`` does not close)."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60)) as connection, connection:
        yield connection


async def empty(url: str) -> None:
    """Leaves no row in a migrated database."""
    if url.startswith("sqlite:///"):
        with closing(
            sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60, isolation_level=None)
        ) as file:
            file.executescript(f"PRAGMA synchronous = OFF; BEGIN; {_EMPTY}; COMMIT")
        return
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(_EMPTY)
    finally:
        await connection.close()


async def shape(url: str) -> list[str]:
    """Every table, index and column that there is, with what is set for it."""
    connection = await asyncpg.connect(url, timeout=60)
    try:
        return [row["part"] for row in await connection.fetch(_SHAPE)]
    finally:
        await connection.close()


_SHAPE = """
    SELECT concat_ws(' ', relname, relkind, relrowsecurity, relforcerowsecurity, attname, atttypid, attnotnull) AS part
    FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT concat_ws(' ', polname, polcmd) FROM pg_policy
    ORDER BY part
"""


class Postgres:
    """Databases cloned from a migrated template.

    Emptying one takes a hundredth of the time that making one takes, so those that no test changes in shape are
    lent again and again.
    """

    def __init__(self, worker: str) -> None:
        self._prefix = f"projkit_test_{os.getpid()}_{worker}"
        self._template = f"{self._prefix}_template"
        self._numbers = itertools.count()
        self._made = [self._template]
        self._idle: list[str] = []
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        await administer(f'CREATE DATABASE "{self._template}"')
        await migrate.upgrade(database_url(self._template).replace("postgresql://", "postgresql+asyncpg://"))
        self._shape = await shape(database_url(self._template))

    def create(self, *, migrated: bool, template: str | None = None) -> str:
        """A new database's name; it is a copy of ``template`` where one is named."""
        name = f"{self._prefix}_{next(self._numbers)}"
        template = template or (self._template if migrated else "template0")
        asyncio.run(administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        self._made.append(name)
        return name

    def borrow(self) -> str:
        """The name of a migrated database without a row, to be given back with the same tables."""
        if not self._idle:
            return self.create(migrated=True)
        name = self._idle.pop()
        asyncio.run(empty(database_url(name)))
        return name

    def give_back(self, name: str) -> None:
        """Keeps a database for the next who borrows, unless its shape was changed; ends whatever is connected."""
        asyncio.run(administer(_DISCONNECT.format(name)))
        if asyncio.run(shape(database_url(name))) == self._shape:
            self._idle.append(name)
        else:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Removes a database, whoever is still connected."""
        asyncio.run(administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        self._made.remove(name)

    def close(self) -> None:
        """Removes what is left."""
        for name in list(self._made):
            self.drop(name)


@pytest.fixture(scope="session")
def postgres(worker_id: str) -> Iterator[Postgres]:
    """The PostgreSQL server."""
    try:
        asyncio.run(administer("SELECT 1"))
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        parts = urlsplit(POSTGRES_URL)
        missing(
            f"PostgreSQL does not answer at {parts.hostname}:{parts.port} ({error}); see scripts/services"
        )
    server = Postgres(worker_id)
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A migrated PostgreSQL database without a row."""
    name = postgres.borrow()
    yield database_url(name)
    postgres.give_back(name)


@pytest.fixture
def empty_postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh PostgreSQL database without tables."""
    name = postgres.create(migrated=False)
    yield database_url(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh, migrated SQLite database."""
    path = tmp_path / "projkit.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite database that is not there yet."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest) -> str:
    """Each kind."""
    return str(request.param)


@pytest.fixture
def any_database_url(any_database: str, request: pytest.FixtureRequest) -> str:
    """A migrated database without a row, of each kind."""
    return str(request.getfixturevalue("sqlite_url" if any_database == "sqlite" else "postgres_url"))


@pytest.fixture(scope="module")
def module_database_url(
    any_database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A migrated database of each kind for all tests of a module."""
    if any_database == "sqlite":
        path = tmp_path_factory.mktemp("module") / "projkit.db"
        yield f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_template'), path)}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.borrow()
    yield database_url(name)
    postgres.give_back(name)


@pytest.fixture
def emptied_database_url(module_database_url: str) -> str:
    """The module's database without a row."""
    asyncio.run(empty(module_database_url))
    return module_database_url
