"""PostgreSQL databases with row-level security on, and a role that has to obey it."""

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
from projkit.db import migrate
from tests.conftest import settings_for
from tests.services import Postgres, administer, database_url, empty

_PASSWORD = "wall"
OWN_TABLES = (
    "DO $$ DECLARE each record; BEGIN FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP "
    "EXECUTE format('ALTER TABLE %I OWNER TO {role}', each.tablename); END LOOP; END $$"
)


async def as_admin(url: str, *statements: str) -> None:
    """Runs statements as the server's superuser."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@dataclass(frozen=True)
class Walled:
    """A database, as its superuser and as ``role`` reach it."""

    name: str
    role: str

    @property
    def admin_url(self) -> str:
        """For the superuser, who sees everything."""
        return database_url(self.name)

    @property
    def url(self) -> str:
        """For the role, which has no privileges beyond its tables."""
        return self.url_of(self.role)

    def url_of(self, role: str) -> str:
        """For a role with the tests' password."""
        parts = urlsplit(self.admin_url)
        return urlunsplit(parts._replace(netloc=f"{role}:{_PASSWORD}@{parts.hostname}:{parts.port or 5432}"))

    def settings(self, **changes: Any) -> Settings:
        """Settings of a kit behind the wall."""
        return settings_for(self.url, **{"row_level_security": True, **changes})

    async def migrate(self, *, row_level_security: bool) -> None:
        """As ``projkit migrate`` of the role does."""
        url = self.url.replace("postgresql://", "postgresql+asyncpg://")
        await migrate.upgrade(url, row_level_security=row_level_security)

    async def admin(self, *statements: str) -> None:
        """Runs statements as the superuser."""
        await as_admin(self.admin_url, *statements)


@pytest.fixture(scope="session")
def role(postgres: Postgres, worker_id: str) -> Iterator[str]:
    """A role that is neither a superuser nor bypasses row-level security."""
    # Modules of other folders that take this fixture over have a role of their own.
    name = f"projkit_test_{os.getpid()}_{worker_id}_{secrets.token_hex(3)}_role"
    asyncio.run(administer(f"CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{_PASSWORD}'"))
    yield name
    asyncio.run(administer(f"DROP ROLE {name}"))


@pytest.fixture(scope="session")
def walled_template(postgres: Postgres, role: str) -> Iterator[str]:
    """A migrated database whose tables belong to the role, with the policies up."""
    name = postgres.create(migrated=True)

    async def prepare() -> None:
        await as_admin(
            database_url(name), f"GRANT CREATE ON SCHEMA public TO {role}", OWN_TABLES.format(role=role)
        )
        await Walled(name, role).migrate(row_level_security=True)

    asyncio.run(prepare())
    yield name
    postgres.drop(name)


@pytest.fixture
def walled(postgres: Postgres, role: str, walled_template: str) -> Iterator[Walled]:
    """A fresh database with the policies up."""
    name = postgres.create(migrated=True, template=walled_template)
    yield Walled(name, role)
    postgres.drop(name)


@pytest.fixture(scope="module")
def module_walled(postgres: Postgres, role: str, walled_template: str) -> Iterator[Walled]:
    """A database with the policies up for all tests of a module."""
    name = postgres.create(migrated=True, template=walled_template)
    yield Walled(name, role)
    postgres.drop(name)


@pytest.fixture
def emptied_walled(module_walled: Walled) -> Walled:
    """The module's database without a row, for tests that change nothing but rows."""
    asyncio.run(empty(module_walled.admin_url))
    return module_walled
