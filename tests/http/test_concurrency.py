"""More requests than may be at work wait for their turn; too many, or for too long, are refused; none is forgotten."""

import asyncio
import gc
import json
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from projkit import Principal, ProjKit, Settings
from projkit.errors import ConfigurationError, OverloadedError
from projkit.http.concurrency import ConcurrencyLimiter, QueueEntry
from projkit.observers import NULL_OBSERVER
from tests.conftest import settings_for, token_for

pytestmark = pytest.mark.anyio
PROJECTS = "/api/v1/projects"
LIMITS = {"max_concurrent_requests": 1, "database_pool_size": 1, "queue_seconds": 30}


class Asked:
    """One request: what its client does, and what comes of it."""

    def __init__(
        self,
        app: Any,
        path: str = PROJECTS,
        *,
        method: str = "GET",
        name: str = "",
        body: Iterable[bytes] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        version: str = "1.1",
    ) -> None:
        self.reads = 0
        self.messages: list[Any] = []
        self.on_answer: Callable[[], object] = bool  # when the answer begins
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        pieces = list(body)
        for number, piece in enumerate(pieces):
            self.piece(piece, more=number + 1 < len(pieces))
        if method == "GET":
            self.piece(b"", more=False)
        else:
            headers = [(b"content-type", b"application/json"), *headers]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": version, "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"host", b"x"), (b"x-name", name.encode()), *headers],
            "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def piece(self, body: bytes, *, more: bool) -> None:
        """Sends something of the body."""
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        """Goes away."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def status(self) -> int:
        """The answer's."""
        async with asyncio.timeout(20):
            await self.task
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """The answer's."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    def json(self) -> Any:
        """The answer's body."""
        return json.loads(b"".join(message.get("body", b"") for message in self.messages))

    async def _receive(self) -> dict[str, Any]:
        self.reads += 1
        return await self._incoming.get()

    async def _send(self, message: Any) -> None:
        if not self.messages:
            self.on_answer()
        self.messages.append(message)


class Host:
    """Decides who is calling, and takes as long as the test wants it to."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self._turns: dict[str, asyncio.Future[None]] = {}
        self.holds = True

    async def __call__(self, scope: Any) -> Principal:
        """Somebody, once :meth:`go_on` was said."""
        name = dict(scope["headers"])[b"x-name"].decode()
        self.came.append(name)
        if self.holds and not name.startswith("quick"):
            self._turns[name] = asyncio.get_running_loop().create_future()
            await self._turns[name]
        return Principal("alice")

    def go_on(self, name: str) -> None:
        """Lets the request of this name go on."""
        self._turns.pop(name).set_result(None)

    async def arrived(self, name: str) -> None:
        """Waits until the request of this name is at work."""
        async with asyncio.timeout(20):
            while name not in self.came:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def opened(url: str, host: Host | None = None, **limits: Any) -> AsyncIterator[ProjKit]:
    """A kit with narrow limits."""
    kit = ProjKit(settings_for(url, **{**LIMITS, **limits}), get_principal=host)
    async with kit.lifespan():
        yield kit


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def value(kit: ProjKit, name: str, **labels: str) -> float:
    """What a scrape would show."""
    found = kit.registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


def waiting(kit: ProjKit) -> float:
    """How many requests are in line, as a scrape would show it."""
    return value(kit, "projkit_http_server_waiting_requests")


def refused(kit: ProjKit, reason: str) -> float:
    """How many requests were refused, as a scrape would show it."""
    return value(kit, "projkit_http_server_refused_requests_total", reason=reason)


def gone(kit: ProjKit, method: str) -> float:
    """How many clients went away before they had their answer, as a scrape would show it."""
    return value(kit, "projkit_http_server_client_disconnects_total", method=method, route=PROJECTS)


async def test_first_come_first_served(sqlite_url: str) -> None:
    """Requests beyond the limit get their turn in the order in which they came, one for each that is answered."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        names = [str(number) for number in range(6)]
        asked = [Asked(kit, name=name) for name in names]
        await host.arrived("0")
        await until(lambda: waiting(kit) == 5)
        for number, name in enumerate(names):
            await host.arrived(name)
            assert host.came == names[: number + 1]
            host.go_on(name)
            assert await asked[number].status() == 200
        assert waiting(kit) == 0


@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("queue", [0, 2])
async def test_a_full_line(sqlite_url: str, places: int, queue: int) -> None:
    """Where as many wait as may, one more is refused at once: 503 `overloaded`, with Retry-After, and nobody asked."""
    host = Host()
    async with opened(sqlite_url, host, max_concurrent_requests=places, max_queued_requests=queue) as kit:
        inside = [Asked(kit, name=str(number)) for number in range(places + queue)]
        await until(lambda: len(host.came) == places and waiting(kit) == queue)
        late = Asked(
            kit, method="POST", name="late", body=[b'{"name": "A"}'], headers=[(b"content-length", b"13")]
        )
        assert await late.status() == 503
        assert late.headers["content-type"] == "application/problem+json"
        assert 1 <= int(late.headers["retry-after"]) <= 45
        assert late.json()["code"] == "overloaded"
        assert "connection" not in late.headers
        assert late.reads == 0, "its body was left alone"
        assert refused(kit, "queue_full") == 1
        assert refused(kit, "waited_too_long") == 0
        host.holds = False
        for number in range(places):
            host.go_on(str(number))
        assert [await each.status() for each in inside] == [200] * len(inside)
        assert "late" not in host.came


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
    """Whoever is refused while much of its body is to come is told that the connection ends."""
    host = Host()
    async with opened(sqlite_url, host, max_queued_requests=0) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        late = Asked(kit, method="POST", headers=headers)
        assert await late.status() == 503
        assert late.headers["connection"] == "close"
        assert late.reads == 0
        host.go_on("inside")
        assert await inside.status() == 200


@pytest.mark.parametrize("headers", [[(b"content-length", b"70000")], []])
async def test_a_long_body_over_http_2(sqlite_url: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Over HTTP/2, where others are served on the same connection, a refusal does not end it."""
    host = Host()
    async with opened(sqlite_url, host, max_queued_requests=0) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        late = Asked(kit, method="POST", headers=headers, version="2")
        assert await late.status() == 503
        assert "connection" not in late.headers
        assert late.reads == 0
        host.go_on("inside")
        assert await inside.status() == 200


async def test_a_wait_that_is_too_long(sqlite_url: str) -> None:
    """Whoever has waited for QUEUE_SECONDS is refused; who came later goes on waiting, and is served."""
    host = Host()
    async with opened(sqlite_url, host, queue_seconds=1) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        early = [Asked(kit, name=f"early {number}") for number in range(50)]
        await asyncio.sleep(0.7)
        later = Asked(kit, name="quick")
        assert {await each.status() for each in early} == {503}
        assert {each.json()["code"] for each in early} == {"overloaded"}
        assert refused(kit, "waited_too_long") == 50
        assert waiting(kit) == 1
        host.go_on("inside")
        assert await later.status() == await inside.status() == 200
        assert host.came == ["inside", "quick"]


BODY = b'{"name": "A"}'


@pytest.mark.parametrize(
    ("method", "body"), [("GET", ()), ("POST", [BODY]), ("POST", ())], ids=["none", "whole", "not yet"]
)
async def test_a_client_that_leaves_while_it_waits(sqlite_url: str, method: str, body: list[bytes]) -> None:
    """Its place in line is free for somebody else, nothing is done for it, and it is counted as gone."""
    host = Host()
    length = [(b"content-length", b"13")] if method == "POST" else []
    async with opened(sqlite_url, host, max_queued_requests=1) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        leaving = Asked(kit, method=method, name="leaving", body=body, headers=length)
        await until(lambda: waiting(kit) == 1)
        leaving.hang_up()
        async with asyncio.timeout(20):
            await leaving.task
        assert waiting(kit) == 0
        assert gone(kit, method) == 1
        staying = Asked(kit, name="staying")
        await until(lambda: waiting(kit) == 1)
        host.go_on("inside")
        await host.arrived("staying")
        host.go_on("staying")
        assert await staying.status() == await inside.status() == 200
        assert host.came == ["inside", "staying"]


async def test_a_client_that_leaves_a_hosts_middleware(sqlite_url: str) -> None:
    """A client that leaves the line is no error of a host whose middleware insists on an answer."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        around = Middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
        app = Starlette(routes=[Mount("/", app=kit)], middleware=[around])
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        leaving = Asked(app, name="leaving")
        await until(lambda: waiting(kit) == 1)
        leaving.hang_up()
        async with asyncio.timeout(20):
            await leaving.task
        assert gone(kit, "GET") == 1
        host.go_on("inside")
        assert await inside.status() == 200
        assert host.came == ["inside"]


OWN: ContextVar[object] = ContextVar("own")


class Own:
    """What the context of one request holds."""


class Marked(Asked):
    """A request with something in its context, which notes what it finds there when it is asked for more."""

    def __init__(self, app: Any, name: str, own: object) -> None:
        self.found: list[object] = []
        token = OWN.set(own)
        super().__init__(app, name=name)
        OWN.reset(token)

    async def _receive(self) -> dict[str, Any]:
        self.found.append(OWN.get(None))
        return await super()._receive()


async def test_contexts_of_those_that_wait(sqlite_url: str) -> None:
    """Whoever waits in line is asked for more of its request in its own context."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        line = [Marked(kit, f"quick {number}", number) for number in range(2)]
        await until(lambda: all(len(each.found) > 1 for each in line))
        assert [each.found for each in line] == [[0, 0], [1, 1]]
        host.go_on("inside")
        assert [await each.status() for each in (inside, *line)] == [200] * 3


async def test_contexts_of_those_that_have_gone(sqlite_url: str) -> None:
    """What was in a request's context goes with its client, though others that came after it wait on."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        own = Own()
        kept = weakref.ref(own)
        first = Marked(kit, "first", own)
        other = Asked(kit, name="quick")
        await until(lambda: waiting(kit) == 2)
        first.hang_up()
        await until(lambda: waiting(kit) == 1)
        del first, own
        await asyncio.sleep(0.1)
        gc.collect()
        assert waiting(kit) == 1
        assert kept() is None
        host.go_on("inside")
        assert await inside.status() == await other.status() == 200


@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_bodies_of_those_that_wait(sqlite_url: str, pieces: int) -> None:
    """What has come of a body while its request was watched in line is all there when its turn comes."""
    host = Host()
    body = b'{"name": "%s"}' % (b"x" * 100)
    size = len(body) // pieces + 1
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        length = [(b"content-length", b"%d" % len(body))]
        posted = Asked(kit, method="POST", name="quick", headers=length)
        posted.piece(body[:size], more=pieces > 1)
        await until(lambda: posted.reads > 0)
        host.go_on("inside")
        await host.arrived("quick")
        for start in range(size, len(body), size):
            await asyncio.sleep(0.01)
            posted.piece(body[start : start + size], more=start + size < len(body))
        assert await posted.status() == 201
        assert posted.json()["name"] == "x" * 100
        assert await inside.status() == 200


async def test_a_body_that_begins_late(sqlite_url: str) -> None:
    """Of a body for whose beginning the watch was waiting nothing is lost either."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        posted = Asked(kit, method="POST", name="quick", headers=[(b"content-length", b"13")])
        await until(lambda: posted.reads == 1)
        host.go_on("inside")
        await host.arrived("quick")
        posted.piece(BODY, more=False)
        assert await posted.status() == 201
        assert await inside.status() == 200


async def test_no_body_is_asked_for_in_line(sqlite_url: str) -> None:
    """A client that waits for 100 Continue is not told to send its body before its turn."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        headers = [(b"content-length", b"13"), (b"expect", b"100-continue")]
        posted = Asked(kit, method="POST", name="quick", body=[BODY], headers=headers)
        await asyncio.sleep(0.5)
        assert posted.reads == 0
        host.go_on("inside")
        assert await posted.status() == 201
        assert await inside.status() == 200


async def test_no_body_is_asked_for_with_a_refusal(sqlite_url: str) -> None:
    """A client that waits for 100 Continue, and has waited too long in line, is refused without that word."""
    host = Host()
    async with opened(sqlite_url, host, queue_seconds=0.1) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        headers = [(b"content-length", b"70000"), (b"expect", b"100-continue")]
        posted = Asked(kit, method="POST", body=[b"x" * 70_000], headers=headers)
        assert await posted.status() == 503
        assert posted.headers["connection"] == "close"
        assert posted.reads == 0
        host.go_on("inside")
        assert await inside.status() == 200


async def test_a_slow_body_keeps_nobody_waiting(sqlite_url: str) -> None:
    """While a body is slow to come others get the turn; once it is there its request is served as well."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        slow = Asked(kit, method="POST", name="quick slow", headers=[(b"content-length", b"13")])
        slow.piece(BODY[:5], more=True)
        await host.arrived("quick slow")
        others = [Asked(kit, name=f"quick {number}") for number in range(3)]
        assert [await each.status() for each in others] == [200] * 3
        held = Asked(kit, name="held")
        await host.arrived("held")
        slow.piece(BODY[5:], more=False)
        await until(lambda: waiting(kit) == 1)
        host.go_on("held")
        assert await held.status() == 200
        assert await slow.status() == 201


@pytest.mark.parametrize("fate", ["too large", "hung up", "cancelled", "out of time"])
async def test_a_slow_body_that_comes_to_nothing(sqlite_url: str, fate: str) -> None:
    """Whatever becomes of a body whose place others got, there is as much room afterwards as before."""
    host = Host()
    async with opened(sqlite_url, host, max_body_bytes=1024, request_timeout_seconds=1) as kit:
        slow = Asked(kit, method="POST", name="quick slow", headers=[(b"transfer-encoding", b"chunked")])
        await host.arrived("quick slow")
        assert await Asked(kit, name="quick").status() == 200
        if fate == "too large":
            slow.piece(b"x" * 2000, more=False)
            assert await slow.status() == 413
        elif fate == "hung up":
            slow.hang_up()
            await slow.task
        elif fate == "cancelled":
            slow.task.cancel()
            await asyncio.wait({slow.task})
        else:
            assert await slow.status() == 408
        await holds_as_many_as_ever(kit, host)


async def holds_as_many_as_ever(kit: ProjKit, host: Host) -> None:
    """One request at work and one in line: no place was lost, and none was given twice."""
    host.came.clear()
    first, second = Asked(kit, name="first"), Asked(kit, name="second")
    await host.arrived("first")
    await until(lambda: waiting(kit) == 1)
    assert host.came == ["first"]
    host.go_on("first")
    await host.arrived("second")
    host.go_on("second")
    assert await first.status() == await second.status() == 200
    assert waiting(kit) == 0


@pytest.mark.parametrize("when", ["in line", "in its turn's moment", "at work"])
async def test_cancelled_requests(sqlite_url: str, when: str) -> None:
    """A request that the server cancels, whenever that is, takes no place with it."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        cancelled = Asked(kit, name="cancelled")
        await until(lambda: waiting(kit) == 1)
        if when == "in line":
            cancelled.task.cancel()
            await asyncio.wait({cancelled.task})
            host.go_on("inside")
        elif when == "in its turn's moment":
            inside.on_answer = (
                cancelled.task.cancel
            )  # when the place has been given on, and not yet been taken
            host.go_on("inside")
        else:
            host.go_on("inside")
            await host.arrived("cancelled")
            cancelled.task.cancel()
        await asyncio.wait({cancelled.task, inside.task})
        assert cancelled.task.cancelled()
        assert ("cancelled" in host.came) == (when == "at work")
        assert await inside.status() == 200
        await holds_as_many_as_ever(kit, host)


async def test_what_tells_how_it_is(sqlite_url: str) -> None:
    """Probes, metrics, monitoring and pages answer while no other request is let in."""
    host = Host()
    async with opened(sqlite_url, host, max_queued_requests=0, health_root_paths=True) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        paths = [
            "/livez", "/readyz", "/metrics", "/api/v1/openapi.json", "/api/v1/docs", "/api/v1/monitoring",
            *(f"/api/v1/health{each}" for each in ("", "/live", "/ready", "/detailed")),
            *(f"/api/v1/monitoring/{each}" for each in ("metrics/performance", "metrics/database", "system/info")),
            *(f"/api/v1/monitoring/validate/{each}" for each in ("endpoints", "authentication")),
        ]  # fmt: skip
        answers = {path: await Asked(kit, path).status() for path in paths}
        assert set(answers.values()) == {200}, answers
        assert await Asked(kit).status() == 503, "while this does not"
        host.go_on("inside")
        assert await inside.status() == 200


@pytest.mark.parametrize("which", ["endpoints", "authentication"])
async def test_validations_need_one_place(sqlite_url: str, which: str) -> None:
    """With room for a single request a validation that makes many of its own is not refused by itself."""
    async with opened(sqlite_url, max_queued_requests=0) as kit:
        validated = Asked(kit, f"/api/v1/monitoring/validate/{which}")
        assert await validated.status() == 200
        assert validated.json()["status"] in {"ok", "warning"}, validated.json()


async def test_a_validation_keeps_nobody_waiting(sqlite_url: str) -> None:
    """While a validation runs, it takes no place from other requests."""
    async with opened(sqlite_url, max_queued_requests=0) as kit:
        token = token_for(kit.settings, "alice").encode()
        validated = Asked(kit, "/api/v1/monitoring/validate/endpoints")
        other = Asked(kit, headers=[(b"authorization", b"Bearer " + token)])
        assert await other.status() == 200
        assert not validated.task.done()
        assert await validated.status() == 200


async def test_no_limit(sqlite_url: str) -> None:
    """With MAX_CONCURRENT_REQUESTS at 0 everybody is let in."""
    host = Host()
    async with opened(sqlite_url, host, max_concurrent_requests=0, max_queued_requests=0) as kit:
        asked = [Asked(kit, name=str(number)) for number in range(300)]
        await until(lambda: len(host.came) == 300)
        for number in range(300):
            host.go_on(str(number))
        assert {await each.status() for each in asked} == {200}


async def test_each_event_loop_has_its_own(sqlite_url: str) -> None:
    """A kit that is full on one event loop lets requests in on another one."""
    host = Host()
    async with opened(sqlite_url, host, max_queued_requests=0) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        statuses: list[int] = []

        async def elsewhere() -> None:
            async with kit.lifespan():
                statuses.append(await Asked(kit, name="quick").status())

        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert statuses == [200]
        assert await Asked(kit).status() == 503
        host.go_on("inside")
        assert await inside.status() == 200


async def test_stopped_while_some_wait(sqlite_url: str) -> None:
    """Those that wait when the kit is shut down are told so, and none waits for ever."""
    host = Host()
    async with opened(sqlite_url, host) as kit:
        inside = Asked(kit, name="inside")
        await host.arrived("inside")
        line = [Asked(kit, name=f"{number}") for number in range(5)]
        await until(lambda: waiting(kit) == 5)
        kit.drain()
        await kit.shutdown()
        host.go_on("inside")
        assert [await each.status() for each in line] == [503] * 5
        assert {each.json()["code"] for each in line} == {"service_unavailable"}
        await inside.status()


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

    return QueueEntry(receive, can_poll=True)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("max_concurrent_requests", -1), ("max_concurrent_requests", "many"), ("max_queued_requests", -1),
        ("queue_seconds", 0), ("queue_seconds", -1), ("queue_seconds", "soon"),
    ],
)  # fmt: skip
def test_wrong_settings(setting: str, wrong: object) -> None:
    """A limit that is none is refused at start-up, by its name."""
    with pytest.raises(ConfigurationError, match=f"^PROJKIT_{setting.upper()}: "):
        Settings(**{setting: wrong})


def test_fewer_requests_than_connections() -> None:
    """A limit below the size of the pool is refused, since connections would stand idle while requests wait."""
    with pytest.raises(ConfigurationError, match=r"PROJKIT_MAX_CONCURRENT_REQUESTS \(9\).*POOL_SIZE \(10\)"):
        Settings(max_concurrent_requests=9)
    assert Settings(max_concurrent_requests=0).max_concurrent_requests == 0
