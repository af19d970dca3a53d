"""Kits for the tests of the authentication."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from projkit import ProjKit
from projkit.auth import passwords
from tests.auth import forge
from tests.auth.users import ShiftedClock
from tests.conftest import kit_in_mode, settings_for, without_settings

OpenKit = Callable[..., AbstractAsyncContextManager[ProjKit]]
_QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
DUMMY_HASH = _QUICK.hash("nobody has this password")


@pytest.fixture
def costly_passwords() -> None:
    """Leaves the hashing of passwords as it is, for tests that are about it."""


@pytest.fixture(autouse=True)
def quick_passwords(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords at a hundredth of the cost; what is rejected, limited or stored does not depend on it."""
    if "costly_passwords" not in request.fixturenames:
        monkeypatch.setattr(passwords, "HASHER", _QUICK)
        monkeypatch.setattr(passwords, "DUMMY_HASH", DUMMY_HASH)


@pytest.fixture
def shifted_clock(monkeypatch: pytest.MonkeyPatch) -> ShiftedClock:
    """The clock by which kits date sessions, revocations and counts."""
    clock = ShiftedClock()
    monkeypatch.setattr("projkit.startup.utc_now", clock)
    return clock


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
    fields = {"secret": None, "keys_file": keys_file, "legacy_secret": forge.LEGACY_SECRET, **changes}
    with without_settings():
        kit = ProjKit(settings_for(f"sqlite:///{path}", **fields), **options)
    async with kit.lifespan():
        yield kit


@pytest.fixture(scope="module")
async def shared_kit(
    anyio_backend: str, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ProjKit]:
    """A kit that all tests of a module share."""
    async with kit_with_keys(tmp_path_factory.mktemp("shared"), sqlite_template) as kit:
        yield kit


@pytest.fixture
def open_kit(any_database_url: str, database_mode: str) -> OpenKit:
    """Starts a kit on each database."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[ProjKit]:
        options = changes.pop("options", {})
        async with kit_in_mode(database_mode, any_database_url, options=options, **changes) as kit:
            yield kit

    return start
