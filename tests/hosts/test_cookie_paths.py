"""The paths of cookies in a real browser: whatever prefix it shows, it sends the cookies of the kit back."""

import re
import shutil
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.async_api import Browser
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import ProjKit
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.http.url_paths import cookie_prefix, encode_path
from projkit.testing.servers import free_port
from tests.asgi import http_scope
from tests.auth.users import PASSWORD, add_user
from tests.conftest import PATIENT, serving, settings_for
from tests.hosts.nginx import proxied
from tests.web.browsing import opened

pytestmark = pytest.mark.anyio
LIVE: Final = "/api/v1/health/live"
NO_ICON: Final = "status of 404"
LOG_IN_AND_REFRESH: Final = """async ([prefix, content]) => {
    const post = (path, body, headers) => fetch(prefix + path, {
      method: "POST", headers: {"Content-Type": "application/json", ...headers}, body: JSON.stringify(body),
    });
    const login = await post("/api/v1/auth/login", content);
    const csrf = document.cookie.match(/csrf_token=([^;]*)/)[1];
    const refresh = await post("/api/v1/auth/refresh", {}, {"X-CSRF-Token": csrf});
    return [login.status, refresh.status];
  }"""
LOGIN: Final = {"username": "alice", "password": PASSWORD, "transport": "cookie"}
# Every character of ASCII that a segment can have (/ ? # end it, ; ends the path of a cookie), and others.
CHARACTERS: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "/?#;%\\")
TEAMS: Final = (CHARACTERS, "a b", "caf\u00e9", "\u65e5\u672c", "100%25", "a%3Bb", "a%3Fb")
UNUSUAL: Final = ("%40team", "%7ebob", "a%2Db", "caf%c3%a9", "a|b^c")


@pytest.fixture
async def database(sqlite_template: Path, tmp_path: Path) -> str:
    """A database with one user."""
    shutil.copy(sqlite_template, tmp_path / "projkit.db")
    url = f"sqlite:///{tmp_path}/projkit.db"
    kit = ProjKit(settings_for(url))
    async with kit.lifespan():
        await add_user(kit, "alice")
    return url


async def check_cookies(browser: Browser, url: str, *prefixes: str) -> None:
    """Log in with cookies at each prefix, and refresh."""
    async with opened(browser, f"{url}{prefixes[0]}{LIVE}", expected=NO_ICON) as page:
        for prefix in prefixes:
            assert await page.evaluate(LOG_IN_AND_REFRESH, [prefix, LOGIN]) == [200, 200], prefix


def without_raw_path(app: Any) -> Any:
    """Return the app as a server calls it that sets no ``raw_path``, which the ASGI specification allows."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        await app({name: value for name, value in scope.items() if name != "raw_path"}, receive, send)

    return call


@pytest.mark.parametrize("raw_path", [True, False])
async def test_a_mount_with_parameters(browser: Browser, database: str, raw_path: bool) -> None:
    """Below a mount with any parameter, a login with cookies can be refreshed; also if it is spelled unusually."""
    kit = ProjKit(settings_for(database, **PATIENT))
    host = Starlette(routes=[Mount("/{team}/kit", kit)], lifespan=kit.lifespan)
    teams = [*TEAMS, *UNUSUAL, *(quote(unquote(team), safe="") for team in TEAMS)] if raw_path else TEAMS
    with serving(host if raw_path else without_raw_path(host)) as url:
        await check_cookies(browser, url, *(f"/{team}/kit" for team in teams))


@pytest.mark.parametrize(
    "path", ["/@team/kit", "/%40team/kit", "/a=b+c,(d)&e:f", "/caf%C3%A9", "/50%25", "/[x]"]
)
@pytest.mark.parametrize("strip", [True, False], ids=["stripped", "kept"])
async def test_a_public_url(browser: Browser, database: str, path: str, strip: bool) -> None:
    """Behind nginx the paths of cookies are spelled as in PUBLIC_URL, whether it removes the prefix or keeps it."""
    port = free_port()
    settings = settings_for(
        database, public_url=f"http://localhost:{port}{path}", trusted_proxies="127.0.0.1", **PATIENT
    )
    with (
        serving(ProjKit(settings)) as url,
        proxied(url, prefix=unquote(path), strip=strip, tls=False, port=port) as nginx,
    ):
        await check_cookies(browser, nginx.url, path)


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_prefix(root_path: str, raw_prefix: str) -> None:
    """No prefix, however a client spells it, ends the path of a cookie or leaves ASCII; it stays the same path."""
    root_path = f"/{root_path}"
    scope = http_scope(f"{root_path}/x", root_path=root_path, raw_path=f"/{raw_prefix}/x".encode())
    scope |= {scope_keys.PATH: "/x", scope_keys.REQUEST_ID: ""}
    prefix = cookie_prefix(Request(scope, None), "")  # type: ignore[arg-type]  # nothing is received
    for encoded in (prefix, encode_path(root_path)):
        assert re.fullmatch(r"[!#-:<-~]+", encoded)
        assert unquote(encoded, errors="surrogatepass") == root_path
