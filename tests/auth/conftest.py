"""Kits for the tests of the authentication."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from projkit import ProjKit
from projkit.db.tables import build_tables
from tests.auth import forge
from tests.conftest import settings_for
from tests.services import Postgres, database_url

OpenKit = Callable[..., AbstractAsyncContextManager[ProjKit]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Asyncio, with one event loop for all that a module shares."""
    return "asyncio"


@asynccontextmanager
async def kit_with_keys(directory: Path, template: Path, **changes: Any) -> AsyncIterator[ProjKit]:
    """A kit on SQLite with a key of each algorithm and a legacy secret."""
    path = directory / "projkit.db"
    shutil.copy(template, path)
    keys_file = forge.write_keys(
        directory / "keys.json",
        forge.private("EdDSA-expired", exp=1_700_000_000),
        forge.public("RS256-public"),
        *(forge.private(algorithm) for algorithm in forge.ALGORITHMS),
    )
    options = changes.pop("options", {})
    given = {"secret": None, "keys_file": keys_file, "legacy_secret": forge.LEGACY_SECRET, **changes}
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # what a module shares is made before each test's own fixtures
        for name in [name for name in os.environ if name.startswith("PROJKIT_")]:
            patch.delenv(name)
        kit = ProjKit(settings_for(f"sqlite:///{path}", **given), **options)
    async with kit.lifespan():
        yield kit


@pytest.fixture(scope="module")
async def shared_kit(
    anyio_backend: str, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ProjKit]:
    """A kit that all tests of a module ask."""
    async with kit_with_keys(tmp_path_factory.mktemp("shared"), sqlite_template) as kit:
        yield kit


@pytest.fixture(scope="module")
def module_postgres_url(postgres: Postgres) -> Iterator[str]:
    """A migrated PostgreSQL database for all tests of a module."""
    name = postgres.create(migrated=True)
    yield database_url(name)
    postgres.drop(name)


@pytest.fixture
def postgres_url(module_postgres_url: str) -> str:
    """The module's database without a row: emptying one takes a hundredth of the time that making one takes."""
    asyncio.run(_empty(module_postgres_url))
    return module_postgres_url


async def _empty(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        for table in build_tables("projkit_").metadata.sorted_tables:
            await connection.execute(f'DELETE FROM "{table.name}"')
    finally:
        await connection.close()


@pytest.fixture
def open_kit(any_database_url: str) -> OpenKit:
    """Starts a kit on each database."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[ProjKit]:
        options = changes.pop("options", {})
        kit = ProjKit(settings_for(any_database_url, **changes), **options)
        async with kit.lifespan():
            yield kit

    return start
