"""`projkit check` requests PUBLIC_URL, and names the setting of the proxy or of the kit to fix."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpcore2
import pytest
from starlette.requests import Request
from starlette.responses import Response

from projkit import ProjKit, Settings
from projkit.cli.check_public_url import check_public_url
from projkit.testing.servers import free_port
from projkit.validation.public_url import HEADER, PATH
from tests.certificates import CERTIFICATE, KEY, write_certificate
from tests.conftest import serving, settings_for

pytestmark = pytest.mark.anyio
OTHER_SECRET: Final = "another secret of the tests, long enough to be taken"
# How a request arrives that a proxy forwards as it should.
GOOD: Final = {
    "root_path": "/kit", "scheme": "http", "secure": True, "peer": "10.0.0.1", "trusted": True,
    "secure_cookies": True,
    "forwarded": {"x-forwarded-for": "192.0.2.1, 198.51.100.7", "x-forwarded-proto": "https"},
}  # fmt: skip
# What a client claims, without anything added.
PASSED_ON: Final = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"}
PROBLEM: Final = "application/problem+json"


class BrokenOff(Response):
    """A response that ends before its content has been sent."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send less than announced."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b""})


class Proxy:
    """A stand-in for a proxy and the kit behind it, whose response a test sets; it keeps the last request."""

    url = ""

    def __init__(self) -> None:
        self.responses: dict[str, Response] = {}
        self.headers: dict[str, str] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.headers = dict(Request(scope).headers)
        response = self.responses.get(scope["path"]) or Response("no such page", 404, {"server": "nginx"})
        await response(scope, receive, send)

    def report(self, path: str = f"/kit/api/v1{PATH}", **changes: Any) -> None:
        """Respond as a kit does that the request reaches in this way."""
        self.responses = {path: Response(json.dumps({**GOOD, **changes}), media_type="application/json")}

    def respond(
        self, content: str, status: int, media_type: str = "text/html", path: str = "/kit", **headers: str
    ) -> None:
        """Respond with something else."""
        response = Response(content, status, headers, media_type)
        self.responses = {f"{path}/api/v1{PATH}": response}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the stand-in's certificate."""
    directory = tmp_path_factory.mktemp("certificate")
    write_certificate(directory)
    return directory


@pytest.fixture(scope="module")
def stand_in(certificate: Path) -> Iterator[Proxy]:
    """A stand-in with TLS."""
    with served_with(certificate) as made:
        yield made


@contextmanager
def served_with(directory: Path) -> Iterator[Proxy]:
    """Run a stand-in with the certificate in a directory."""
    made = Proxy()
    with serving(made, ssl_certfile=directory / CERTIFICATE, ssl_keyfile=directory / KEY) as url:
        made.url = url.replace("http://127.0.0.1", "https://localhost")
        yield made


@pytest.fixture
def proxy(stand_in: Proxy, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The stand-in, whose certificate is trusted."""
    trust(monkeypatch, certificate)
    return stand_in


def trust(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Trust the certificate in a directory, as with ``SSL_CERT_FILE``, which the tests' clients do not read again."""
    context = ssl.create_default_context(cafile=directory / CERTIFICATE)
    monkeypatch.setattr(httpcore2, "default_ssl_context", lambda **_: context)


def settings_of(url: str, **changes: Any) -> Settings:
    """Return the settings of ``projkit check``."""
    return settings_for("sqlite:///x.db", public_url=url, **changes)


async def test_a_good_proxy(proxy: Proxy) -> None:
    """Nothing is reported about a proxy that is set up; the request carries neither credentials nor cookies."""
    proxy.report()
    finding = await check_public_url(settings_of(proxy.url.replace("//", "//user:password@") + "/kit"))
    assert (finding.ok, finding.warning) == (True, False), finding.detail
    assert "password" not in finding.detail
    assert not {"authorization", "cookie"} & proxy.headers.keys()
    assert proxy.headers[HEADER.lower()]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"root_path": ""}, "begin with /, but browsers use /kit; start the server with PROJKIT_PUBLIC_URL=https:"),
        ({"root_path": "/app/kit"}, "begin with /app/kit, but browsers use /kit"),
        ({"secure": False, "forwarded": {}}, "proxy_set_header X-Forwarded-Proto $scheme;"),
        ({"secure": False, "trusted": False}, "set PROJKIT_TRUSTED_PROXIES=10.0.0.1"),
        ({"secure": False, "trusted": False, "peer": ""}, "set PROJKIT_TRUSTED_PROXIES=unix"),
        ({"secure": False, "forwarded": {"x-forwarded-proto": "http"}}, "proxy_set_header X-Forwarded-Proto https;"),
        ({"secure_cookies": False}, "unset PROJKIT_COOKIE_SECURE"),
        ({"forwarded": PASSED_ON}, "clients can choose their address"),
        ({"forwarded": PASSED_ON, "trusted": False, "peer": "192.0.2.1"}, "clients can choose their address"),
    ],
)  # fmt: skip
async def test_what_breaks_browsers(proxy: Proxy, report: dict[str, Any], said: str) -> None:
    """A prefix, a scheme or an address that is wrong is a failure, with what to change."""
    proxy.report(**report)
    finding = await check_public_url(settings_of(f"{proxy.url}/kit"))
    assert not finding.ok
    assert said in finding.detail


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"trusted": False}, "set PROJKIT_TRUSTED_PROXIES=10.0.0.1"),
        ({"trusted": False, "peer": "198.51.100.7"}, ""),  # the server itself has evaluated the header
        ({"forwarded": PASSED_ON, "trusted": False}, "$proxy_add_x_forwarded_for"),
        ({"forwarded": {"x-forwarded-proto": "https"}}, "$proxy_add_x_forwarded_for"),
        ({"forwarded": {"x-forwarded-for": "192.0.2.1"}, "scheme": "https"}, ""),  # there is no proxy
    ],
)  # fmt: skip
async def test_addresses_of_clients(proxy: Proxy, report: dict[str, Any], said: str) -> None:
    """Unknown addresses of clients are a warning."""
    proxy.report(**report)
    finding = await check_public_url(settings_of(f"{proxy.url}/kit"))
    assert (finding.ok, finding.warning) == (True, bool(said)), finding.detail
    assert said in finding.detail


@pytest.mark.parametrize(
    ("content", "status", "options", "ok", "said"),
    [
        ("", 301, {"location": f"https://www.example.com/kit/api/v1{PATH}"}, False, "redirects to https://www.example.com/kit;"),
        ("<html>", 502, {}, True, "responds with 502"),
        ("<html>", 401, {}, True, "responds with 401 and not as projkit"),
        ("{}", 200, {"media_type": "application/json"}, True, "not as projkit"),
        ("<html>", 404, {"server": "caddy"}, False, "404 from caddy); nginx: location /kit/ { proxy_pass"),
        ('{"detail": "Not Found"}', 404, {"media_type": "application/json"}, False, "must end in the path of the"),
        ("<html>", 404, {"media_type": PROBLEM, "server": "caddy"}, False, "nothing is served"),
        ('{"instance": "/kit/x/api"}', 404, {"media_type": PROBLEM}, False, "at /kit/x/api instead of /kit/api/v1"),
        (f'{{"instance": "/kit/api/v1{PATH}"}}', 404, {"media_type": PROBLEM}, True, "does not have these keys"),
    ],
)  # fmt: skip
async def test_other_responses(
    proxy: Proxy, content: str, status: int, options: dict[str, str], ok: bool, said: str
) -> None:
    """What is not the kit's report is explained; what may only be down is a warning."""
    proxy.respond(content, status, **options)
    finding = await check_public_url(settings_of(f"{proxy.url}/kit"))
    assert finding.ok is ok
    assert said in finding.detail


async def test_served_without_the_prefix(proxy: Proxy) -> None:
    """A kit that is found at the root gets the right PUBLIC_URL suggested."""
    proxy.report(f"/api/v1{PATH}")
    finding = await check_public_url(settings_of(f"{proxy.url}/kit"))
    assert f"set PROJKIT_PUBLIC_URL={proxy.url}, or" in finding.detail
    proxy.responses = {f"/api/v1{PATH}": BrokenOff()}
    finding = await check_public_url(settings_of(f"{proxy.url}/kit"))
    assert "nothing is served" in finding.detail
    proxy.responses = {}
    finding = await check_public_url(settings_of(proxy.url))
    assert "nginx: location / {" in finding.detail


@pytest.mark.parametrize(
    ("host", "hours", "trusted", "ok", "said"),
    [
        ("localhost", -1, True, False, "has expired; renew it"),
        ("127.0.0.1", 1, True, False, "is not for 127.0.0.1"),
        ("localhost", 1, False, True, "set SSL_CERT_FILE"),
    ],
)
async def test_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, hours: int, trusted: bool, ok: bool, said: str
) -> None:
    """A certificate that browsers reject is a failure; one with an issuer of your own is a warning."""
    write_certificate(
        tmp_path, hours=hours, names=("localhost",) if host == "localhost" else ("example.com",)
    )
    with served_with(tmp_path) as made:
        if trusted:
            trust(monkeypatch, tmp_path)
        finding = await check_public_url(settings_of(made.url.replace("localhost", host)))
    assert finding.ok is ok
    assert said in finding.detail


async def test_nothing_there() -> None:
    """A public URL where nothing listens is a warning: it may not be deployed yet."""
    finding = await check_public_url(settings_of(f"http://127.0.0.1:{free_port()}"))
    assert (finding.ok, finding.warning) == (True, True)
    assert "is it running?" in finding.detail


@pytest.mark.parametrize(
    ("secret", "scheme_settings", "ok", "warning", "said"),
    [
        (None, {}, True, False, "reaches this kit"),
        (OTHER_SECRET, {}, True, True, "PROJKIT_SECRET"),
        (None, {"cookie_secure": True}, False, False, "browsers discard them at an http URL"),
    ],
)
async def test_a_served_kit(
    sqlite_url: str, secret: str | None, scheme_settings: dict[str, Any], ok: bool, warning: bool, said: str
) -> None:
    """A kit recognizes the request of its own keys, and only that."""
    changes = {**scheme_settings, **({"secret": secret} if secret else {})}
    with serving(ProjKit(settings_for(sqlite_url, **changes))) as url:
        finding = await check_public_url(settings_of(url))
    assert (finding.ok, finding.warning) == (ok, warning), finding.detail
    assert said in finding.detail
