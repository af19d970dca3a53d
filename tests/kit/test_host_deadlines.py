"""A function of the host that hangs costs its own requests a 503, and no other request anything."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from projkit import HostCredential, Principal, ProjKit, host_calls, host_deadlines
from projkit.errors import UnavailableError
from projkit.host_calls import HostThreads, is_in_own_thread
from projkit.host_deadlines import HostDeadlines, HostFunction
from projkit.log_limit import LogLimit
from tests.conftest import settings_for
from tests.http.pending_requests import BODY, PendingRequest

pytestmark = pytest.mark.anyio

LOGIN = "/api/v1/auth/login"
CREDENTIALS = json.dumps({"username": "carol", "password": "lorac"}).encode()
DEADLINE_SECONDS = 0.6


class Hanging:
    """A function of the host that hangs until the test releases it, in a thread or on the event loop.

    Attributes:
        calls: how many calls have begun.
        cancelled: how many calls of the coroutine function were cancelled.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self._released = threading.Event()

    def release(self) -> None:
        """Let all calls return, also later ones."""
        self._released.set()

    def plain(self, *arguments: Any) -> Principal:
        """Hang in a thread."""
        self.calls += 1
        self._released.wait(60)
        return Principal("carol")

    async def coroutine(self, *arguments: Any) -> Principal:
        """Hang on the event loop."""
        self.calls += 1
        try:
            while not self._released.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Principal("carol")

    async def wait_for_calls(self, number: int) -> None:
        """Wait until so many calls have begun."""
        async with asyncio.timeout(20):
            while self.calls < number:
                await asyncio.sleep(0.01)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """A function that hangs until the end of the test."""
    function = Hanging()
    yield function
    function.release()


@pytest.fixture(autouse=True)
def unlimited_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the lines of other tests."""
    for module in (host_calls, host_deadlines):
        monkeypatch.setattr(module, "limit", LogLimit(module.logger, "of this test"))


@asynccontextmanager
async def kit_with(
    url: str, patch: pytest.MonkeyPatch, seconds: float = DEADLINE_SECONDS, **options: Any
) -> AsyncIterator[ProjKit]:
    """A kit with functions of the host, two threads for each purpose, and a short deadline."""
    patch.setattr("projkit.startup.REQUEST_SECONDS", seconds)
    patch.setattr("projkit.startup.REQUEST_THREADS", 2)
    patch.setattr("projkit.startup.LOGIN_THREADS", 2)
    settings = settings_for(
        url,
        request_timeout_seconds=seconds,
        max_concurrent_requests=4,
        database_pool_size=4,
        **options.pop("settings", {}),
    )
    kit = ProjKit(settings, **options)
    async with kit.lifespan():
        yield kit


def projects(kit: ProjKit) -> PendingRequest:
    """Return a request that ``get_principal`` authenticates."""
    return PendingRequest(kit)


def login(kit: ProjKit) -> PendingRequest:
    """Return a login."""
    return PendingRequest(
        kit, LOGIN, method="POST", body=[CREDENTIALS], headers=[(b"content-length", b"%d" % len(CREDENTIALS))]
    )


REQUESTS: dict[str, Callable[[ProjKit], PendingRequest]] = {"get_principal": projects, "authenticate": login}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_call_that_hangs(
    name: str,
    kind: str,
    sqlite_url: str,
    hanging: Hanging,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the deadline the request gets 503, and the log names the function; then requests succeed again."""
    async with kit_with(sqlite_url, monkeypatch, **{name: getattr(hanging, kind)}) as kit:
        request = REQUESTS[name](kit)
        assert await request.status() == 503
        assert request.json()["code"] == "service_unavailable"
        assert "retry-after" in request.headers
        assert f"{name} has not returned within {DEADLINE_SECONDS:g} s" in caplog.text
        assert hanging.cancelled == (kind == "coroutine")
        hanging.release()
        assert await REQUESTS[name](kit).status() == 200


async def test_a_csrf_check_that_hangs(
    sqlite_url: str, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``csrf_check`` has the same deadline."""

    async def by_cookie(scope: Any) -> HostCredential:
        return HostCredential(Principal("carol"), cookie=True)

    options: dict[str, Any] = {"get_principal": by_cookie, "csrf_check": hanging.plain}
    async with kit_with(sqlite_url, monkeypatch, **options) as kit:
        same_origin = [(b"sec-fetch-site", b"same-origin"), (b"content-length", b"%d" % len(BODY))]
        request = PendingRequest(kit, method="POST", body=[BODY], headers=same_origin)
        assert await request.status() == 503


async def test_all_threads_hang(
    sqlite_url: str, hanging: Hanging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once every thread hangs, requests that need one fail at once; others, and probes, are answered all the time."""
    others = ("/api/v1/auth/jwks", "/api/v1/health/live", "/api/v1/health/ready")
    async with kit_with(sqlite_url, monkeypatch, get_principal=hanging.plain) as kit:
        requests = [projects(kit) for _ in range(4)]
        assert [await each.status() for each in requests] == [503] * 4
        for _ in range(20):
            last = projects(kit)
            async with asyncio.timeout(DEADLINE_SECONDS / 2):
                assert await last.status() == 503
        assert last.json()["detail"] == "No request call of the application returns"
        assert (
            "Hanging.plain has not returned for 0.6 s in any of the 2 threads for request calls"
            in caplog.text
        )
        assert [await PendingRequest(kit, path).status() for path in others] == [200] * 3
        hanging.release()
        async with asyncio.timeout(20):
            while await projects(kit).status() != 200:
                await asyncio.sleep(0.01)
    assert hanging.calls < 8  # those that did not get a thread were never called


@pytest.mark.parametrize("name", REQUESTS)
async def test_clients_that_disconnect(
    name: str, sqlite_url: str, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that disconnects gives back its slot and its place in the queue for threads; its call never begins."""
    async with kit_with(sqlite_url, monkeypatch, 60, **{name: hanging.plain}) as kit:
        requests = [REQUESTS[name](kit) for _ in range(4)]
        await hanging.wait_for_calls(2)
        await asyncio.sleep(0.5)  # the clients of longer calls are watched
        for each in requests[1:]:
            each.disconnect()
        async with asyncio.timeout(20):
            await asyncio.gather(*(each.task for each in requests[1:]))
        assert [each.messages[0]["status"] for each in requests[1:]] == [400] * 3
        assert await PendingRequest(kit, "/api/v1/auth/jwks").status() == 200
        hanging.release()
        assert await requests[0].status() == 200
        assert hanging.calls == 2


@pytest.mark.parametrize("pieces", [[BODY], [BODY[:5], BODY[5:]]])
async def test_the_body_of_a_slow_call(
    pieces: list[bytes], sqlite_url: str, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was received while the client was watched is the body of the request."""
    async with kit_with(sqlite_url, monkeypatch, 60, get_principal=hanging.plain) as kit:
        length = [(b"content-length", b"%d" % len(BODY))]
        request = PendingRequest(kit, method="POST", body=pieces, headers=length)
        await hanging.wait_for_calls(1)
        await asyncio.sleep(0.5)
        assert request.receive_calls == (2 if len(pieces) == 1 else 1)
        hanging.release()
        assert await request.status() == 201


async def test_no_100_continue_during_a_call(
    sqlite_url: str, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that waits for 100 Continue is not watched, as that would send it."""
    async with kit_with(sqlite_url, monkeypatch, 60, get_principal=hanging.plain) as kit:
        headers = [(b"expect", b"100-continue"), (b"content-length", b"%d" % len(BODY))]
        request = PendingRequest(kit, method="POST", body=[BODY], headers=headers)
        await hanging.wait_for_calls(1)
        await asyncio.sleep(0.5)
        assert request.receive_calls == 0
        hanging.release()
        assert await request.status() == 201


def bound(function: Callable[..., Any], seconds: float = 0.3) -> HostFunction:
    """Return a coroutine function with a deadline."""
    return HostFunction(
        "test", function, seconds, watched=False, is_exempt=is_in_own_thread, deadlines=HostDeadlines()
    )


async def test_any_awaitable() -> None:
    """A function that is marked as a coroutine function may return another awaitable; its errors and result count."""

    async def found(value: int) -> int:
        await asyncio.sleep(0)
        if value < 0:
            raise ValueError(value)
        return value

    function = bound(lambda value: asyncio.ensure_future(found(value)))
    assert await function(3) == 3
    with pytest.raises(ValueError, match="-1"):
        await function(-1)


@pytest.mark.parametrize("exempt", [True, False])
async def test_a_cancellation_of_the_function_itself(exempt: bool) -> None:
    """A CancelledError without a cancellation of the request is an error, and with one it remains what it is."""

    async def cancelled() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    function = HostFunction(
        "test", cancelled, 30, watched=False, is_exempt=lambda: exempt, deadlines=HostDeadlines()
    )
    with pytest.raises(RuntimeError, match="CancelledError in test of the application"):
        await function()
    call = asyncio.ensure_future(function())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_after_a_pause() -> None:
    """The timer ends when there are no calls, and starts again with the next one."""
    function = bound(asyncio.sleep)
    await function(0.01)
    await asyncio.sleep(0.6)
    with pytest.raises(UnavailableError):
        await function(30)


async def test_a_function_that_ignores_its_cancellation() -> None:
    """The result of a function that survives the deadline counts, and the task is not cancelled any more."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.6)
            return "result"
        raise AssertionError

    assert await bound(stubborn)() == "result"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_request_that_the_server_cancels_too() -> None:
    """A server's cancellation at the moment of the deadline remains one."""
    call: asyncio.Task[None]

    async def cancelled_twice() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            call.cancel()
            raise

    call = asyncio.ensure_future(bound(cancelled_twice)())
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_an_error_at_the_deadline() -> None:
    """A function that turns its cancellation into an error fails with that."""

    async def failing() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"):
        await bound(failing)()


async def test_a_bounded_queue(caplog: pytest.LogCaptureFixture, hanging: Hanging) -> None:
    """Calls beyond the queue get 503, which the log counts."""
    caplog.set_level(logging.WARNING)
    threads = HostThreads("test", threads=1, seconds=30, waiting=1)
    function = threads.wrap(hanging.plain)
    calls = [asyncio.ensure_future(function()) for _ in range(2)]
    await hanging.wait_for_calls(1)
    with pytest.raises(UnavailableError):
        await function()
    assert "2 calls are running in or waiting for the 1 threads for test calls" in caplog.text
    calls[1].cancel()  # it gives its place back
    await asyncio.sleep(0)
    last = asyncio.ensure_future(function())
    await asyncio.sleep(0)
    hanging.release()
    assert await calls[0] == await last == Principal("carol")
    threads.close()
