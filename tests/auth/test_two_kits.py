"""Two kits below two paths of one host share the names of their cookies, unless one has the ``__Host-`` prefix."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import ProjKit
from tests.auth.users import AUTH, PASSWORD, PROJECTS, add_user
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio

OWN = {"secret": "another secret of the tests, long enough to be taken"}
SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def second_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Return the URL of another database."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'second.db')}"


@asynccontextmanager
async def browser_of(first: ProjKit, second: ProjKit) -> AsyncIterator[httpx2.AsyncClient]:
    """A browser with https and a cookie jar, logged in to the first kit as alice and then to the second one as bob."""
    app = Starlette(routes=[Mount("/kit", first), Mount("/kit2", second)])
    async with first.lifespan(), second.lifespan():
        await add_user(first, "alice")
        await add_user(second, "bob")
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="https://localhost") as browser:
            for prefix, name in (("/kit", "alice"), ("/kit2", "bob")):
                login = {"username": name, "password": PASSWORD, "transport": "cookie"}
                entered = await browser.post(f"{prefix}{AUTH}/login", json=login, headers=SITE)
                assert entered.status_code == 200, entered.text
            yield browser


async def caller(browser: httpx2.AsyncClient, prefix: str) -> str:
    """Return the caller that a kit sees, or the code of its error."""
    answer = (await browser.get(f"{prefix}{AUTH}/session")).json()
    return str(answer.get("subject") or answer["code"])


@pytest.mark.parametrize(
    ("changes", "shared", "seen"),
    [
        pytest.param(OWN, False, "invalid_token", id="own secrets"),
        pytest.param({}, False, "invalid_token", id="one secret"),
        pytest.param({"audience": "two"}, True, "invalid_token", id="own audiences"),
        pytest.param({}, True, "bob", id="one of everything"),
    ],
)
async def test_the_last_login(
    sqlite_url: str, second_url: str, changes: dict[str, Any], shared: bool, seen: str
) -> None:
    """The last login replaces the cookies of both; only kits with everything in common accept them both."""
    second = ProjKit(settings_for(sqlite_url if shared else second_url, **changes))
    async with browser_of(ProjKit(settings_for(sqlite_url)), second) as browser:
        assert (await caller(browser, "/kit"), await caller(browser, "/kit2")) == (seen, "bob")
        proof = {**SITE, "X-CSRF-Token": browser.cookies["csrf_token"]}
        refused = await browser.post(f"/kit{AUTH}/refresh", json={}, headers=proof)
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")
        assert (await caller(browser, "/kit2")) == "bob"


async def test_two_logins(sqlite_url: str, second_url: str) -> None:
    """With the prefix on one of them, both logins last, and a logout ends one of them."""
    second = ProjKit(settings_for(second_url, cookie_host_prefix=True, **OWN))
    async with browser_of(ProjKit(settings_for(sqlite_url)), second) as browser:
        assert (await caller(browser, "/kit"), await caller(browser, "/kit2")) == ("alice", "bob")
        for prefix, cookie in (("/kit", "csrf_token"), ("/kit2", "__Host-csrf_token")):
            proof = {**SITE, "X-CSRF-Token": browser.cookies[cookie]}
            made = await browser.post(f"{prefix}{PROJECTS}", json={"name": "A"}, headers=proof)
            assert made.status_code == 201, made.text
        proof = {**SITE, "X-CSRF-Token": browser.cookies["csrf_token"]}
        assert (await browser.post(f"/kit{AUTH}/logout", headers=proof)).status_code == 204
        assert (await caller(browser, "/kit"), await caller(browser, "/kit2")) == (
            "missing_credentials",
            "bob",
        )
