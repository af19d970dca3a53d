"""The browser and the kits that all tests of pages share."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import ProjKit, Settings
from tests.auth.users import add_user
from tests.conftest import PATIENT, serving, settings_for, token_for
from tests.web.browsing import chromium


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    """One event loop for this directory, because the browser belongs to it."""
    return "asyncio"


@pytest.fixture(scope="package")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium."""
    async with chromium() as found:
        yield found


@pytest.fixture(scope="package")
def settings(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of the kits."""
    path = tmp_path_factory.mktemp("status") / "projkit.db"
    shutil.copy(sqlite_template, path)
    return settings_for(f"sqlite:///{path}", login_limit_account="2/5 minutes", **PATIENT)


@pytest.fixture(scope="package")
async def root(anyio_backend: str, settings: Settings) -> AsyncIterator[str]:
    """The URL of a kit that is served on its own, with a few requests in its metrics."""
    kit = ProjKit(settings)
    async with kit.lifespan():
        await add_user(kit, "alice", scopes=("monitoring:read",))
        await add_user(kit, "bob")
    with serving(ProjKit(settings)) as url:
        await make_requests(url, settings)
        yield url


@pytest.fixture(scope="package")
async def mounted(anyio_backend: str, settings: Settings) -> AsyncIterator[str]:
    """The URL of a kit that is mounted in a host."""
    kit = ProjKit(settings)
    host = Starlette(routes=[Mount("/kit", kit)], lifespan=kit.lifespan)
    with serving(host) as url:
        await make_requests(f"{url}/kit", settings)
        yield f"{url}/kit"


async def make_requests(url: str, settings: Settings) -> None:
    """Send seven requests of one kind and one of another."""
    headers = {"Authorization": f"Bearer {token_for(settings, 'alice')}"}
    async with httpx2.AsyncClient(base_url=f"{url}/api/v1", headers=headers) as client:
        for _ in range(7):
            assert (await client.get("/projects")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404
