"""The kit behind nginx, with TLS: on its own and mounted in a host, below a prefix that nginx strips or keeps."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import httpcore2
import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from projkit import ProjKit, Settings
from projkit.cli.check_public_url import check_public_url
from projkit.testing.servers import free_port
from tests.auth.users import PASSWORD, add_user
from tests.certificates import CERTIFICATE, KEY
from tests.cli import running as cli
from tests.conftest import SECRET, settings_for
from tests.hosts.conftest import ROOT, Served, started
from tests.hosts.django_project import create_project
from tests.hosts.life import live
from tests.hosts.nginx import Nginx, proxied
from tests.hosts.nginx import running as nginx_running
from tests.web.browsing import REFUSED, STATUS_PAGE, opened, refresh, see_metrics

pytestmark = pytest.mark.anyio
_EXAMPLES: Final = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/proxies.md").read_text(), re.DOTALL)
STRIPPED, KEPT = _EXAMPLES
HOST: Final = "proxy_set_header Host $host;"
# For applications that compare the host with the browser's; every port here is another one than 443.
WITH_PORT: Final = KEPT.replace(HOST, "proxy_set_header Host $http_host;")
DJANGO_SETTINGS: Final = """from mysite.settings import *

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
"""
SCOPES: Final = ("projects:read", "projects:write", "monitoring:read")


@pytest.fixture
async def database(sqlite_template: Path, tmp_path: Path) -> str:
    """A database with one user."""
    path = tmp_path / "projkit.db"
    shutil.copy(sqlite_template, path)
    url = f"sqlite:///{path}"
    kit = ProjKit(settings_for(url))
    async with kit.lifespan():
        await add_user(kit, "alice", scopes=SCOPES)
    return url


@contextmanager
def documented(example: str, port: int, upstream: str) -> Iterator[Nginx]:
    """Run nginx with an example of the documentation, which gets a port, a certificate and a server of the test."""
    for shown, replacement in (
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;"),
        ("server_name example.com;", "server_name localhost;"),
        ("/etc/ssl/certs/example.com.pem", CERTIFICATE),
        ("/etc/ssl/private/example.com.key", KEY),
        ("server 127.0.0.1:8000;", f"server {upstream.split('/')[2]};"),
    ):
        assert shown in example
        example = example.replace(shown, replacement)
    with nginx_running(example, f"https://localhost:{port}") as nginx:
        yield nginx


def production_settings(database: str, port: int) -> dict[str, str]:
    """Return the variables of a kit that is served in production at ``/kit`` of this port."""
    return {
        "PROJKIT_ENV": "production",
        "PROJKIT_SECRET": SECRET,
        "PROJKIT_DATABASE_URL": database,
        "PROJKIT_PUBLIC_URL": f"https://localhost:{port}/kit",
        "PROJKIT_TRUSTED_PROXIES": "127.0.0.1",
    }


@contextmanager
def served_behind(example: str, database: str, *options: str, **variables: str) -> Iterator[Nginx]:
    """Run ``projkit serve`` in production behind nginx, both as documented."""
    port = free_port()
    settings = {**production_settings(database, port), **variables}
    with (
        cli.serving(*options, **settings) as (url, _),
        documented(example, port, url) as nginx,
    ):
        yield nginx


def check_urls(nginx: Nginx, prefix: str) -> None:
    """Check every URL that a client gets, and log in, refresh and log out with a cookie jar."""
    auth = f"{prefix}/api/v1/auth"
    with nginx.client() as client:
        login = {"username": "alice", "password": PASSWORD}
        token = client.post(f"{auth}/login", json=login).json()["access_token"]
        client.cookies.clear()
        with nginx.client(headers={"Authorization": f"Bearer {token}"}) as bearer:
            live(bearer, prefix)
        servers = client.get(f"{prefix}/api/v1/openapi.json").json()["servers"]
        assert servers == [{"url": prefix}]
        for page in ("docs", "monitoring"):
            assert client.get(f"{prefix}/api/v1/{page}").headers["content-type"].startswith("text/html")
        entered = client.post(f"{auth}/login", json={**login, "transport": "cookie"})
        assert entered.status_code == 200
        assert all("Secure" in each for each in entered.headers.get_list("set-cookie"))
        paths = {cookie.name: cookie.path for cookie in client.cookies.jar}
        assert (paths["refresh_token"], paths["auth_token"], paths["csrf_token"]) == (auth, "/", "/")
        client.cookies.delete("auth_token")  # as when it has expired
        proof = {"Origin": nginx.url, "X-CSRF-Token": client.cookies["csrf_token"]}
        assert client.get(f"{auth}/session").status_code == 401
        refreshed = client.post(f"{auth}/refresh", headers=proof)
        assert refreshed.status_code == 200, refreshed.text
        proof["X-CSRF-Token"] = client.cookies["csrf_token"]
        assert client.get(f"{auth}/session").json()["subject"] == "alice"
        made = client.post(f"{prefix}/api/v1/projects", json={"name": "A"}, headers=proof)
        assert made.status_code == 201, made.text
        assert client.get(made.headers["location"]).json()["name"] == "A"
        assert client.post(f"{auth}/logout", headers=proof).status_code == 204
        assert {cookie.name for cookie in client.cookies.jar} <= {"known_device"}


@pytest.mark.parametrize(
    ("layout", "example", "server_root_path", "public"),
    [
        ("mounted", STRIPPED, "", True),
        ("mounted", STRIPPED, "/app", True),
        ("mounted", STRIPPED, "/app", False),
        ("root path", KEPT, "", True),
        ("nested", KEPT, "", True),
        ("wrapped", STRIPPED, "", True),
        ("wrapped", KEPT, "", True),
    ],
)
async def test_in_a_host(
    database: str, tmp_path: Path, layout: str, example: str, server_root_path: str, public: bool
) -> None:
    """In a FastAPI host behind nginx every URL and the path of every cookie is the one that browsers see."""
    port = free_port()
    variables = {"LAYOUT": layout, "PROJKIT_DATABASE_URL": database, "PROJKIT_ENV": "production"}
    if public:
        variables["PROJKIT_PUBLIC_URL"] = f"https://localhost:{port}/app/kit"
    else:
        variables["PROJKIT_ALLOWED_ORIGINS"] = f"https://localhost:{port}"
    app = "tests.hosts.proxied_app:app"
    with (
        started("uvicorn", app, tmp_path, "/", variables, root_path=server_root_path) as served,
        documented(example.replace("location /kit/", "location /app/"), port, served.url) as nginx,
    ):
        check_urls(nginx, "/app/kit")
        assert "ignored" not in served.log


@pytest.mark.parametrize("example", [STRIPPED, KEPT, WITH_PORT], ids=["stripped", "kept", "host with port"])
async def test_served(database: str, example: str) -> None:
    """``projkit serve`` behind the documented nginx: URLs, cookies, own errors, large requests and probes."""
    with served_behind(example, database) as nginx:
        check_urls(nginx, "/kit")
        with nginx.client("/kit") as client:
            page = client.get("/api/v1/docs")
            assert page.headers["strict-transport-security"] == "max-age=31536000"
            assert len(page.headers.get_list("date")) == len(page.headers.get_list("server")) == 1
            assert client.get("/api/v1/health/live").json() == {"status": "ok"}
            lost = client.get("/nothing")
            assert (lost.status_code, lost.json()["instance"]) == (404, "/kit/nothing")
            with nginx.client("/kit", headers={"Content-Type": "application/json"}) as large:
                answer = large.post("/api/v1/auth/login", content=b" " * 1_500_000)
                assert (answer.status_code, answer.json()["code"]) == (413, "content_too_large")


@pytest.mark.parametrize(
    ("example", "status"), [(KEPT, 403), (WITH_PORT, 302)], ids=["host", "host with port"]
)
def test_django(tmp_path: Path, example: str, status: int) -> None:
    """On another port than 443, Django's forms need the host with its port; the kit needs neither."""
    port = free_port()
    created = create_project(tmp_path / "site")
    created.write("mysite/settings_proxy.py", DJANGO_SETTINGS)
    project = created.using(
        DJANGO_SETTINGS_MODULE="mysite.settings_proxy",
        PROJKIT_PUBLIC_URL=f"https://localhost:{port}/kit",
        PROJKIT_TRUSTED_PROXIES="127.0.0.1",
    )
    project.manage("migrate", "--verbosity=0")
    project.add_user("alice", PASSWORD)
    login = {"username": "alice", "password": PASSWORD}
    with (
        project.serve("uvicorn") as served,
        documented(example.replace("location /kit/", "location /"), port, served.url) as nginx,
    ):
        with nginx.client(headers={"Origin": nginx.url}) as browser:
            browser.get("/admin/login/")
            form = {**login, "next": "/", "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
            assert browser.post("/admin/login/", data=form).status_code == status
        with nginx.client(headers={"Origin": nginx.url}) as browser:
            check_kit(browser, login)


def check_kit(browser: httpx2.Client, login: dict[str, str]) -> None:
    """Check the URLs and the CSRF rules of the kit in the Django host."""
    api = "/kit/api/v1"
    tokens = browser.post(f"{api}/auth/login", json=login).json()
    browser.headers["X-CSRF-Token"] = tokens["csrf_token"]
    made = [browser.post(f"{api}/projects", json={"name": name}) for name in "AB"]
    assert [each.status_code for each in made] == [201, 201], made[0].text
    assert browser.get(made[0].headers["location"]).json()["name"] == "A"
    assert browser.get(f"{api}/projects?limit=1").headers["link"].startswith(f"<{api}/projects?")
    assert browser.get(f"{api}/openapi.json").json()["servers"] == [{"url": "/kit"}]
    foreign = browser.post(f"{api}/projects", json={"name": "C"}, headers={"Origin": "https://localhost"})
    assert (foreign.status_code, foreign.json()["rule"]) == (403, "origin")


async def test_root_path_option(database: str) -> None:
    """``serve --root-path`` is the prefix for a server that has no public URL."""
    with cli.serving("--root-path", "/kit", PROJKIT_DATABASE_URL=database, PROJKIT_SECRET=SECRET) as (url, _):
        assert url.endswith("/kit")  # what the server prints works without a proxy too
        assert httpx2.get(f"{url}/api/v1/openapi.json").json()["servers"] == [{"url": "/kit"}]
        for example in (STRIPPED, KEPT):
            with documented(example, free_port(), url) as nginx, nginx.client("/kit/api/v1") as client:
                assert client.get("/openapi.json").json()["servers"] == [{"url": "/kit"}]
                assert client.get("/health/live").status_code == 200


async def test_idle_connections(database: str) -> None:
    """``KEEP_ALIVE_SECONDS`` decides when the server closes an idle connection, which is later than a proxy does."""
    assert Settings().keep_alive_seconds > 60  # nginx's keepalive_timeout of an upstream
    with cli.serving(
        PROJKIT_KEEP_ALIVE_SECONDS="1", PROJKIT_DATABASE_URL=database, PROJKIT_SECRET=SECRET
    ) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET /api/v1/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            answered = time.monotonic()
            while connection.recv(65_536):
                pass
        assert time.monotonic() - answered > 0.9


FORWARDED_PROTO: Final = "proxy_set_header X-Forwarded-Proto $scheme;"
FORWARDED_FOR: Final = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"


async def test_check(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``projkit check`` requests the public URL through nginx, and names the directive that is missing or wrong."""
    port = free_port()
    settings = production_settings(database, port)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with cli.serving(**settings) as (url, _):
        with documented(STRIPPED, port, url) as nginx:
            done = cli.projkit("check", "--json", SSL_CERT_FILE=str(nginx.certificate))
            (finding,) = [each for each in json.loads(done.stdout) if each["name"] == "public url"]
            assert (finding["ok"], finding["warning"]) == (True, False), finding
        for directive, replacement, ok, said in (
            ("", "", True, "reaches this kit"),
            (FORWARDED_PROTO, "", False, FORWARDED_PROTO),
            (FORWARDED_PROTO, "proxy_set_header X-Forwarded-Proto http;", False, "X-Forwarded-Proto https;"),
            (FORWARDED_FOR, "", False, FORWARDED_FOR),
            ("proxy_pass http://kit;", "proxy_pass http://kit/other/;", False, "instead of /kit/api/v1"),
            ("location /kit/ {", "location /kitchen/ {", False, "nginx: location /kit/ {"),
            (
                "location /kit/ {",
                "location /api/ {",
                False,
                f"set PROJKIT_PUBLIC_URL=https://localhost:{port},",
            ),
            ("proxy_pass http://kit;", "return 301 https://localhost/kit$uri;", False, "redirects to"),
            ("server 127.0.0.1:8000;", "server 127.0.0.1:8000; # port 1", True, "responds with 502"),
        ):
            assert directive in KEPT
            gone = "http://127.0.0.1:1" if "port 1" in replacement else url
            with documented(KEPT.replace(directive, replacement), port, gone) as nginx:
                context = ssl.create_default_context(cafile=nginx.certificate)
                monkeypatch.setattr(httpcore2, "default_ssl_context", lambda made=context, **_: made)
                found = await check_public_url(Settings())
            assert found.ok is ok, found
            assert said in found.detail


@pytest.mark.parametrize("bind", ["uvicorn", "gunicorn"])
async def test_over_a_unix_socket(database: str, tmp_path: Path, bind: str) -> None:
    """Over a Unix socket, nginx is trusted as ``unix``."""
    path = Path(tempfile.mkdtemp(prefix="projkit-socket-")) / "kit"
    path.parent.chmod(0o755)
    port = free_port()
    command = {
        "uvicorn": ["uvicorn", "--uds", str(path), "--no-proxy-headers"],
        "gunicorn": [
            "gunicorn",
            "--bind",
            f"unix:{path}",
            "--umask",
            "0",
            "-k",
            "uvicorn_worker.UvicornWorker",
        ],
    }[bind]
    settings = {
        "LAYOUT": "mounted",
        "PROJKIT_ENV": "production",
        "PROJKIT_SECRET": SECRET,
        "PROJKIT_DATABASE_URL": database,
        "PROJKIT_PUBLIC_URL": f"https://localhost:{port}/kit",
        "PROJKIT_TRUSTED_PROXIES": "unix",
        "PYTHONPATH": str(ROOT),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "tests.hosts.proxied_app:app"],
            env={**os.environ, **settings}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        with anyio.fail_after(60):
            while not path.exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                await anyio.sleep(0.05)
        example = KEPT.replace("server 127.0.0.1:8000;", f"server unix:{path}; # server 127.0.0.1:8000;")
        with documented(example, port, "http://unused") as nginx:
            settings["SSL_CERT_FILE"] = str(nginx.certificate)
            done = cli.projkit("check", "--json", expect=0, **settings)
        (finding,) = [each for each in json.loads(done.stdout) if each["name"] == "public url"]
        assert (finding["ok"], finding["warning"]) == (True, False), finding
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(path.parent)


async def use_status_page(page: Page, nginx: Nginx) -> None:
    """Log in, outlive the access token, and log out."""
    await page.get_by_label("Username").fill("alice")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await see_metrics(page)
    with anyio.fail_after(20):
        while any(cookie.get("name") == "auth_token" for cookie in await page.context.cookies()):
            await anyio.sleep(0.1)
    async with page.expect_response("**/auth/refresh") as refreshed:
        await refresh(page)
    assert (await refreshed.value).status == 200
    await expect(page.locator("#user")).to_have_text("alice")
    async with page.expect_response("**/auth/logout") as ended:
        await page.get_by_role("button", name="Log out").click()
    assert (await ended.value).status == 204
    await expect(page.locator("#login")).to_be_visible()
    assert {cookie.get("name") for cookie in await page.context.cookies()} <= {"known_device"}


@pytest.mark.parametrize("example", [STRIPPED, KEPT], ids=["stripped", "kept"])
async def test_in_a_browser(browser: Browser, database: str, example: str) -> None:
    """In Chromium a session outlives its access token below a prefix, and logging out leaves no cookie of it."""
    with served_behind(example, database, PROJKIT_ACCESS_TOKEN_SECONDS="3") as nginx:
        async with opened(
            browser, f"{nginx.url}/kit{STATUS_PAGE}", expected=REFUSED, ignore_https_errors=True
        ) as page:
            await use_status_page(page, nginx)


async def test_mounted_in_a_browser(browser: Browser, database: str, tmp_path: Path) -> None:
    """The same for a kit that is mounted in a host, behind a prefix that the host does not know."""
    port = free_port()
    variables = {
        "LAYOUT": "mounted",
        "PROJKIT_DATABASE_URL": database,
        "PROJKIT_ENV": "production",
        "PROJKIT_ACCESS_TOKEN_SECONDS": "3",
        "PROJKIT_PUBLIC_URL": f"https://localhost:{port}/app/kit",
    }
    example = STRIPPED.replace("location /kit/", "location /app/")
    with (
        started("uvicorn", "tests.hosts.proxied_app:app", tmp_path, "/", variables) as served,
        documented(example, port, served.url) as nginx,
    ):
        url = f"{nginx.url}/app/kit{STATUS_PAGE}"
        async with opened(browser, url, expected=REFUSED, ignore_https_errors=True) as page:
            await use_status_page(page, nginx)


@contextmanager
def compressing_proxy(directory: Path, *, gzip: bool) -> Iterator[tuple[Served, Nginx]]:
    """Serve the kit behind nginx, which compresses responses with ``gzip``."""
    variables = {"PROJKIT_DATABASE_URL": f"sqlite:///{directory}/projkit.db"}
    with (
        started("uvicorn", "projkit.cli.server:create_app", directory, "/livez", variables) as served,
        proxied(served.url, gzip=gzip) as nginx,
    ):
        yield served, nginx


@pytest.mark.parametrize("gzip", [False, True])
def test_gzip(tmp_path: Path, gzip: bool) -> None:
    """nginx passes responses on, over TLS, compressed where it is configured to."""
    with compressing_proxy(tmp_path, gzip=gzip) as (_, nginx), nginx.client() as client:
        answer = client.get("/api/v1/openapi.json")
        assert answer.status_code == 200
        assert answer.headers.get("content-encoding") == ("gzip" if gzip else None)


@pytest.mark.parametrize("gzip", [False, True])
def test_entity_tags(tmp_path: Path, gzip: bool) -> None:
    """Through nginx, which weakens the tags of what it compresses, conditional requests work as without it."""
    with (
        compressing_proxy(tmp_path, gzip=gzip) as (served, nginx),
        served.client() as direct,
        nginx.client(headers=dict(direct.headers)) as client,
    ):
        created = client.post("/api/v1/projects", json={"name": "A" * 100})
        one = created.headers["location"]
        read = client.get(one)
        tag = read.headers["etag"]
        assert tag == ('W/"1"' if gzip else '"1"')
        assert client.get(one, headers={"If-None-Match": tag}).status_code == 304
        changed = client.put(one, json={"name": "B"}, headers={"If-Match": tag})
        assert changed.status_code == 200
        outdated = client.put(one, json={"name": "C"}, headers={"If-Match": tag})
        assert (outdated.status_code, outdated.json()["detail"]) == (
            412,
            "The project has changed since you read it.",
        )
        assert client.get(one, headers={"If-None-Match": tag}).status_code == 200
        foreign = client.delete(one, headers={"If-Match": 'W/"686897696a7c876b7e"'})
        assert "was issued for a project" in foreign.json()["detail"]
        deleted = client.delete(one, headers={"If-Match": f'"x", {changed.headers["etag"]}'})
        assert deleted.status_code == 204
