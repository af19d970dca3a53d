"""Requests to the kit and to a wrapped host are timed and counted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from projkit import ProjKit
from projkit.monitoring import PerformanceMiddleware
from projkit.telemetry.endpoint_stats import EndpointStats, stats_by_endpoint
from projkit.testing.internals import Internals
from tests.asgi import DISCONNECT, Message, body, call, http_scope, websocket_scope
from tests.auth.asgi_client import ask
from tests.conftest import serving, settings_for

pytestmark = pytest.mark.anyio


async def hello(request: Request) -> PlainTextResponse:
    """Respond with a greeting."""
    return PlainTextResponse("hello", headers={"X-Request-ID": "the host's own"})


async def stream(request: Request) -> StreamingResponse:
    """Stream two parts."""

    async def chunks() -> Any:
        yield b"first"
        await asyncio.sleep(0.3)
        yield b"last"

    return StreamingResponse(chunks())


async def fail(request: Request) -> PlainTextResponse:
    """Raise an exception."""
    raise RuntimeError("broken")


async def fail_late(request: Request) -> StreamingResponse:
    """Raise an exception while streaming."""

    async def chunks() -> Any:
        yield b"first"
        raise RuntimeError("broken")

    return StreamingResponse(chunks())


async def hang(request: Request) -> PlainTextResponse:
    """Never respond."""
    await asyncio.Event().wait()
    raise AssertionError


async def upload(request: Request) -> PlainTextResponse:
    """Read the whole body."""
    await request.body()
    return PlainTextResponse("read")


async def chat(socket: WebSocket) -> None:
    """Accept, refuse or fail, depending on the path."""
    if "refuse" in socket.path_params["room"]:
        await socket.close()
        return
    await socket.accept()
    if "fail" in socket.path_params["room"]:
        raise RuntimeError("broken")
    await socket.close()


def host() -> Starlette:
    """Return a host with several kinds of routes."""
    inner = Starlette(routes=[Route("/things/{thing}", hello)])
    return Starlette(
        routes=[
            Route("/hello/{name}", hello),
            Route("/stream", stream),
            Route("/fail", fail),
            Route("/fail-late", fail_late),
            Route("/hang", hang),
            Route("/upload", upload, methods=["POST"]),
            WebSocketRoute("/chat/{room}", chat),
            Mount("/inner", app=inner),
            Mount("/tenants/{tenant}", app=inner),
        ]
    )


@pytest.fixture
def kit(sqlite_url: str) -> ProjKit:
    """A kit whose recorder the tests read."""
    return ProjKit(settings_for(sqlite_url, slow_request_seconds=0.2))


def stats(kit: ProjKit) -> dict[tuple[str, str], EndpointStats]:
    """Return the statistics by method and route."""
    return stats_by_endpoint(Internals(kit).recorder.read())


def scope(path: str, method: str = "GET") -> Message:
    """Return the scope of a request with a query."""
    return http_scope(path, method, [(b"host", b"testserver")], query_string=b"secret=1")


async def test_kit_routes(kit: ProjKit) -> None:
    """Each response is counted once by method, template and status; unknown paths share one name."""
    async with kit.lifespan():
        for path in ("/api/v1/health/live", "/api/v1/health/live", "/nowhere/1", "/nowhere/2"):
            await ask(kit, "GET", path)
        await ask(kit, "GET", "/api/v1/projects/0197a0a0-0000-7000-8000-000000000000")
    found = stats(kit)
    assert found[("GET", "/api/v1/health/live")].requests == 2
    assert found[("GET", "__unknown__")].requests == 2
    assert found[("GET", "/api/v1/projects/{project_id}")].requests == 1
    assert all(not each.errors and not each.disconnects for each in found.values())


async def test_wrapped_host(kit: ProjKit) -> None:
    """A wrapped host's responses have timing headers and count by template; its own headers stay."""
    app = kit.wrap(host())
    for path in ("/hello/a", "/hello/b", "/inner/things/1", "/tenants/acme/things/1", "/inner/none", "/none"):
        await ask(app, "GET", path)
    answer = await ask(app, "GET", "/hello/c")
    assert float(answer.header("x-process-time") or "") >= 0
    assert answer.header("server-timing")
    assert answer.header("x-request-id") == "the host's own"
    assert (await ask(app, "GET", "/none")).header("x-request-id")
    assert {route: each.requests for (_, route), each in stats(kit).items()} == {
        "/hello/{name}": 3, "/inner/things/{thing}": 1, "/tenants/{tenant}/things/{thing}": 1, "/inner/{path}": 1,
        "__unknown__": 2,
    }  # fmt: skip


async def test_fastapi_routers(kit: ProjKit) -> None:
    """FastAPI's routes count by their full templates, with the prefixes of all routers."""
    app, outer, inner = FastAPI(), APIRouter(prefix="/items"), APIRouter(prefix="/parts")

    @app.get("/top/{name}")
    async def top(name: str) -> str:
        return name

    @inner.get("/{part}")
    async def part(part: str) -> str:
        return part

    outer.include_router(inner, prefix="/{item}")
    app.include_router(outer, prefix="/v1")
    app.add_route("/plain/{name}", hello)
    wrapped = kit.wrap(app)
    for path in ("/top/a", "/v1/items/1/parts/2", "/plain/a", "/v1/items/1/none/2"):
        await ask(wrapped, "GET", path)
    assert {route for _, route in stats(kit)} == {
        "/top/{name}", "/v1/items/{item}/parts/{part}", "/plain/{name}", "__unknown__",
    }  # fmt: skip


async def test_wrapped_host_untouched(kit: ProjKit) -> None:
    """With performance=False the host's responses are unchanged and not counted."""
    answer = await ask(kit.wrap(host(), performance=False), "GET", "/none")
    assert answer.header("x-process-time") is None
    assert stats(kit) == {}


async def test_the_middleware_alone(kit: ProjKit) -> None:
    """The middleware times and counts the requests of a host that mounts the kit."""
    app = FastAPI()
    app.add_middleware(PerformanceMiddleware, kit=kit)
    app.add_route("/hello/{name}", hello)
    app.mount("/kit", kit)
    async with kit.lifespan():
        assert (await ask(app, "GET", "/hello/a")).header("x-process-time")
        assert (await ask(app, "GET", "/kit/api/v1/health/live")).header("x-process-time")
    assert {route for _, route in stats(kit)} == {"/hello/{name}", "/kit/api/v1/health/live"}


async def test_kit_in_a_wrapped_host(kit: ProjKit) -> None:
    """A kit mounted in the host that it wraps counts its responses once."""
    app = FastAPI()
    app.mount("/inside", kit)
    async with kit.lifespan():
        answer = await ask(kit.wrap(app, prefix="/outside"), "GET", "/inside/api/v1/health/live")
    assert answer.status == 200
    assert answer.header("x-process-time")
    assert answer.header("x-request-id")
    assert list(stats(kit)) == [("GET", "/inside/api/v1/health/live")]


async def test_streams(kit: ProjKit) -> None:
    """The duration of a stream ends with its first part."""
    await ask(kit.wrap(host()), "GET", "/stream")
    found = stats(kit)[("GET", "/stream")]
    assert found.requests == 1
    assert found.max_seconds < 0.3
    assert not found.slow


@pytest.mark.parametrize("path", ["/fail", "/fail-late"])
async def test_unhandled_exceptions(kit: ProjKit, path: str) -> None:
    """An unhandled exception is raised to the server and counts as an error, even after the response has started."""
    with pytest.raises((RuntimeError, ExceptionGroup)):
        await ask(kit.wrap(host()), "GET", path)
    found = stats(kit)[("GET", path)]
    assert (found.requests, found.errors) == (1, 1)
    assert found.last_error_at > 0


async def silent(scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
    """Return without a response."""


async def test_app_without_response(kit: ProjKit) -> None:
    """An app that returns without a response counts as a 500."""
    await call(kit.wrap(silent, performance=True), scope("/x"), {"type": "http.request", "body": b""})
    assert stats(kit)[("GET", "__unknown__")].errors == 1


async def test_disconnected_clients(kit: ProjKit) -> None:
    """A client that disconnects early counts as a disconnect, not as a request or an error."""
    app = kit.wrap(host())
    announced = [(b"content-length", b"10"), (b"content-type", b"application/json")]
    part = {"type": "http.request", "body": b"12345", "more_body": True}
    with pytest.raises(ClientDisconnect):
        await call(app, scope("/upload", "POST") | {"headers": announced}, part)
    async with kit.lifespan():
        credentials = (b"authorization", _bearer(kit))
        await call(app, scope("/api/v1/projects", "POST") | {"headers": [*announced, credentials]}, part)
    found = stats(kit)
    for key in (("POST", "/upload"), ("POST", "/api/v1/projects")):
        assert (found[key].disconnects, found[key].requests, found[key].errors) == (1, 0, 0)


def _bearer(kit: ProjKit) -> bytes:
    from tests.conftest import token_for

    return f"Bearer {token_for(kit.settings, 'alice')}".encode()


async def test_cancelled_requests(kit: ProjKit) -> None:
    """A request that the server cancels counts as a disconnect, and is no longer active."""
    task = asyncio.create_task(call(kit.wrap(host()), scope("/hang")))
    await asyncio.sleep(0.05)
    assert Internals(kit).recorder.read()[("http_active", ())] == [1.0]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = stats(kit)[("GET", "/hang")]
    assert (found.disconnects, found.requests) == (1, 0)
    assert Internals(kit).recorder.read()[("http_active", ())] == [0.0]


async def slow(request: Request) -> PlainTextResponse:
    """Respond slowly."""
    await asyncio.sleep(0.1)
    return PlainTextResponse("at last")


async def slow_projects(*_: object, **__: object) -> None:
    """Fail slowly."""
    await asyncio.sleep(0.1)
    raise RuntimeError


async def test_disconnect_during_handler(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that disconnects during the handler counts as a disconnect, polled for or not."""
    app = kit.wrap(Starlette(routes=[Route("/slow", slow)]))
    async with kit.lifespan():
        monkeypatch.setattr("projkit.projects.service.ProjectService.list", slow_projects)
        await call(app, scope("/slow"))
        credentials = [(b"authorization", _bearer(kit))]
        await call(app, scope("/api/v1/projects") | {"headers": credentials, "query_string": b""})
    found = stats(kit)
    for key in (("GET", "/slow"), ("GET", "/api/v1/projects")):
        assert (found[key].disconnects, found[key].requests, found[key].errors) == (1, 0, 0)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Read the request only after the response has started."""
    await asyncio.sleep(0.1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


async def test_clients_that_wait(kit: ProjKit) -> None:
    """Polling for a disconnect loses no part of the request."""
    app = kit.wrap(Starlette(routes=[Route("/slow", slow), Mount("/echo", echo)]))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            assert (await client.get("/slow")).text == "at last"
            assert (await client.post("/echo/x", content=b"x" * 100_000)).text == "x" * 100_000
    found = stats(kit)
    assert [found[("GET", "/slow")].requests, found[("POST", "/echo/{path}")].requests] == [1, 1]
    assert not any(each.disconnects for each in found.values())


async def test_bodies_that_come_unannounced(kit: ProjKit) -> None:
    """Neither does it without an announced body length, as over HTTP/2."""
    app = kit.wrap(Starlette(routes=[Mount("/echo", echo)]))
    whole = {"type": "http.request", "body": b"whole", "more_body": False}
    sent = await call(app, scope("/echo/x", "POST") | {"http_version": "2"}, whole)
    assert [message.get("body") for message in sent] == [None, b"whole"]


async def test_unannounced_bodies_that_are_read_late(kit: ProjKit) -> None:
    """Nor does it lose the rest of such a body, or the disconnect, if the host reads on after the poll."""
    received: list[Message] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        received.extend([await receive(), await receive()])
        await send({"type": "http.response.body", "body": b"done"})

    parts = [body(b"first", more=True), body(b"last")]
    await call(kit.wrap(app), scope("/upload") | {"http_version": "2"}, *parts)
    assert received == [*parts, DISCONNECT]


async def test_background_tasks(kit: ProjKit) -> None:
    """A failure after the response is complete counts as an exception, not as an error of the request."""

    async def fails() -> None:
        raise RuntimeError("broken")

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("done", background=BackgroundTask(fails))

    with pytest.raises(RuntimeError):
        await ask(kit.wrap(Starlette(routes=[Route("/bg", answer)])), "GET", "/bg")
    found = stats(kit)[("GET", "/bg")]
    assert (found.requests, found.errors) == (1, 0)
    labels = {"route": "/bg", "error_type": "RuntimeError"}
    assert kit.registry.get_sample_value("projkit_http_server_exceptions_total", labels) == 1


@pytest.mark.parametrize(
    "early",
    [
        {"type": "http.response.early_hint", "links": []},
        {"type": "http.response.debug", "info": {}},
        {"type": "http.response.body", "body": b"", "more_body": True},
    ],
)
async def test_messages_before_the_response(kit: ProjKit, early: Message) -> None:
    """Other messages than those of the response do not end its duration."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": []}
        for message in (start, early) if early["type"].endswith("body") else (early, start):
            await send(dict(message))
        await asyncio.sleep(0.25)
        await send({"type": "http.response.body", "body": b"x"})

    await call(kit.wrap(app), scope("/x"), {"type": "http.request", "body": b""})
    assert stats(kit)[("GET", "__unknown__")].max_seconds >= 0.25


@pytest.mark.parametrize("route_of", [lambda _: None, lambda _: 1 / 0, lambda: "", lambda _: "x" * 10_000])
async def test_a_route_of_that_misbehaves(kit: ProjKit, route_of: Any) -> None:
    """Requests are served and counted whatever the host's route function returns."""
    app = kit.wrap(host(), route_of=route_of)
    assert (await ask(app, "GET", "/hello/a")).status == 200
    ((_, route),) = stats(kit)
    assert route in {"__unknown__", "x" * 200}


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
async def test_mounts_behind_the_middleware(kit: ProjKit, framework: Any) -> None:
    """A middleware inside the host knows the mounts, and each request counts once."""
    inner = Starlette(routes=[Route("/in/{thing}", hello)])
    app = framework()
    app.add_middleware(PerformanceMiddleware, kit=kit)
    app.mount("/sub", inner)
    app.mount("/t/{tenant}", inner)
    wrapped = kit.wrap(app)
    for path in ("/sub/in/1", "/t/acme/in/1"):
        await ask(wrapped, "GET", path)
    assert {route: each.requests for (_, route), each in stats(kit).items()} == {
        "/sub/in/{thing}": 1, "/t/{tenant}/in/{thing}": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("room", "outcome"), [("a", "accepted"), ("refuse", "refused"), ("fail", "failed")])
async def test_web_sockets(kit: ProjKit, room: str, outcome: str) -> None:
    """WebSockets are counted by outcome, and not in the durations of requests."""
    connect = {"type": "websocket.connect"}
    try:
        await call(kit.wrap(host()), websocket_scope(f"/chat/{room}"), connect)
    except RuntimeError:
        assert outcome == "failed"
    assert Internals(kit).recorder.read()[("websockets", ("/chat/{room}", outcome))][0] == 1
    assert stats(kit) == {}


async def test_slow_requests(kit: ProjKit, caplog: pytest.LogCaptureFixture) -> None:
    """A slow request is logged with route, method, status, times and ids, without its query or path."""

    async def slow(_: Request) -> PlainTextResponse:
        await asyncio.sleep(0.25)
        return PlainTextResponse("at last")

    app = kit.wrap(Starlette(routes=[Route("/slow/{secret}", slow)]))
    headers = [("x-request-id", "abc"), ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")]
    with caplog.at_level(logging.WARNING, "projkit.slow"):
        await ask(app, "GET", "/slow/canary", headers, query="token=canary")
    (line,) = [record for record in caplog.records if record.name == "projkit.slow"]
    said = line.getMessage()
    assert "GET /slow/{secret} 200" in said
    assert "request abc" in said
    assert "a" * 32 in said
    assert "canary" not in said + str(line.__dict__)
    assert line.__dict__["duration_ms"] >= 250
    assert line.__dict__["db_ms"] == 0
    assert stats(kit)[("GET", "/slow/{secret}")].slow == 1


async def test_random_paths_and_methods(kit: ProjKit) -> None:
    """A thousand random paths and methods add no series, in kit and host."""
    app = kit.wrap(host())
    async with kit.lifespan():
        for number in range(1000):
            method = "GET" if number % 2 else f"M{number}"
            await ask(app, method, f"/api/v1/projects/x{number}")
            await ask(app, method, f"/random/{number}")
    assert len(stats(kit)) <= 4


async def test_request_ids_agree(kit: ProjKit, caplog: pytest.LogCaptureFixture) -> None:
    """The host's middleware and the kit use the same id for a request."""
    app = FastAPI()
    app.mount("/inside", kit)
    transport = httpx2.ASGITransport(app=kit.wrap(app, prefix="/outside"))
    async with (
        kit.lifespan(),
        httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        answer = await client.get("/inside/api/v1/projects")
    assert answer.status_code == 401
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]
