"""PostgreSQL databases with row-level security and a role that is subject to it, and with a schema of the kit's own."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from projkit import Settings
from projkit.db import migrate, revisions
from projkit.db.raw_sql import raw_connection
from projkit.db.table_names import TableNames
from tests.conftest import settings_for
from tests.services import Postgres, administer, database_url, empty

_PASSWORD = "rls"
OWN_TABLES = (
    "DO $$ DECLARE each record; BEGIN FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP "
    "EXECUTE format('ALTER TABLE %I OWNER TO {role}', each.tablename); END LOOP; END $$"
)

OWN_SCHEMA = "order"  # a keyword of SQL, so that a name without quotes is an error


async def run_as_superuser(url: str, *statements: str) -> None:
    """Run statements as the server's superuser."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def current_revision(url: str, database_schema: str = "") -> str | None:
    """Return the revision of the tables at ``url``; None if there are none."""
    settings = settings_for(url, database_schema=database_schema)
    async with raw_connection(settings) as connection:
        found = await revisions.current(connection, TableNames.of(settings))
    return None if found is None else found.revision


@dataclass(frozen=True)
class RlsDatabase:
    """A database with row-level security, and the URLs of its superuser and of ``role``."""

    name: str
    role: str

    @property
    def admin_url(self) -> str:
        """URL of the superuser, who bypasses the policies."""
        return database_url(self.name)

    @property
    def url(self) -> str:
        """URL of the role, which has no privileges except on its tables."""
        return self.url_of(self.role)

    def url_of(self, role: str) -> str:
        """Return the URL of a role with the tests' password."""
        parts = urlsplit(self.admin_url)
        return urlunsplit(parts._replace(netloc=f"{role}:{_PASSWORD}@{parts.hostname}:{parts.port or 5432}"))

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of a kit with row-level security."""
        return settings_for(self.url, **{"row_level_security": True, **changes})

    async def migrate(self, *, row_level_security: bool) -> None:
        """Run the migrations as ``role``."""
        url = self.url.replace("postgresql://", "postgresql+asyncpg://")
        await migrate.upgrade(url, row_level_security=row_level_security)

    async def admin(self, *statements: str) -> None:
        """Run statements as the superuser."""
        await run_as_superuser(self.admin_url, *statements)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database of each kind, with its driver."""
    url: str = request.getfixturevalue(
        "empty_sqlite_url" if request.param == "sqlite" else "empty_postgres_url"
    )
    return settings_for(url).database_url


@pytest.fixture(scope="session")
def role(postgres: Postgres, worker_id: str) -> Iterator[str]:
    """Create a role that is neither a superuser nor bypasses row-level security."""
    # Test modules of other folders that import this fixture get a role of their own.
    name = f"projkit_test_{os.getpid()}_{worker_id}_{secrets.token_hex(3)}_role"
    asyncio.run(administer(f"CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{_PASSWORD}'"))
    yield name
    asyncio.run(administer(f"DROP ROLE {name}"))


@pytest.fixture(scope="session")
def rls_template(postgres: Postgres, role: str) -> Iterator[str]:
    """Create a migrated database with policies, whose tables belong to the role."""
    name = postgres.create(migrated=True)

    async def prepare() -> None:
        await run_as_superuser(
            database_url(name), f"GRANT CREATE ON SCHEMA public TO {role}", OWN_TABLES.format(role=role)
        )
        await RlsDatabase(name, role).migrate(row_level_security=True)

    asyncio.run(prepare())
    yield name
    postgres.drop(name)


@pytest.fixture
def rls_database(postgres: Postgres, role: str, rls_template: str) -> Iterator[RlsDatabase]:
    """Create a database with policies."""
    name = postgres.create(migrated=True, template=rls_template)
    yield RlsDatabase(name, role)
    postgres.drop(name)


@pytest.fixture(scope="module")
def module_rls_database(postgres: Postgres, role: str, rls_template: str) -> Iterator[RlsDatabase]:
    """Create a database with policies for all tests of a module."""
    name = postgres.create(migrated=True, template=rls_template)
    yield RlsDatabase(name, role)
    postgres.drop(name)


@pytest.fixture
def emptied_rls_database(module_rls_database: RlsDatabase) -> RlsDatabase:
    """Return the module's database without rows, for tests that change only rows."""
    asyncio.run(empty(module_rls_database.admin_url))
    return module_rls_database


@pytest.fixture(scope="session")
def schema_template(postgres: Postgres) -> Iterator[str]:
    """Create a database whose tables are in a schema of their own."""
    name = postgres.create(migrated=False)
    asyncio.run(migrate.upgrade(settings_for(database_url(name)).database_url, database_schema=OWN_SCHEMA))
    yield name
    postgres.drop(name)


@pytest.fixture
def schema_url(postgres: Postgres, schema_template: str) -> Iterator[str]:
    """Create a database without rows whose tables are in a schema of their own."""
    name = postgres.create(migrated=True, template=schema_template)
    yield database_url(name)
    postgres.drop(name)
