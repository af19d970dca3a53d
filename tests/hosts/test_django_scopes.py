"""Scopes of requests over WSGI, and what the other helpers for Django do at the edges."""

import asyncio
import subprocess
import sys
import threading
from importlib import import_module
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import django
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest
from django.test import override_settings

from projkit.errors import UnavailableError
from projkit.host_calls import HostThreads, is_in_own_thread
from projkit.host_deadlines import HostDeadlines, HostFunction
from projkit.hosts.django import close_old_connections, run_sync, users
from projkit.hosts.django.loop import WSGI_LOOP, CallingThread
from projkit.hosts.django.scopes import request_of_scope, scope_of


@pytest.fixture(autouse=True)
def configured() -> None:
    """Configure Django, which stays configured in this process."""
    if not settings.configured:
        settings.configure()


def environ(**more: Any) -> dict[str, Any]:
    """Return the environment of a request, as wsgiref makes it."""
    return {
        "REQUEST_METHOD": "POST", "SCRIPT_NAME": "/site", "PATH_INFO": "/ma\u00c3\u00b1ana", "QUERY_STRING": "a=%20b",
        "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": "2", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.0", "REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "5", "wsgi.url_scheme": "https",
        "wsgi.input": BytesIO(), "HTTP_COOKIE": "a=1; b=2", "HTTP_X_FORWARDED_FOR": "1.2.3.4,5.6.7.8", **more,
    }  # fmt: skip


def test_a_scope_of_meta() -> None:
    """The scope has the path below and including the script name, the headers, the addresses and the scheme."""
    request = WSGIRequest(environ(HTTP_CONTENT_TYPE="text/plain", HTTP_AUTHORIZATION="Bearer a,Bearer b"))
    scope = scope_of(request)
    assert scope_of(request) is scope
    assert request_of_scope(scope) is request
    assert (scope["method"], scope["scheme"], scope["http_version"]) == ("POST", "https", "1.0")
    assert (scope["root_path"], scope["path"], scope["query_string"]) == (
        "/site",
        "/site/ma\u00f1ana",
        b"a=%20b",
    )
    assert (scope["client"], scope["server"]) == (("10.0.0.1", 5), ("localhost", 80))
    assert sorted(scope["headers"]) == [
        (b"authorization", b"Bearer a"),
        (b"authorization", b"Bearer b"),
        (b"content-length", b"2"),
        (b"content-type", b"application/json"),
        (b"cookie", b"a=1; b=2"),
        (b"x-forwarded-for", b"1.2.3.4,5.6.7.8"),
    ]


def test_a_scope_of_an_empty_request() -> None:
    """A request that code has created, without an environment, gets a scope too, and so does one of a Unix socket."""
    scope = scope_of(HttpRequest())
    assert (scope["method"], scope["path"], scope["headers"], scope["client"]) == ("GET", "/", [], None)
    bare = environ(
        REMOTE_ADDR="", REMOTE_PORT=None, CONTENT_LENGTH="", HTTP_AUTHORIZATION='Digest a="b", c="d"'
    )
    scope = scope_of(WSGIRequest(bare))
    assert scope["client"] is None
    assert (b"authorization", b'Digest a="b", c="d"') in scope["headers"]
    assert b"content-length" not in dict(scope["headers"])


def user(**fields: Any) -> Any:
    """Return a user with these attributes."""
    plain = {"pk": 7, "is_authenticated": True, "is_active": True, "is_staff": False, "is_superuser": False}
    return SimpleNamespace(**plain, **fields)


def test_scopes_by_setting() -> None:
    """Without PROJKIT_SCOPES every active user has the default scopes; an unknown requirement names the setting."""
    principal = users.principal_of(user())
    assert principal is not None
    assert (principal.subject, sorted(principal.scopes)) == ("7", ["projects:read", "projects:write"])
    inactive = SimpleNamespace(is_authenticated=True, is_active=False)
    assert users.principal_of(inactive) is None
    with (
        override_settings(PROJKIT_SCOPES={"admin": "everybody"}),
        pytest.raises(ImproperlyConfigured, match="PROJKIT_SCOPES: 'everybody' is none of"),
    ):
        users.principal_of(user())


def test_a_user_model_without_permissions() -> None:
    """Users of a model without PermissionsMixin are in no group and have no permission."""
    django.setup()
    base_user = import_module("django.contrib.auth.base_user").AbstractBaseUser
    meta = type("Meta", (), {"app_label": "people"})
    person = type("Person", (base_user,), {"__module__": __name__, "Meta": meta})
    required = ["group:Planners", "auth.change_user", "staff", "superuser", "*"]
    with override_settings(PROJKIT_SCOPES={f"scope:{each}": each for each in required}):
        principal = users.principal_of(person(pk=7))
    assert principal is not None
    assert principal.scopes == {"scope:*"}


async def _thread() -> int:
    return threading.get_ident()


async def _sensitive_thread() -> int:
    return await sync_to_async(threading.get_ident, thread_sensitive=True)()


def test_the_waiting_thread_runs_the_orm() -> None:
    """Over WSGI, coroutine functions run in the loop's thread, and what they send to asgiref in the waiting thread."""
    assert run_sync(_thread) != threading.get_ident()
    assert run_sync(_sensitive_thread) == threading.get_ident()

    async def nested() -> int:
        return await sync_to_async(async_to_sync(_sensitive_thread), thread_sensitive=True)()

    assert run_sync(nested) == threading.get_ident()


def test_async_to_sync_keeps_its_own_loops() -> None:
    """After a call over WSGI, async_to_sync in the same thread does not run on the kit's loop."""
    run_sync(_sensitive_thread)
    kit_thread = run_sync(_thread)
    assert async_to_sync(_thread)() != kit_thread


def test_run_sync_below_an_event_loop() -> None:
    """In a synchronous view over ASGI, run_sync uses the server's event loop."""

    async def serve() -> bool:
        return await sync_to_async(lambda: run_sync(_thread))() == threading.get_ident()

    assert asyncio.run(serve())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_reach_the_caller(error: type[BaseException]) -> None:
    """An error of a function in the waiting thread reaches the coroutine, and an error of the coroutine the thread."""

    def fail() -> None:
        raise error("broken")

    async def call() -> str:
        with pytest.raises(error, match="broken"):
            await sync_to_async(fail, thread_sensitive=True)()
        raise LookupError("of the coroutine")

    with pytest.raises(LookupError, match="of the coroutine"):
        run_sync(call)


def test_work_after_the_request() -> None:
    """A thread that no longer waits takes no work, instead of keeping it for ever."""
    executor = CallingThread()
    future = executor.submit(threading.get_ident)
    cancelled = executor.submit(threading.get_ident)
    cancelled.cancel()

    async def last() -> int:
        return await asyncio.wrap_future(future)

    assert executor.run_until_done(WSGI_LOOP.submit(last, None)) == threading.get_ident()
    with pytest.raises(RuntimeError, match="has ended"):
        executor.submit(threading.get_ident)


class Connection:
    """A database connection of Django that records what is done to it."""

    def __init__(self, *, in_atomic_block: bool = False) -> None:
        self.in_atomic_block = in_atomic_block
        self.closed = 0

    def close_if_unusable_or_obsolete(self) -> None:
        self.closed += 1


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Replace the connections of this thread: one in a transaction, one not."""
    made = [Connection(), Connection(in_atomic_block=True)]
    handler = SimpleNamespace(all=lambda initialized_only: made, close_all=made.clear)
    monkeypatch.setattr("django.db.connections", handler)
    monkeypatch.setattr("django.db.reset_queries", lambda: None)
    return made


def test_close_old_connections(connections: list[Connection]) -> None:
    """The decorator closes unusable connections before and after a plain function, but none in a transaction."""
    seen: list[int] = []

    @close_old_connections
    def function(value: int, *, more: int) -> int:
        seen.append(connections[0].closed)
        return value + more

    assert function(1, more=2) == 3
    assert (seen, [each.closed for each in connections]) == ([1], [2, 0])


def test_close_old_connections_of_a_coroutine_function(connections: list[Connection]) -> None:
    """Outside of a request, the ORM calls of a coroutine function have a thread whose connections end with the call."""

    @close_old_connections
    async def function() -> tuple[int, int]:
        return await _sensitive_thread(), await _sensitive_thread()

    one, two = asyncio.run(function())
    assert one == two != threading.get_ident()
    assert connections == []
    assert run_sync(function) == (threading.get_ident(), threading.get_ident())


@pytest.mark.parametrize(
    ("failures", "in_transaction", "raised"), [(1, False, None), (2, False, UnavailableError)]
)
def test_a_lost_connection(
    failures: int, in_transaction: bool, raised: type[Exception] | None, connections: list[Connection]
) -> None:
    """A query that meets a lost connection is repeated once; the second failure is a 503."""
    from django.db import OperationalError

    del connections[1:]
    left = [OperationalError("lost")] * failures

    def query() -> str:
        if left:
            raise left.pop()
        return "rows"

    if raised is None:
        assert users.retry_once(query) == "rows"
    else:
        with pytest.raises(raised, match="Django's database does not respond"):
            users.retry_once(query)
    assert connections[0].closed == 1


def test_a_lost_connection_in_a_transaction(connections: list[Connection]) -> None:
    """In a transaction, the query is not repeated: what came before it is lost as well."""
    from django.db import InterfaceError

    def query() -> None:
        raise InterfaceError("lost")

    with pytest.raises(InterfaceError):
        users.retry_once(query)


@pytest.mark.usefixtures("connections")
def test_a_call_that_hangs() -> None:
    """A call within a request of Django has no deadline, as Django waits for the thread in any case.

    Elsewhere it runs in a thread of the kit, and has a deadline.
    """
    released = threading.Event()

    async def calls() -> bool:
        threads = HostThreads("test", threads=1, seconds=0.3)
        function = HostFunction(
            "test",
            threads.wrap(lambda: released.wait(30)),
            0.3,
            watched=True,
            is_exempt=is_in_own_thread,
            deadlines=HostDeadlines(),
        )
        try:
            with pytest.raises(UnavailableError):
                await function()
            async with ThreadSensitiveContext():
                call = asyncio.ensure_future(function())
                await asyncio.sleep(1)
                assert not call.done()
                released.set()
                return bool(await call)
        finally:
            released.set()
            threads.close()

    assert asyncio.run(calls())


def test_django_without_helpers() -> None:
    """In a process with Django, the threads of host functions manage its connections, whatever the host imports."""
    code = """
import sys
import django.db
from projkit.host_calls import HostThreads

assert "projkit.hosts.django" not in sys.modules
HostThreads("login", threads=1, seconds=30).close()
assert "projkit.hosts.django.threads" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
