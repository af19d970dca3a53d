"""Hosts with their own users: ``get_principal`` and ``authenticate`` replace the kit's authentication."""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from projkit import Principal, ProjKit
from projkit.auth.login import HostLogin
from projkit.auth.middleware import AuthMiddleware
from projkit.errors import InvalidTokenError
from projkit.identity import ANONYMOUS
from projkit.testing.internals import Internals
from tests.asgi import websocket_scope
from tests.auth.guards.client import Answer, Headers, bearer, cookie, http, websocket
from tests.auth.guards.guarded import (
    FROM_APP,
    JSON,
    RULES,
    Host,
    make_settings,
    token,
)

pytestmark = pytest.mark.anyio

Found = Principal | None


def _asked(scope: Any) -> Found:
    name = dict(scope["headers"]).get(b"x-user", b"").decode()
    return Principal(name, frozenset({"projects:read", "host:own"})) if name else None


async def _asked_async(scope: Any) -> Found:
    return _asked(scope)


@pytest.mark.parametrize("ask", [_asked, _asked_async])
async def test_the_hosts_own_get_principal(
    sqlite_url: str, host: Host, ask: Callable[[Any], Found | Awaitable[Found]]
) -> None:
    """With get_principal, the host alone authenticates callers and grants scopes; the kit's tokens are
    rejected.
    """
    kit = ProjKit(make_settings(sqlite_url), get_principal=ask)
    app = AuthMiddleware(host, kit, rules={**RULES, "/own": ("host:own",)})
    async with kit.lifespan():
        as_bob: Headers = [(b"x-user", b"bob")]
        for path in ("/own", "/read", "/public"):
            assert (await http(app, path, headers=as_bob)).json()["subject"] == "bob"
            assert (await websocket(app, path, headers=as_bob)).json()["subject"] == "bob"
        assert (await http(app, "/admin", headers=as_bob)).status == 403
        for headers in ([], bearer(token(kit)), cookie("auth_token", token(kit))):
            assert (await http(app, "/read", headers=headers)).status == 401
            assert (await websocket(app, "/read", headers=[*headers, *FROM_APP])).status == 401
        assert (await http(kit, "/api/v1/auth/session", headers=as_bob)).json()["subject"] == "bob"


async def test_an_anonymous_principal_is_unauthenticated(sqlite_url: str, host: Host) -> None:
    """An anonymous principal from get_principal is unauthenticated, also on the kit's own routes."""
    kit = ProjKit(make_settings(sqlite_url), get_principal=lambda scope: scope.get("user", ANONYMOUS))
    app = AuthMiddleware(host, kit)
    async with kit.lifespan():
        assert (await http(app, "/")).status == 401
        assert (await http(kit, "/api/v1/projects")).status == 401


@pytest.mark.parametrize("path", ["/read", "/public"])
async def test_an_exception_in_get_principal(
    sqlite_url: str, host: Host, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of get_principal becomes a 500 without details and is logged once."""

    def broken(scope: Any) -> Principal:
        raise ZeroDivisionError("the inside")

    kit = ProjKit(make_settings(sqlite_url), get_principal=broken)
    app = AuthMiddleware(host, kit, rules=RULES)
    async with kit.lifespan():
        answer = await http(app, path)
        assert (answer.status, answer.json()["code"]) == (500, "internal_error")
        assert b"inside" not in answer.body
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
        assert (await websocket(app, path)).status == 500
    assert host.paths == []


async def test_a_session_that_has_ended(kit: ProjKit, app: AuthMiddleware) -> None:
    """After a logout, the next request to the host is rejected, although the token has not expired."""
    open_kit = ProjKit(kit.settings.model_copy(update={"registration": "open"}))
    async with open_kit.lifespan():
        login = {"username": "carol", "password": "a long enough password"}
        body: dict[str, Any] = {"method": "POST", "body": json.dumps(login).encode()}
        assert (await http(open_kit, "/api/v1/auth/register", headers=JSON, **body)).status == 201
        issued = (await http(open_kit, "/api/v1/auth/login", headers=JSON, **body)).json()
    headers = bearer(issued["access_token"])
    scope = websocket_scope("/read", headers)
    assert (await http(app, "/read", headers=headers)).status == 200
    assert (await kit.authenticate(scope)).session_id == issued["session_id"]
    assert (await http(kit, "/api/v1/auth/logout", method="POST", headers=headers)).status == 204
    assert (await http(app, "/read", headers=headers)).status == 401
    with pytest.raises(InvalidTokenError):
        await kit.authenticate(scope)


def _known(username: str, password: str) -> Found:
    """Authenticate the host's users: any name, with the reversed name as its password."""
    if password != username[::-1]:
        return None
    return Principal(f"host:{username}", frozenset({"projects:read"}), tenant_id=TENANTS.get(username, ""))


async def _known_async(username: str, password: str) -> Found:
    return _known(username, password)


def _handing_on(username: str, password: str) -> Awaitable[Found]:
    return _known_async(username, password)


class _Directory:
    async def __call__(self, username: str, password: str) -> Found:
        return _known(username, password)


TENANTS = {"dora": "acme", "emil": "globex"}
WAYS: dict[str, HostLogin] = {
    "plain": _known,
    "coroutine": _known_async,
    "object": _Directory(),
    "plain that gives a coroutine": _handing_on,
}


async def log_in(kit: ProjKit, username: str, password: str, **more: Any) -> Answer:
    """A login."""
    body = json.dumps({"username": username, "password": password, **more}).encode()
    return await http(kit, "/api/v1/auth/login", method="POST", headers=JSON, body=body)


def cookies_of(answer: Answer) -> dict[str, str]:
    """Return the cookies of a response as a browser stores them."""
    set_cookies = [
        value.decode().partition(";")[0] for name, value in answer.headers if name == b"set-cookie"
    ]
    return {name: value for name, _, value in (each.partition("=") for each in set_cookies) if value}


@pytest.mark.parametrize("way", WAYS)
async def test_the_whole_life_of_a_hosts_user(sqlite_url: str, host: Host, way: str) -> None:
    """A user of the host's authenticate logs in, uses kit and host, refreshes and logs out like a built-in
    user.
    """
    kit = ProjKit(make_settings(sqlite_url), authenticate=WAYS[way])
    app = AuthMiddleware(host, kit, rules=RULES)
    async with kit.lifespan():
        for name, password in (("carol", "wrong"), ("", ""), ("bob", "carol")):
            assert (await log_in(kit, name, password or "x")).status == (422 if not name else 401)
        logged_in = await log_in(kit, "carol", "lorac", transport="cookie")
        assert logged_in.status == 200
        cookies = cookies_of(logged_in)

        def browser(method: str = "GET") -> dict[str, Any]:
            line = "; ".join(f"{name}={value}" for name, value in cookies.items())
            headers = [
                (b"cookie", line.encode()),
                (b"x-csrf-token", cookies["csrf_token"].encode()),
                *FROM_APP,
            ]
            return {"headers": headers, "method": method}

        assert (await http(app, "/read", **browser())).json()["subject"] == "host:carol"
        assert (await http(app, "/elsewhere", **browser("POST"))).json()["subject"] == "host:carol"
        assert (await websocket(app, "/read", headers=browser()["headers"])).json()["subject"] == "host:carol"
        assert (await http(app, "/both", **browser())).status == 403
        assert (await http(kit, "/api/v1/projects", **browser())).status == 200
        assert (
            await http(kit, "/api/v1/projects", **browser("POST"))
        ).status == 403  # projects:write is not granted

        first = dict(cookies)
        refreshed = await http(kit, "/api/v1/auth/refresh", **browser("POST"))
        assert refreshed.status == 200
        cookies.update(cookies_of(refreshed))
        assert cookies["refresh_token"] != first["refresh_token"]
        assert (await http(app, "/read", **browser())).status == 200
        assert (await http(kit, "/api/v1/auth/logout", **browser("POST"))).status == 204
        assert (await http(app, "/read", **browser())).status == 401


async def test_a_slow_synchronous_authenticate_blocks_no_request(sqlite_url: str) -> None:
    """While a synchronous function of the host runs, other requests are processed."""
    entered, release = threading.Event(), threading.Event()

    def slow(username: str, password: str) -> Found:
        entered.set()
        assert release.wait(30), "the other request was not answered meanwhile"
        return _known(username, password)

    kit = ProjKit(make_settings(sqlite_url), authenticate=slow)
    async with kit.lifespan():
        waiting = asyncio.create_task(log_in(kit, "carol", "lorac"))
        await asyncio.to_thread(entered.wait, 30)
        assert (await http(kit, "/api/v1/auth/jwks")).status == 200
        assert not waiting.done()
        release.set()
        assert (await waiting).status == 200


async def test_a_slow_authenticate_occupies_no_slot(sqlite_url: str) -> None:
    """While the host's function processes a login, the login occupies no request slot."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(username: str, password: str) -> Found:
        entered.set()
        await release.wait()
        return _known(username, password)

    narrow = {"max_concurrent_requests": 1, "max_queued_requests": 0, "database_pool_size": 1}
    kit = ProjKit(make_settings(sqlite_url).model_copy(update=narrow), authenticate=slow)
    async with kit.lifespan(), asyncio.timeout(30):
        waiting = asyncio.create_task(log_in(kit, "carol", "lorac"))
        await entered.wait()
        assert (await http(kit, "/api/v1/auth/jwks")).status == 200
        assert not waiting.done()
        release.set()
        assert (await waiting).status == 200


async def test_guesses_at_a_hosts_users_are_limited(sqlite_url: str) -> None:
    """The host's function is called no more often than the limit allows; further attempts get 429."""
    calls: list[str] = []

    def ask(username: str, password: str) -> Found:
        calls.append(password)
        return _known(username, password)

    settings = make_settings(sqlite_url).model_copy(update={"login_limit_account": "3/minute"})
    kit = ProjKit(settings, authenticate=ask)
    async with kit.lifespan():
        answers = [(await log_in(kit, "carol", f"guess {number}")).status for number in range(6)]
    assert answers == [401] * 3 + [429] * 3
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("username", "tenant", "status"),
    [("dora", "acme", 200), ("dora", "globex", 401), ("emil", "acme", 401), ("fred", "acme", 401)],
)
async def test_the_host_alone_tells_the_tenant(
    sqlite_url: str, username: str, tenant: str, status: int
) -> None:
    """A login is always for the tenant that the host returned, whatever the request contains."""
    settings = make_settings(sqlite_url).model_copy(update={"tenant_claim": "org"})
    kit = ProjKit(settings, authenticate=_known)
    async with kit.lifespan():
        assert (await log_in(kit, username, username[::-1], tenant=tenant)).status == status


async def test_a_hosts_user_is_disabled(sqlite_url: str, host: Host) -> None:
    """A user disabled in the kit's table is denied, even if the host's authenticate accepts them."""
    kit = ProjKit(make_settings(sqlite_url), authenticate=_known)
    app = AuthMiddleware(host, kit, rules=RULES)
    async with kit.lifespan():
        issued = (await log_in(kit, "carol", "lorac")).json()
        users = Internals(kit).running.auth.users
        await users.add("carol", None, subject="host:carol", scopes=("projects:read",))
        await users.set_disabled("carol", disabled=True)
        assert (await log_in(kit, "carol", "lorac")).status == 401
        body = json.dumps({"refresh_token": issued["refresh_token"]}).encode()
        refused = await http(kit, "/api/v1/auth/refresh", method="POST", headers=JSON, body=body)
        assert refused.status == 401
        assert (await http(app, "/read", headers=bearer(issued["access_token"]))).status == 401
