"""A running provider, kits with its settings, and browsers."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from pydantic import SecretStr

from projkit import ProjKit, Settings
from projkit.settings import OidcProvider
from tests.auth.oidc.provider import OpenIdProvider, Registered
from tests.conftest import serving, settings_for

ORIGIN = "http://testserver"
AUTH = "/api/v1/auth"
CLIENT_ID = "projkit-web"
CLIENT_SECRET = "a secret with :, % and + in it"
RESOURCE_AUDIENCE = "https://projects.example.com"


def callback_of(name: str, mount: str = "") -> str:
    """The redirect URI of a provider's."""
    return f"{ORIGIN}{mount}{AUTH}/oidc/{name}/callback"


@pytest.fixture(scope="session")
def served_provider() -> Iterator[OpenIdProvider]:
    """The provider over real HTTP."""
    provider = OpenIdProvider()
    with serving(provider.app) as url:
        provider.issuer = url
        yield provider


@pytest.fixture
def provider(served_provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenIdProvider]:
    """The provider with its default behaviour, and the kit's client registered at it."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    served_provider.reset()
    uris = (callback_of("corp"), callback_of("other"), callback_of("corp", "/kit"))
    served_provider.clients = {
        CLIENT_ID: Registered(CLIENT_SECRET, uris),
        "public-app": Registered(None, uris),
    }
    yield served_provider
    served_provider.hanging = served_provider.dripping = set()


def settings_with(url: str, provider: OpenIdProvider, **changes: Any) -> Settings:
    """Return the settings of a kit whose users log in at the provider."""
    config = OidcProvider(issuer=provider.issuer, client_id=CLIENT_ID, client_secret=SecretStr(CLIENT_SECRET))
    values: dict[str, Any] = {
        "public_url": ORIGIN,
        "oidc_providers": {"corp": config, "other": config},
        "oidc_resource_issuer": provider.issuer,
        "oidc_resource_audience": RESOURCE_AUDIENCE,
        # Every test comes from the same address.
        "login_limit_address": "10000/minute",
    }
    return settings_for(url, **{**values, **changes})


class Browser(httpx2.AsyncClient):
    """A browser with a cookie jar: it reaches the kit at ``testserver``, and all other servers over real HTTP."""

    def __init__(self, app: Any) -> None:
        kit = httpx2.ASGITransport(app=app)
        super().__init__(
            base_url=ORIGIN, mounts={f"all://{urlsplit(ORIGIN).netloc}": kit}, verify=False, trust_env=False
        )

    async def start(self, name: str = "corp", *, mount: str = "", **query: str) -> httpx2.Response:
        """Asks the kit to log in."""
        return await self.get(f"{mount}{AUTH}/oidc/{name}/login", params=query)

    async def to_provider(self, name: str = "corp", *, mount: str = "", **query: str) -> str:
        """Goes to the provider; gives the address that this sends it back to."""
        started = await self.start(name, mount=mount, **query)
        assert started.status_code == 302, started.text
        answer = await self.get(started.headers["location"])
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def log_in(self, name: str = "corp", *, mount: str = "", **query: str) -> httpx2.Response:
        """Complete a login and return the kit's last response."""
        return await self.get(await self.to_provider(name, mount=mount, **query))

    async def subject(self) -> str | None:
        """Return the subject of the current session."""
        answer = await self.get(f"{AUTH}/session")
        return answer.json()["subject"] if answer.status_code == 200 else None


OpenKit = Callable[..., AbstractAsyncContextManager[ProjKit]]


@pytest.fixture
def open_kit(sqlite_url: str, provider: OpenIdProvider) -> OpenKit:
    """Start a kit whose users log in at the provider."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[ProjKit]:
        kit = ProjKit(settings_with(sqlite_url, provider, **changes))
        async with kit.lifespan():
            yield kit

    return start


@pytest.fixture
async def kit(open_kit: OpenKit) -> AsyncIterator[ProjKit]:
    """One of them."""
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def browser(kit: ProjKit) -> AsyncIterator[Browser]:
    """A browser in front of it."""
    async with Browser(kit) as opened:
        yield opened


def query_of(url: str) -> dict[str, str]:
    """Return a URL's query parameters, each of which occurs once."""
    parameters = parse_qs(urlsplit(url).query, strict_parsing=True)
    assert all(len(values) == 1 for values in parameters.values())
    return {name: values[0] for name, values in parameters.items()}


def with_query(url: str, **changes: str | None) -> str:
    """Return the URL with changed parameters; None removes one."""
    query: dict[str, str | None] = {**query_of(url), **changes}
    return str(
        httpx2.URL(url).copy_with(params={name: each for name, each in query.items() if each is not None})
    )


def refused(answer: httpx2.Response) -> bool:
    """Return whether the login failed and no session was created."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.headers["cache-control"] == "private, no-store"
    cookies = answer.headers.get_list("set-cookie")
    assert not any(each.startswith(("auth_token=", "refresh_token=", "csrf_token=")) for each in cookies)
    return bool(answer.status_code == 401 and answer.json()["code"] == "login_failed")


def set_cookies(answer: httpx2.Response) -> dict[str, str]:
    """Return the cookies of a response, each with its attributes."""
    pairs = (each.partition("=") for each in answer.headers.get_list("set-cookie"))
    return {name: rest for name, _, rest in pairs}


def browser_cookie(answer: httpx2.Response) -> str:
    """Return the value of the login-state cookie that a response sets."""
    return set_cookies(answer)["oidc_login"].partition(";")[0]


def unavailable(answer: httpx2.Response) -> bool:
    """Check that the response reports an unavailable provider, with Retry-After."""
    return bool(
        answer.status_code == 503
        and answer.json()["code"] == "provider_unavailable"
        and 1 <= int(answer.headers["retry-after"]) <= 60
    )
