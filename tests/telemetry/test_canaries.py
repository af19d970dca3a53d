"""Secrets appear in no series, no statistics and no log line, however they came in."""

import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from projkit import ProjKit, Settings
from projkit.auth.passwords import Passwords
from projkit.cli.logs import JsonFormatter
from projkit.errors import ProjkitError, SessionStoreUnavailableError
from projkit.redis.connect import RedisCommands
from projkit.testing.internals import Internals
from projkit.testing.servers import free_port
from tests.auth.asgi_client import Answer, Header, ask, bearer, cookie
from tests.auth.users import AUTH, PROJECTS, add_user
from tests.conftest import settings_for
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio
OPENMETRICS = ("accept", "application/openmetrics-text; version=1.0.0")
MONITORING = "/api/v1/monitoring"
FIGURES = (
    f"{MONITORING}/metrics/performance",
    f"{MONITORING}/metrics/database",
    f"{MONITORING}/system/info",
    "/api/v1/health/detailed",
)
COOKIES = (
    "auth_token",
    "access_token",
    "refresh_token",
    "csrf_token",
    "known_device",
    "oidc_login",
    "session",
    "x",
)
# X-Request-ID and traceparent are there to be logged.
HEADERS = (
    "authorization", "proxy-authorization", "x-api-key", "x-csrf-token", "x-auth-token", "cookie", "user-agent", "host",
    "referer", "origin", "idempotency-key", "if-match", "accept", "accept-encoding", "content-type", "x-forwarded-for",
    "forwarded", "x-forwarded-host", "tracestate", "baggage", "sec-fetch-site",
)  # fmt: skip


class Canaries:
    """A source of recognisable secrets, and everything that could reveal them."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._made = 0
        self._kept: list[str] = []
        self._shown: list[str] = []

    def new(self) -> str:
        """Create a secret."""
        self._made += 1
        return "canary" + uuid4().hex + uuid4().hex[:8]

    def keep(self, secret: str) -> str:
        """Register a secret that was created elsewhere."""
        self._kept.append(secret)
        return secret

    def show(self, answer: Answer) -> None:
        """Register a response to check."""
        assert answer.status in {200, 503}, answer
        self._shown.append(answer.body.decode())

    def telling(self, text: str) -> list[str]:
        """Return the log lines and responses that contain a text."""
        formatter = JsonFormatter()
        logged = [formatter.format(record) + str(record.__dict__) for record in self._caplog.records]
        return [each for each in logged + self._shown if text in each]

    def are_safe(self) -> None:
        """Check that no secret appears; all created ones start the same."""
        assert self._made
        assert self.telling("projkit.access")
        assert self.telling("canary") == []
        for secret in self._kept:
            assert self.telling(secret) == []


@pytest.fixture
def canaries(caplog: pytest.LogCaptureFixture) -> Iterator[Canaries]:
    """A source of secrets that captures every logger at every level."""
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "projkit.access"):
        yield Canaries(caplog)


def settings_with(url: str, canaries: Canaries, **changes: Any) -> Settings:
    """Return settings whose secrets are all canaries, and with which every request is slow."""
    given = {
        "secret": canaries.new(),
        "legacy_secret": canaries.new(),
        "metrics_token": canaries.new(),
        "slow_request_seconds": 1e-9,
        "login_limit_address": "10000/minute",
        **changes,
    }
    return settings_for(with_password(url, canaries), **given)


def with_password(url: str, canaries: Canaries) -> str:
    """Return the URL with a secret password: the server's, or a new one where it requires none."""
    parts = urlsplit(url)
    if parts.username is None:  # SQLite
        return url
    if parts.password is not None:
        canaries.keep(parts.password)
        return url
    return url.replace("@", f":{canaries.new()}@", 1)


async def look(kit: ProjKit, canaries: Canaries) -> None:
    """Request all statistics and metrics."""
    for path in FIGURES:
        canaries.show(await ask(kit, "GET", path, address="127.0.0.1"))
    for headers in ([], [OPENMETRICS]):
        canaries.show(await ask(kit, "GET", "/metrics", headers, address="127.0.0.1"))
        canaries.show(await ask(kit.metrics_app, "GET", "/", headers))


async def test_whatever_a_client_sends(any_database_url: str, canaries: Canaries) -> None:
    """Tokens in headers, cookies, queries, paths and bodies, valid or not, are not revealed."""

    async def broken(request: Request) -> Response:
        raise RuntimeError("broken")

    settings = settings_with(any_database_url, canaries)
    kit = ProjKit(settings)
    app = kit.wrap(Starlette(routes=[Route("/host/{token}", broken)]))
    async with kit.lifespan():
        for path in (PROJECTS, f"{PROJECTS}/{canaries.new()}", f"/none/{canaries.new()}", "/metrics"):
            for name in HEADERS:
                for form in ("{}", "Bearer {}", "Basic {}"):
                    await ask(app, "GET", path, [(name, form.format(canaries.new()))])
            for name in COOKIES:
                sent: list[Header] = [cookie(**{name: canaries.new()}), ("x-csrf-token", canaries.new())]
                await ask(app, "GET", path, sent)
                await ask(app, "POST", path, sent, json={"name": canaries.new()})
            for name in ("token", "access_token", "password", "q", "cursor", "external_id", canaries.new()):
                await ask(app, "GET", path, query=f"{name}={canaries.new()}")
        await ask(app, "GET", PROJECTS, [("x-request-id", "an-id-of-the-client")])
        with pytest.raises(RuntimeError):
            await ask(app, "GET", f"/host/{canaries.new()}", query=f"token={canaries.new()}")
        for token in (settings.metrics_token, None):
            value = canaries.new() if token is None else token.get_secret_value()
            assert (await ask(app, "GET", "/metrics", [bearer(value)])).status == (
                401 if token is None else 200
            )
        await look(kit, canaries)
    assert canaries.telling("an-id-of-the-client"), "request ids are logged"
    canaries.are_safe()


async def test_logging_in(any_database_url: str, canaries: Canaries, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords, right or wrong, and session tokens are not revealed, even if the login fails."""
    kit = ProjKit(settings_with(any_database_url, canaries))
    password = canaries.new()
    async with kit.lifespan():
        await add_user(kit, "alice", password)

        async def log_in(with_: str, **more: Any) -> Answer:
            return await ask(
                kit, "POST", f"{AUTH}/login", json={"username": "alice", "password": with_, **more}
            )

        body = (await log_in(password)).json()
        tokens = [
            canaries.keep(body[name])
            for name in ("access_token", "refresh_token", "csrf_token", "session_id")
        ]
        answer = await log_in(password, transport="cookie")
        tokens += [canaries.keep(each.value) for each in answer.cookies.values() if each.value]
        assert len(tokens) >= 7
        assert (await log_in(canaries.new())).status == 401
        assert (await log_in(canaries.new(), **{canaries.new(): canaries.new()})).status == 422
        for token in (body["refresh_token"], canaries.new()):
            await ask(kit, "POST", f"{AUTH}/refresh", json={"refresh_token": token})
            await ask(kit, "POST", f"{AUTH}/refresh", [cookie(refresh_token=token)])
        change = {"old_password": password, "new_password": canaries.new()}
        assert (
            await ask(kit, "POST", f"{AUTH}/password", [bearer(body["access_token"])], json=change)
        ).status == 204

        async def fails(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Passwords, "verify", fails)
        assert (await log_in(canaries.new())).status == 500
        await look(kit, canaries)
    canaries.are_safe()


async def test_stores_that_do_not_answer(sqlite_url: str, canaries: Canaries) -> None:
    """The passwords of an unreachable database and Redis are not revealed, not even in exceptions."""
    redis = f"redis://:{canaries.new()}@127.0.0.1:{free_port()}/0"
    kit = ProjKit(settings_with(sqlite_url, canaries, redis_url=redis))
    async with kit.lifespan():
        login = {"username": "alice", "password": canaries.new()}
        assert (await ask(kit, "POST", f"{AUTH}/login", json=login)).status == 503
        await look(kit, canaries)
    dead = ProjKit(
        settings_with("postgresql://user@127.0.0.1:1/none", canaries, database_connect_seconds=0.2)
    )
    with pytest.raises(ProjkitError) as raised:
        await dead.startup()
    assert "canary" not in str(raised.value)
    assert (await ask(dead, "GET", PROJECTS)).status in {401, 503}
    canaries.show(await ask(dead.metrics_app, "GET", "/"))
    canaries.are_safe()


async def test_sessions_in_redis(redis_alone: Redises, sqlite_url: str, canaries: Canaries) -> None:
    """Keys and values of Redis appear in no series and no log line, even if Redis rejects the command."""
    settings = settings_with(
        sqlite_url, canaries, redis_url=redis_alone.url, redis_prefix=f"{canaries.new()}:"
    )
    kit = ProjKit(settings)
    async with kit.lifespan():
        password = canaries.new()
        await add_user(kit, "alice", password)
        login = {"username": "alice", "password": password}
        token = canaries.keep((await ask(kit, "POST", f"{AUTH}/login", json=login)).json()["access_token"])
        assert (await ask(kit, "GET", PROJECTS, [bearer(token)])).status == 200
        client = Internals(kit).running.redis
        assert client is not None
        redis = RedisCommands(client, SessionStoreUnavailableError, Internals(kit).recorder)
        with pytest.raises(SessionStoreUnavailableError):
            await redis.run("EVAL", f"no Lua {canaries.new()}", 1, canaries.new(), canaries.new())
        for path in FIGURES[:2]:  # the prefix of its keys is a setting, which system/info shows
            canaries.show(await ask(kit, "GET", path, address="127.0.0.1"))
        canaries.show(await ask(kit.metrics_app, "GET", "/"))
    canaries.are_safe()
