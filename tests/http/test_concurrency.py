"""Requests above the limit are queued; if they are too many, or wait too long, they are rejected; no slot is lost."""

import asyncio
import gc
import threading
import weakref
from collections import deque
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from projkit import ProjKit, Settings
from projkit.errors import ConfigurationError, OverloadedError
from projkit.http.concurrency import ConcurrencyLimiter, QueueEntry
from projkit.observers import NULL_OBSERVER
from tests.conftest import token_for
from tests.http.pending_requests import BODY, PROJECTS, HoldingHost, PendingRequest, limited_kit, wait_until

pytestmark = pytest.mark.anyio


def metric(kit: ProjKit, name: str, **labels: str) -> float:
    """Return the value of a series, as a scrape would show it."""
    sample = kit.registry.get_sample_value(name, labels)
    assert sample is not None, name
    return sample


def queue_length(kit: ProjKit) -> float:
    """Return the number of queued requests."""
    return metric(kit, "projkit_http_server_waiting_requests")


def rejections(kit: ProjKit, reason: str) -> float:
    """Return the number of rejected requests."""
    return metric(kit, "projkit_http_server_refused_requests_total", reason=reason)


def disconnects(kit: ProjKit, method: str) -> float:
    """Return the number of requests whose client disconnected before the response."""
    return metric(kit, "projkit_http_server_client_disconnects_total", method=method, route=PROJECTS)


async def test_first_come_first_served(sqlite_url: str) -> None:
    """Requests above the limit get a slot in the order of their arrival, one for each response."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        names = [str(number) for number in range(6)]
        requests = [PendingRequest(kit, name=name) for name in names]
        await host.wait_for("0")
        await wait_until(lambda: queue_length(kit) == 5)
        for number, name in enumerate(names):
            await host.wait_for(name)
            assert host.received == names[: number + 1]
            host.release(name)
            assert await requests[number].status() == 200
        assert queue_length(kit) == 0


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("queue", [0, 2])
async def test_full_queue(sqlite_url: str, slots: int, queue: int) -> None:
    """With a full queue one more request is rejected before authentication: 503 `overloaded` with Retry-After."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_concurrent_requests=slots, max_queued_requests=queue) as kit:
        active = [PendingRequest(kit, name=str(number)) for number in range(slots + queue)]
        await wait_until(lambda: len(host.received) == slots and queue_length(kit) == queue)
        rejected = PendingRequest(
            kit, method="POST", name="rejected", body=[b'{"name": "A"}'], headers=[(b"content-length", b"13")]
        )
        assert await rejected.status() == 503
        assert rejected.headers["content-type"] == "application/problem+json"
        assert 1 <= int(rejected.headers["retry-after"]) <= 45
        assert rejected.json()["code"] == "overloaded"
        assert "connection" not in rejected.headers
        assert rejected.receive_calls == 0, "its body was not read"
        assert rejections(kit, "queue_full") == 1
        assert rejections(kit, "waited_too_long") == 0
        host.holding = False
        for number in range(slots):
            host.release(str(number))
        assert [await each.status() for each in active] == [200] * len(active)
        assert "rejected" not in host.received


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"70000")],
        [(b"content-length", b"9" * 30)],
        [(b"content-length", b"many")],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"13"), (b"expect", b"100-continue")],
    ],
)
async def test_a_long_body_that_is_not_read(sqlite_url: str, headers: list[tuple[bytes, bytes]]) -> None:
    """A rejection closes the connection if much of the request body is still to come."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_queued_requests=0) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        rejected = PendingRequest(kit, method="POST", headers=headers)
        assert await rejected.status() == 503
        assert rejected.headers["connection"] == "close"
        assert rejected.receive_calls == 0
        host.release("active")
        assert await active.status() == 200


@pytest.mark.parametrize("headers", [[(b"content-length", b"70000")], []])
async def test_a_long_body_over_http_2(sqlite_url: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Over HTTP/2 a rejection does not close the connection, on which other requests are served."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_queued_requests=0) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        rejected = PendingRequest(kit, method="POST", headers=headers, version="2")
        assert await rejected.status() == 503
        assert "connection" not in rejected.headers
        assert rejected.receive_calls == 0
        host.release("active")
        assert await active.status() == 200


async def test_queue_timeout(sqlite_url: str) -> None:
    """A request that has been queued for QUEUE_SECONDS is rejected; later ones remain queued, and are served."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, queue_seconds=1) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        early = [PendingRequest(kit, name=f"early {number}") for number in range(50)]
        await asyncio.sleep(0.7)
        later = PendingRequest(kit, name="quick")
        assert {await each.status() for each in early} == {503}
        assert {each.json()["code"] for each in early} == {"overloaded"}
        assert rejections(kit, "waited_too_long") == 50
        assert queue_length(kit) == 1
        host.release("active")
        assert await later.status() == await active.status() == 200
        assert host.received == ["active", "quick"]


@pytest.mark.parametrize(
    ("method", "body"), [("GET", ()), ("POST", [BODY]), ("POST", ())], ids=["none", "complete", "not yet"]
)
async def test_disconnect_while_queued(sqlite_url: str, method: str, body: list[bytes]) -> None:
    """A queued request whose client disconnects leaves the queue, is not handled, and is counted as a disconnect."""
    host = HoldingHost()
    length = [(b"content-length", b"13")] if method == "POST" else []
    async with limited_kit(sqlite_url, host, max_queued_requests=1) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        leaving = PendingRequest(kit, method=method, name="leaving", body=body, headers=length)
        await wait_until(lambda: queue_length(kit) == 1)
        leaving.disconnect()
        async with asyncio.timeout(20):
            await leaving.task
        assert queue_length(kit) == 0
        assert disconnects(kit, method) == 1
        staying = PendingRequest(kit, name="staying")
        await wait_until(lambda: queue_length(kit) == 1)
        host.release("active")
        await host.wait_for("staying")
        host.release("staying")
        assert await staying.status() == await active.status() == 200
        assert host.received == ["active", "staying"]


async def test_disconnect_below_a_hosts_middleware(sqlite_url: str) -> None:
    """A queued request whose client disconnects causes no error in a host's middleware that requires a response."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        around = Middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
        app = Starlette(routes=[Mount("/", app=kit)], middleware=[around])
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        leaving = PendingRequest(app, name="leaving")
        await wait_until(lambda: queue_length(kit) == 1)
        leaving.disconnect()
        async with asyncio.timeout(20):
            await leaving.task
        assert disconnects(kit, "GET") == 1
        host.release("active")
        assert await active.status() == 200
        assert host.received == ["active"]


OWN: ContextVar[object] = ContextVar("own")


class Own:
    """A value in the context of one request."""


class ContextRequest(PendingRequest):
    """A request with a value in its context, which records the value with which ``receive`` is called."""

    def __init__(self, app: Any, name: str, own: object) -> None:
        self.seen: list[object] = []
        token = OWN.set(own)
        super().__init__(app, name=name)
        OWN.reset(token)

    async def _receive(self) -> dict[str, Any]:
        self.seen.append(OWN.get(None))
        return await super()._receive()


async def test_context_of_a_queued_request(sqlite_url: str) -> None:
    """The client of a queued request is watched in the request's own context."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        queued = [ContextRequest(kit, f"quick {number}", number) for number in range(2)]
        await wait_until(lambda: all(len(each.seen) > 1 for each in queued))
        assert [each.seen for each in queued] == [[0, 0], [1, 1]]
        host.release("active")
        assert [await each.status() for each in (active, *queued)] == [200] * 3


async def test_context_of_a_disconnected_request(sqlite_url: str) -> None:
    """The context of a disconnected request is released, although later requests are still queued."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        own = Own()
        kept = weakref.ref(own)
        first = ContextRequest(kit, "first", own)
        other = PendingRequest(kit, name="quick")
        await wait_until(lambda: queue_length(kit) == 2)
        first.disconnect()
        await wait_until(lambda: queue_length(kit) == 1)
        del first, own
        await asyncio.sleep(0.1)
        gc.collect()
        assert queue_length(kit) == 1
        assert kept() is None
        host.release("active")
        assert await active.status() == await other.status() == 200


@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_body_received_while_queued(sqlite_url: str, pieces: int) -> None:
    """The part of a body that was received while the request was queued is not lost."""
    host = HoldingHost()
    body = b'{"name": "%s"}' % (b"x" * 100)
    size = len(body) // pieces + 1
    async with limited_kit(sqlite_url, host) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        length = [(b"content-length", b"%d" % len(body))]
        posted = PendingRequest(kit, method="POST", name="quick", headers=length)
        posted.send_body(body[:size], more=pieces > 1)
        await wait_until(lambda: posted.receive_calls > 0)
        host.release("active")
        await host.wait_for("quick")
        for start in range(size, len(body), size):
            await asyncio.sleep(0.01)
            posted.send_body(body[start : start + size], more=start + size < len(body))
        assert await posted.status() == 201
        assert posted.json()["name"] == "x" * 100
        assert await active.status() == 200


async def test_body_that_begins_after_the_queue(sqlite_url: str) -> None:
    """A body that begins to arrive only after the request has a slot is not lost either."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        posted = PendingRequest(kit, method="POST", name="quick", headers=[(b"content-length", b"13")])
        await wait_until(lambda: posted.receive_calls == 1)
        host.release("active")
        await host.wait_for("quick")
        posted.send_body(BODY, more=False)
        assert await posted.status() == 201
        assert await active.status() == 200


async def test_no_100_continue_while_queued(sqlite_url: str) -> None:
    """A queued client that waits for 100 Continue does not get it before its request has a slot."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        headers = [(b"content-length", b"13"), (b"expect", b"100-continue")]
        posted = PendingRequest(kit, method="POST", name="quick", body=[BODY], headers=headers)
        await asyncio.sleep(0.5)
        assert posted.receive_calls == 0
        host.release("active")
        assert await posted.status() == 201
        assert await active.status() == 200


async def test_no_100_continue_before_a_rejection(sqlite_url: str) -> None:
    """A client that waits for 100 Continue, and was queued for too long, is rejected without it."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, queue_seconds=0.1) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        headers = [(b"content-length", b"70000"), (b"expect", b"100-continue")]
        posted = PendingRequest(kit, method="POST", body=[b"x" * 70_000], headers=headers)
        assert await posted.status() == 503
        assert posted.headers["connection"] == "close"
        assert posted.receive_calls == 0
        host.release("active")
        assert await active.status() == 200


async def test_slow_body_gives_up_its_slot(sqlite_url: str) -> None:
    """A slow body's slot goes to queued requests; when the body is complete, its request is served as well."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        slow = PendingRequest(kit, method="POST", name="quick slow", headers=[(b"content-length", b"13")])
        slow.send_body(BODY[:5], more=True)
        await host.wait_for("quick slow")
        others = [PendingRequest(kit, name=f"quick {number}") for number in range(3)]
        assert [await each.status() for each in others] == [200] * 3
        held = PendingRequest(kit, name="held")
        await host.wait_for("held")
        slow.send_body(BODY[5:], more=False)
        await wait_until(lambda: queue_length(kit) == 1)
        host.release("held")
        assert await held.status() == 200
        assert await slow.status() == 201


@pytest.mark.parametrize("failure", ["too large", "disconnected", "cancelled", "too late"])
async def test_slow_body_that_fails(sqlite_url: str, failure: str) -> None:
    """No slot is lost or duplicated by a body that fails after it gave up its slot."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_body_bytes=1024, request_timeout_seconds=1) as kit:
        slow = PendingRequest(
            kit, method="POST", name="quick slow", headers=[(b"transfer-encoding", b"chunked")]
        )
        await host.wait_for("quick slow")
        assert await PendingRequest(kit, name="quick").status() == 200
        if failure == "too large":
            slow.send_body(b"x" * 2000, more=False)
            assert await slow.status() == 413
        elif failure == "disconnected":
            slow.disconnect()
            await slow.task
        elif failure == "cancelled":
            slow.task.cancel()
            await asyncio.wait({slow.task})
        else:
            assert await slow.status() == 408
        await assert_all_slots_free(kit, host)


async def assert_all_slots_free(kit: ProjKit, host: HoldingHost) -> None:
    """Check that exactly one request gets a slot and the next one is queued."""
    host.received.clear()
    first, second = PendingRequest(kit, name="first"), PendingRequest(kit, name="second")
    await host.wait_for("first")
    await wait_until(lambda: queue_length(kit) == 1)
    assert host.received == ["first"]
    host.release("first")
    await host.wait_for("second")
    host.release("second")
    assert await first.status() == await second.status() == 200
    assert queue_length(kit) == 0


@pytest.mark.parametrize("when", ["queued", "when granted", "active"])
async def test_cancelled_requests(sqlite_url: str, when: str) -> None:
    """A request that the server cancels, in whatever state, takes no slot with it."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        # A client that waits for 100 Continue is not polled, so that nothing runs between the release of the slot and
        # the response, however slow the machine is.
        active = PendingRequest(kit, name="active", headers=[(b"expect", b"100-continue")])
        await host.wait_for("active")
        cancelled = PendingRequest(kit, name="cancelled")
        await wait_until(lambda: queue_length(kit) == 1)
        if when == "queued":
            cancelled.task.cancel()
            await asyncio.wait({cancelled.task})
            host.release("active")
        elif when == "when granted":
            # After the slot was granted, and before the task runs that is to take it.
            active.on_response_start = cancelled.task.cancel
            host.release("active")
        else:
            host.release("active")
            await host.wait_for("cancelled")
            cancelled.task.cancel()
        await asyncio.wait({cancelled.task, active.task})
        assert cancelled.task.cancelled()
        assert ("cancelled" in host.received) == (when == "active")
        assert await active.status() == 200
        await assert_all_slots_free(kit, host)


async def test_endpoints_that_need_no_slot(sqlite_url: str) -> None:
    """Probes, metrics, monitoring and pages respond while all other requests are rejected."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_queued_requests=0, health_root_paths=True) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        paths = [
            "/livez", "/readyz", "/metrics", "/api/v1/openapi.json", "/api/v1/docs", "/api/v1/monitoring",
            *(f"/api/v1/health{each}" for each in ("", "/live", "/ready", "/detailed")),
            *(f"/api/v1/monitoring/{each}" for each in ("metrics/performance", "metrics/database", "system/info")),
            *(f"/api/v1/monitoring/validate/{each}" for each in ("endpoints", "authentication")),
        ]  # fmt: skip
        statuses = {path: await PendingRequest(kit, path).status() for path in paths}
        assert set(statuses.values()) == {200}, statuses
        assert await PendingRequest(kit).status() == 503, "while this one is rejected"
        host.release("active")
        assert await active.status() == 200


@pytest.mark.parametrize("which", ["endpoints", "authentication"])
async def test_validations_need_no_slot(sqlite_url: str, which: str) -> None:
    """With a single slot, a validation that sends many requests of its own does not reject them."""
    async with limited_kit(sqlite_url, max_queued_requests=0) as kit:
        validated = PendingRequest(kit, f"/api/v1/monitoring/validate/{which}")
        assert await validated.status() == 200
        assert validated.json()["status"] in {"ok", "warning"}, validated.json()


async def test_validations_take_no_slot(sqlite_url: str) -> None:
    """While a validation runs, it takes no slot from other requests."""
    async with limited_kit(sqlite_url, max_queued_requests=0) as kit:
        token = token_for(kit.settings, "alice").encode()
        validated = PendingRequest(kit, "/api/v1/monitoring/validate/endpoints")
        other = PendingRequest(kit, headers=[(b"authorization", b"Bearer " + token)])
        assert await other.status() == 200
        assert not validated.task.done()
        assert await validated.status() == 200


async def test_no_limit(sqlite_url: str) -> None:
    """With MAX_CONCURRENT_REQUESTS=0 the number of concurrent requests is not limited."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_concurrent_requests=0, max_queued_requests=0) as kit:
        requests = [PendingRequest(kit, name=str(number)) for number in range(300)]
        await wait_until(lambda: len(host.received) == 300)
        for number in range(300):
            host.release(str(number))
        assert {await each.status() for each in requests} == {200}


async def test_each_event_loop_has_its_own(sqlite_url: str) -> None:
    """A kit that rejects requests on one event loop accepts them on another one."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host, max_queued_requests=0) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        statuses: list[int] = []

        async def elsewhere() -> None:
            async with kit.lifespan():
                statuses.append(await PendingRequest(kit, name="quick").status())

        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert statuses == [200]
        assert await PendingRequest(kit).status() == 503
        host.release("active")
        assert await active.status() == 200


async def test_shutdown_while_requests_are_queued(sqlite_url: str) -> None:
    """Requests that are queued when the kit is shut down get a 503."""
    host = HoldingHost()
    async with limited_kit(sqlite_url, host) as kit:
        active = PendingRequest(kit, name="active")
        await host.wait_for("active")
        queued = [PendingRequest(kit, name=f"{number}") for number in range(5)]
        await wait_until(lambda: queue_length(kit) == 5)
        kit.drain()
        await kit.shutdown()
        host.release("active")
        assert [await each.status() for each in queued] == [503] * 5
        assert {each.json()["code"] for each in queued} == {"service_unavailable"}
        await active.status()


async def test_retry_after_follows_the_rate() -> None:
    """Retry-After is the time in which the queue is worked off at its present rate, and up to half as much more."""
    loop = asyncio.get_running_loop()
    length = 60
    limiter = ConcurrencyLimiter(1, length, 60, NULL_OBSERVER)
    active = _entry()
    assert limiter.acquire(active) is None
    queued: deque[tuple[QueueEntry, asyncio.Future[None]]] = deque()

    async def enqueue() -> None:
        entry = _entry()
        acquiring = limiter.acquire(entry)
        assert acquiring is not None
        queued.append((entry, asyncio.ensure_future(acquiring)))
        await asyncio.sleep(0)

    for _ in range(length):
        await enqueue()
    began = loop.time()
    for _ in range(40):
        await asyncio.sleep(0.03)
        limiter.release(active)
        active, acquiring = queued.popleft()
        await acquiring
        await enqueue()
    rate = 40 / (loop.time() - began)
    for _ in range(20):
        rejected = limiter.acquire(_entry())
        assert rejected is not None
        with pytest.raises(OverloadedError) as caught:
            await rejected
        assert caught.value.retry_after is not None
        assert 0.7 * length / rate < caught.value.retry_after < 1.5 * length / rate + 3
    assert limiter.queue_length == length
    for _, acquiring in queued:
        acquiring.cancel()
    await asyncio.wait([acquiring for _, acquiring in queued])
    assert limiter.queue_length == 0


def _entry() -> QueueEntry:
    """Return the entry of a request of which nothing more is received."""

    async def receive() -> dict[str, Any]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    return QueueEntry(receive, {})


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("max_concurrent_requests", -1), ("max_concurrent_requests", "many"), ("max_queued_requests", -1),
        ("queue_seconds", 0), ("queue_seconds", -1), ("queue_seconds", "soon"),
    ],
)  # fmt: skip
def test_wrong_settings(setting: str, wrong: object) -> None:
    """An invalid limit is a configuration error that names the setting."""
    with pytest.raises(ConfigurationError, match=f"^PROJKIT_{setting.upper()}: "):
        Settings(**{setting: wrong})


def test_fewer_requests_than_connections() -> None:
    """A limit below the pool size is a configuration error: connections would be idle while requests wait."""
    with pytest.raises(ConfigurationError, match=r"PROJKIT_MAX_CONCURRENT_REQUESTS \(9\).*POOL_SIZE \(10\)"):
        Settings(max_concurrent_requests=9)
    assert Settings(max_concurrent_requests=0).max_concurrent_requests == 0
