"""The number of series is bounded, whatever clients send."""

import random
import string
from collections import Counter
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from projkit import ProjKit
from projkit.telemetry.families import HTTP
from projkit.testing.internals import Internals
from tests.auth.asgi_client import ask
from tests.conftest import settings_for

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unmeasured")]
REQUESTS = 1000
STATUSES = (200, 201, 204, 301, 304, 400, 404, 409, 418, 422, 499, 500, 502, 503, 599, 600, 999)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# What a client of a kit may well do, beside what it may try.
PATHS = (
    "/api/v1/health/live",
    "/api/v1/projects",
    "/api/v1/auth/session",
    "/metrics",
    "/host/{}",
    "/api/v1/projects/{}",
)


async def answer(request: Request) -> Response:
    """Respond with the status that the client requests."""
    return Response(status_code=int(request.query_params["status"]))


def series(kit: ProjKit) -> Counter[str]:
    """Return the number of series by sample name."""
    return Counter(sample.name for metric in kit.registry.collect() for sample in metric.samples)


def label_values(kit: ProjKit) -> set[str]:
    """Return all label values."""
    samples = (sample for metric in kit.registry.collect() for sample in metric.samples)
    return {value for sample in samples for value in sample.labels.values()}


def noise(source: random.Random) -> str:
    """Return a new random text."""
    return "n0ise" + "".join(
        source.choices(string.ascii_letters + string.digits + "-._~%!$&'()*+,;=:@", k=20)
    )


async def send(app: Any, choices: random.Random, source: random.Random) -> None:
    """Send a request whose kind depends on ``choices`` and whose content is random text from ``source``."""
    known = choices.random() < 0.5
    path = choices.choice(PATHS).format(noise(source)) if known else f"/{noise(source)}/{noise(source)}"
    method = choices.choice((*METHODS, noise(source)))
    headers = [
        ("host", noise(source)),
        ("user-agent", noise(source)),
        ("x-request-id", noise(source)),
        ("traceparent", noise(source)),
        ("authorization", f"Bearer {noise(source)}"),
        ("cookie", f"auth_token={noise(source)}; {noise(source)}=1"),
        (noise(source), noise(source)),
    ]
    chosen = [header for header in headers if choices.random() < 0.7]
    query = f"status={choices.choice(STATUSES)}&{noise(source)}"
    await ask(app, method, path, chosen, query=query, body=noise(source).encode(), content_type=noise(source))


async def test_random_requests(sqlite_url: str) -> None:
    """A thousand requests with new paths, methods, hosts and headers add no series."""
    kit = ProjKit(settings_for(sqlite_url))
    app = kit.wrap(Starlette(routes=[Route("/host/{name}", answer, methods=list(METHODS))]))
    source = random.Random(20261125)
    counts = []
    async with kit.lifespan():
        for _ in range(3):
            counts.append(series(kit))
            choices = random.Random(1)
            for _ in range(REQUESTS):
                await send(app, choices, source)
        counts.append(series(kit))
        assert not [value for value in label_values(kit) if "n0ise" in value]
    found = [sum(each.values()) for each in counts]
    print(f"series before and after each {REQUESTS} random requests: {found}")  # noqa: T201 - informational
    assert counts[1] == counts[2] == counts[3]
    # What is possible at all: a known method or none, and each route's statuses.
    rows = counts[3]["projkit_http_server_request_duration_seconds_count"]
    assert rows <= (len(METHODS) + 1) * ((len(PATHS) + 1) * 6 + len(STATUSES))


async def test_methods_that_clients_make_up(sqlite_url: str) -> None:
    """Samples of known methods are remembered, however many unknown methods came before."""
    kit = ProjKit(settings_for(sqlite_url))
    for number in range(HTTP.limit):
        await ask(kit, f"M{number}", "/")
    await ask(kit, "GET", "/")
    assert list(Internals(kit).recorder.http_samples) == [("GET", "__unknown__", 404)]
    assert series(kit)["projkit_http_server_request_duration_seconds_count"] == 2


async def test_random_websockets(sqlite_url: str) -> None:
    """WebSockets are counted by the template of their route, whatever their path."""
    kit = ProjKit(settings_for(sqlite_url))

    async def host(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    app, source = kit.wrap(host), random.Random(20261125)

    async def receive_nothing() -> dict[str, Any]:
        raise AssertionError("the host asks for nothing")

    async def send_nothing(_: object) -> None:
        """Discard the message."""

    for _ in range(200):
        path = f"/{noise(source)}"
        scope = {"type": "websocket", "path": path, "query_string": b"", "headers": [], "root_path": ""}
        await app(scope, receive_nothing, send_nothing)
    assert series(kit)["projkit_websocket_connections_total"] == 1
