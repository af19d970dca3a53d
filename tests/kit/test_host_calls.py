"""Functions of the host never run on the event loop, unless they are coroutine functions."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from projkit import Principal, ProjKit, Settings
from projkit.errors import ConfigurationError, UnavailableError
from projkit.host_calls import HostThreads
from tests.asgi import body, call, http_scope
from tests.conftest import SECRET, settings_for, token_for

pytestmark = pytest.mark.anyio

TENANT: ContextVar[str] = ContextVar("TENANT", default="none")
LOGIN = json.dumps({"username": "carol", "password": "lorac"}).encode()
JSON = [(b"content-type", b"application/json")]


class Seen:
    """What a function of the host was called with, and where."""

    def __init__(self) -> None:
        self.on_event_loop: list[bool] = []
        self.tenants: list[str] = []

    def note(self) -> None:
        """Note the thread and the context of the current call."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.on_event_loop.append(False)
        else:
            self.on_event_loop.append(True)
        self.tenants.append(TENANT.get())


def kit_with(directory: Path, **functions: Any) -> ProjKit:
    """Return a kit with functions of the host."""
    return ProjKit(Settings(database_url=f"sqlite:///{directory / 'kit.db'}", secret=SECRET), **functions)


def plain(seen: Seen) -> Callable[..., Any]:
    """Return a plain function."""

    def function(*arguments: Any) -> Principal:
        seen.note()
        return Principal("carol")

    return function


def on_loop(seen: Seen) -> dict[str, Callable[..., Any]]:
    """Return functions of each kind that creates a coroutine."""

    async def function(*arguments: Any) -> Principal:
        seen.note()
        return Principal("carol")

    class Directory:
        async def __call__(self, *arguments: Any) -> Principal:
            return await function(*arguments)

    return {"coroutine function": function, "partial": partial(function), "object": Directory()}


async def ask(kit: ProjKit, path: str, method: str = "GET", content: bytes = b"", headers: Any = ()) -> int:
    """Return the status of a response to a request in the context of tenant acme."""
    token = TENANT.set("acme")
    try:
        messages = await call(kit, http_scope(path, method, headers), body(content))
    finally:
        TENANT.reset(token)
    status: int = messages[0]["status"]
    return status


REQUESTS: dict[str, tuple[Any, ...]] = {
    "get_principal": ("/api/v1/projects",),
    "authenticate": ("/api/v1/auth/login", "POST", LOGIN, JSON),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_plain_function_runs_in_a_thread(name: str, tmp_path: Path) -> None:
    """A plain function, which may block, runs in a thread, with the context variables of the request."""
    seen = Seen()
    kit = kit_with(tmp_path, **{name: plain(seen)})
    async with kit.lifespan():
        assert await ask(kit, *REQUESTS[name]) == 200
    assert (seen.on_event_loop, seen.tenants) == ([False], ["acme"])


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", ["coroutine function", "partial", "object"])
async def test_a_coroutine_function_runs_on_the_event_loop(name: str, kind: str, tmp_path: Path) -> None:
    """A coroutine function of any kind runs on the event loop, which costs no change of threads."""
    seen = Seen()
    kit = kit_with(tmp_path, **{name: on_loop(seen)[kind]})
    async with kit.lifespan():
        assert await ask(kit, *REQUESTS[name]) == 200
    assert (seen.on_event_loop, seen.tenants) == ([True], ["acme"])


@pytest.mark.parametrize("allows", [True, False])
async def test_a_plain_csrf_check(allows: bool, tmp_path: Path) -> None:
    """A plain csrf_check runs in a thread, and its result decides."""
    seen = Seen()

    def check(request: Any) -> bool:
        seen.note()
        return allows

    kit = kit_with(tmp_path, csrf_check=check)
    async with kit.lifespan():
        kit_headers = [*JSON, (b"sec-fetch-site", b"same-origin")]
        cookie = (b"cookie", b"auth_token=" + token_for(kit.settings, "carol").encode())
        status = await ask(kit, "/api/v1/projects", "POST", b'{"name": "A"}', [*kit_headers, cookie])
    assert status == (201 if allows else 403)
    assert seen.on_event_loop == [False]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration, ValueError])
async def test_whatever_a_plain_function_raises(error: type[BaseException], tmp_path: Path) -> None:
    """Whatever a plain function raises fails its own request with a 500, and the next one is answered."""
    errors: list[type[BaseException]] = [error]

    def function(scope: Any) -> Principal:
        if errors:
            raise errors.pop()
        return Principal("carol")

    kit = kit_with(tmp_path, get_principal=function)
    async with kit.lifespan(), asyncio.timeout(30):
        assert await ask(kit, "/api/v1/projects") == 500
        assert await ask(kit, "/api/v1/projects") == 200


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", [*REQUESTS, "csrf_check", "still_valid"])
async def test_a_coroutine_function_that_is_cancelled(name: str, at_once: bool, tmp_path: Path) -> None:
    """A function that awaits a task it has cancelled fails its own request, as any other error of it does."""

    async def function(*arguments: Any) -> Any:
        task = asyncio.create_task(asyncio.sleep(60))
        if not at_once:
            await asyncio.sleep(0)
        task.cancel()
        if at_once:
            raise asyncio.CancelledError
        await task

    legacy = (
        {"legacy_secret": "l" * 40, "legacy_sunset": "2030-01-01T00:00:00Z"} if name == "still_valid" else {}
    )
    functions: dict[str, Any] = {name: function}
    kit = ProjKit(settings_for(f"sqlite:///{tmp_path}/projkit.db", **legacy), **functions)
    token = token_for(kit.settings, "carol").encode()
    request: tuple[Any, ...] = REQUESTS.get(name, ("/api/v1/projects",))
    if name == "csrf_check":
        headers = [*JSON, (b"sec-fetch-site", b"same-origin"), (b"cookie", b"auth_token=" + token)]
        request = ("/api/v1/projects", "POST", b'{"name": "A"}', headers)
    if name == "still_valid":
        claims = {"user_id": "carol", "exp": int(time.time()) + 600}
        legacy_token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(b"l" * 40)).encode()
        request = ("/api/v1/projects", "GET", b"", [(b"authorization", b"Bearer " + legacy_token)])
    async with kit.lifespan(), asyncio.timeout(30):
        assert await ask(kit, *request) == (503 if name == "still_valid" else 500)


async def test_a_call_that_waits_when_the_threads_are_closed() -> None:
    """A call that gets no thread any more, because the kit stops, is no cancellation of the request."""
    threads = HostThreads("test", threads=1, seconds=60)
    release = threading.Event()
    running = asyncio.ensure_future(threads.wrap(release.wait)())
    waiting = asyncio.ensure_future(threads.wrap(release.wait)())
    cancelled = asyncio.ensure_future(threads.wrap(release.wait)())
    await asyncio.sleep(0.05)
    cancelled.cancel()
    threads.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    release.set()
    assert await running


async def test_waiting_calls_are_bounded() -> None:
    """A call that would wait behind too many others is refused; one whose caller gave up still counts until it ends."""
    release = threading.Event()
    threads = HostThreads("test", threads=1, seconds=30, waiting=1)
    wait = threads.wrap(release.wait)
    try:
        calls = [asyncio.ensure_future(wait(30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="Too many test calls"):
            await wait(30)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        with pytest.raises(UnavailableError, match="Too many test calls"):
            await wait(30)
        release.set()
        assert await calls[1] is True
        assert await wait(30) is True
    finally:
        release.set()
        threads.close()


def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that takes a database session, which the decorator passes."""

    @wraps(function)
    def decorated(*arguments: Any) -> Any:
        return function(*arguments, "a session")

    return decorated


@with_session
def is_user(subject: str, session: str) -> bool:
    """Return whether the host has a user."""
    return bool(subject and session)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"get_principal": lambda: None}, "get_principal is called with (scope), but takes ()"),
        ({"authenticate": lambda form: None}, "authenticate is called with (username, password), but takes (form)"),
        ({"csrf_check": lambda *, request: True}, "csrf_check is called with (request), but takes (*, request)"),
        ({"still_valid": lambda s, t: True}, "still_valid is called with (subject), but takes (s, t)"),
        ({"still_valid": True}, "still_valid must be a function, not bool"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_called(functions: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A function that takes other arguments is rejected when the kit is created, and the error shows both lists."""
    with pytest.raises(ConfigurationError) as caught:
        kit_with(tmp_path, **functions)
    assert str(caught.value) == message


def test_a_function_without_the_tenant(tmp_path: Path) -> None:
    """With tenants, ``still_valid`` must also take the tenant."""
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'kit.db'}", secret=SECRET, tenant_claim="org")
    ProjKit(settings, still_valid=lambda subject, tenant_id: True)
    with pytest.raises(
        ConfigurationError, match=r"called with \(subject, tenant_id\), but takes \(subject\)"
    ):
        ProjKit(settings, still_valid=lambda subject: True)


@pytest.mark.parametrize("function", [is_user, partial(is_user), Seen().__eq__, bool, dict])
def test_functions_that_can_be_called(function: Callable[..., Any], tmp_path: Path) -> None:
    """A decorator may add arguments, and functions in C may not tell theirs."""
    kit_with(tmp_path, still_valid=function)
