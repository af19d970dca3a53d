"""``kit.wrap(instrument=True)``: OpenTelemetry's ASGI instrumentation around a host."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from projkit import Principal, ProjKit
from projkit.errors import ConfigurationError
from tests.auth.asgi_client import ask
from tests.conftest import settings_for
from tests.telemetry.test_traces import PARENT, TRACE, Spans, attributes

pytestmark = pytest.mark.anyio
OLD = {"http.method", "http.url", "http.target", "http.status_code", "http.scheme", "net.host.name"}


def host(kit: ProjKit) -> Starlette:
    """Return an application with several kinds of routes."""

    async def projects(_: Request) -> PlainTextResponse:
        page = await kit.projects.list(Principal("alice"))
        return PlainTextResponse(str(len(page.items)))

    async def stream(_: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "first"
            yield "last"

        return StreamingResponse(parts())

    async def broken(_: Request) -> PlainTextResponse:
        raise LookupError("broken")

    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return Starlette(
        routes=[
            Route("/of/{name}", projects), Route("/stream", stream), Route("/broken", broken),
            WebSocketRoute("/chat/{room}", chat),
        ]
    )  # fmt: skip


def wrapped(url: str, spans: Spans, **options: Any) -> tuple[ProjKit, Any]:
    """Return a kit and an instrumented host."""
    kit = ProjKit(settings_for(url), tracer_provider=spans.provider)
    return kit, kit.wrap(host(kit), prefix="/kit", instrument=True, **options)


@pytest.mark.parametrize("performance", [True, False])
async def test_a_hosts_request(sqlite_url: str, performance: bool) -> None:
    """A request has one server span with route and stable names, without a query; statements are below it."""
    spans = Spans()
    kit, app = wrapped(sqlite_url, spans, performance=performance)
    headers = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
    async with kit.lifespan():
        answer = await ask(app, "GET", "/of/anybody", headers, query="code=canary")
    (statement, server) = spans.all()
    found = attributes(server)
    assert (answer.status, server.kind, statement.kind) == (200, SpanKind.SERVER, SpanKind.CLIENT)
    assert (server.name, found["http.route"], found["url.path"]) == (
        "GET /of/{name}",
        "/of/{name}",
        "/of/anybody",
    )
    assert (found["http.response.status_code"], found["url.query"]) == (200, "REDACTED")
    assert OLD.isdisjoint(found)
    assert "canary" not in server.to_json()
    assert server.parent is not None
    assert statement.parent is not None
    assert (f"{server.parent.span_id:016x}", statement.parent.span_id) == (PARENT, server.context.span_id)
    told = f"00-{TRACE}-{server.context.span_id:016x}-01"
    assert answer.header("traceresponse") == (told if performance else None)


@pytest.mark.parametrize("path", ["/stream", "/nowhere"])
async def test_no_spans_of_single_messages(sqlite_url: str, path: str) -> None:
    """A response in several parts, or for an unknown path, has one span."""
    spans = Spans()
    kit, app = wrapped(sqlite_url, spans)
    async with kit.lifespan():
        await ask(app, "GET", path)
    assert spans.server().name == ("GET /stream" if path == "/stream" else "GET")


async def test_a_host_that_fails(sqlite_url: str) -> None:
    """The span of a failed request has the status of the response, or the class of the exception."""
    spans = Spans()
    kit, app = wrapped(sqlite_url, spans)

    async def silent(*_: Any) -> None:
        raise LookupError("broken")

    async with kit.lifespan():
        for failing, path in ((app, "/broken"), (kit.wrap(silent, prefix="/kit", instrument=True), "/")):
            with pytest.raises(LookupError):
                await ask(failing, "GET", path)
    found = spans.all()
    assert [span.status.status_code for span in found] == [StatusCode.ERROR] * 2
    assert [attributes(span)["error.type"] for span in found] == ["500", "LookupError"]


def test_a_websocket(sqlite_url: str) -> None:
    """A WebSocket has a span without a raw path in its name."""
    spans = Spans()
    _, app = wrapped(sqlite_url, spans)
    with TestClient(app) as client, client.websocket_connect("/chat/anything"):
        pass
    assert spans.server().name == "WebSocket"


async def test_the_kits_own_requests_have_one_span(sqlite_url: str) -> None:
    """Requests to the kit bypass the host's instrumentation."""
    spans = Spans()
    kit, app = wrapped(sqlite_url, spans)
    async with kit.lifespan():
        await ask(app, "GET", "/kit/api/v1/projects")
    assert spans.server().name == "GET /kit/api/v1/projects"


async def test_response_propagator(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a response propagator, the header is sent once."""
    from opentelemetry.instrumentation import propagators

    monkeypatch.setattr(propagators, "_RESPONSE_PROPAGATOR", propagators.TraceResponsePropagator())
    spans = Spans()
    kit = ProjKit(settings_for(sqlite_url), tracer_provider=spans.provider)
    app = OpenTelemetryMiddleware(kit, tracer_provider=spans.provider)
    async with kit.lifespan():
        answer = await ask(app, "GET", "/api/v1/projects")
    assert len(answer.all("traceresponse")) == 1


def test_without_the_extra(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'projkit\[otel\]'"):
        wrapped(sqlite_url, Spans())
