"""The kit next to other event loops, and to middleware that adds request ids."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from asgi_correlation_id import CorrelationIdMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from projkit import ProjKit, Settings
from projkit.auth.middleware import SELF_GUARDED, AuthMiddleware
from projkit.errors import ConfigurationError
from projkit.monitoring.middleware import PerformanceMiddleware
from tests.asgi import call, http_scope
from tests.conftest import SECRET


@pytest.fixture
def kit(sqlite_url: str) -> ProjKit:
    """Create a kit."""
    return ProjKit(Settings(secret=SECRET, database_url=sqlite_url))


def page(request: Any) -> PlainTextResponse:
    """Return the host's page."""
    return PlainTextResponse("the host's")


def test_trio_with_a_lifespan(kit: ProjKit, caplog: pytest.LogCaptureFixture) -> None:
    """On trio the start fails at once, with what to do."""

    async def start() -> None:
        sent: list[Any] = []
        with pytest.raises(ConfigurationError, match="-k asyncio"):
            await call(kit, {"type": "lifespan", "asgi": {}}, {"type": "lifespan.startup"}, sent=sent)
        assert sent[0]["type"] == "lifespan.startup.failed"
        assert "trio" in sent[0]["message"]
        with pytest.raises(ConfigurationError, match="trio"):
            async with kit.lifespan():
                pass

    trio.run(start)


@pytest.mark.parametrize("path", ["/api/v1/projects", "/api/v1/health/live", "/nothing"])
def test_trio_without_a_lifespan(kit: ProjKit, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """Without a lifespan each request gets a 503 problem, and the log one line, without a traceback."""

    async def requests() -> list[int]:
        return [(await call(kit, http_scope(path)))[0]["status"] for _ in range(3)]

    with caplog.at_level(logging.WARNING):
        assert trio.run(requests) == [503] * 3
    (line,) = caplog.records
    assert "projkit runs on asyncio only" in line.getMessage()
    assert line.exc_info is None


@pytest.mark.anyio
@pytest.mark.parametrize("order", ["outside a mount", "outside kit.wrap", "inside kit.wrap"])
@pytest.mark.parametrize("sent", [None, "abcdefab-1234-4abc-8abc-abcdefabcdef"])
async def test_asgi_correlation_id(kit: ProjKit, order: str, sent: str | None) -> None:
    """With asgi-correlation-id, in any order, each response has one request id: the client's, or the middleware's."""
    routes = [Route("/page", page)]
    if order == "outside a mount":
        app: Any = CorrelationIdMiddleware(Starlette(routes=[*routes, Mount("/kit", kit)]))
    elif order == "outside kit.wrap":
        app = CorrelationIdMiddleware(kit.wrap(Starlette(routes=routes), prefix="/kit"))
    else:
        app = kit.wrap(CorrelationIdMiddleware(Starlette(routes=routes)), prefix="/kit")
    transport = httpx2.ASGITransport(app=app)
    headers = {"X-Request-ID": sent} if sent else {}
    async with kit.lifespan(), httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/page", "/kit/api/v1/health/live", "/kit/api/v1/projects", "/kit/nothing"):
            answer = await asyncio.create_task(
                client.get(path, headers=headers)
            )  # with its own context, as servers do
            (request_id,) = answer.headers.get_list("x-request-id")
            assert request_id == (sent or request_id)
            if path == "/kit/nothing":
                assert answer.json()["request_id"] == request_id


class AddingIds:
    """The host's middleware, which adds a request id of its own and a duration to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Add the headers after those that the response has."""

        async def add(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [
                    (b"X-Request-ID", b"the-hosts"),
                    (b"X-Process-Time", b"1"),
                    (b"Server-Timing", b"host;dur=1"),
                ]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        await self.app(scope, receive, add)


@pytest.mark.anyio
@pytest.mark.parametrize("layout", ["around", "inside", "mounted"])
async def test_hosts_that_add_request_ids(
    sqlite_url: str, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A response has one request id, which is that of the log: the host's for its pages, the kit's for the kit's."""
    kit = ProjKit(Settings(secret=SECRET, database_url=sqlite_url, slow_request_seconds=0.001))

    async def slow(request: Any) -> PlainTextResponse:
        await asyncio.sleep(0.002)
        return PlainTextResponse("the host's")

    mounts = [Mount("/kit", kit)] if layout == "mounted" else []
    host = Starlette(routes=[Route("/page", slow), *mounts], middleware=[Middleware(AddingIds)])
    prefix = "/other" if layout == "mounted" else "/kit"
    app = kit.wrap(host, prefix=prefix, inside=layout == "inside")
    transport = httpx2.ASGITransport(app=app)
    async with kit.lifespan(), httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        with caplog.at_level(logging.WARNING, "projkit.slow"):
            page = await client.get("/page")
        missing = await client.get("/kit/api/v1/nothing")
    assert page.headers.get_list("x-request-id") == ["the-hosts"]
    assert page.headers.get_list("x-process-time") == ["1"]
    assert [line.request_id for line in caplog.records if line.name == "projkit.slow"] == ["the-hosts"]  # type: ignore[attr-defined]
    assert missing.headers.get_list("x-request-id") == [missing.json()["request_id"]]
    assert len(missing.headers.get_list("x-process-time")) == 1


def test_guards_and_timing_on_trio(kit: ProjKit, caplog: pytest.LogCaptureFixture) -> None:
    """On trio a guard responds with 503 and the log has one line; a host's slow public page is served and timed."""

    async def slow(request: Any) -> PlainTextResponse:
        await trio.sleep(0.06)  # after which the kit would poll for a disconnect
        return PlainTextResponse("the host's")

    host = Starlette(routes=[Route("/page", slow), Route("/guarded", page)])
    guarded = AuthMiddleware(host, kit, rules={"/page": SELF_GUARDED})
    app = PerformanceMiddleware(guarded, kit=kit)

    async def requests() -> list[Any]:
        return [(await call(app, http_scope(path)))[0] for path in ("/guarded", "/page", "/guarded")]

    with caplog.at_level(logging.WARNING):
        first, public, second = trio.run(requests)
    assert (first["status"], public["status"], second["status"]) == (503, 200, 503)
    assert b"x-process-time" in dict(public["headers"])
    (line,) = caplog.records
    assert "projkit runs on asyncio only" in line.getMessage()


@pytest.mark.anyio
async def test_mounts_that_clients_can_name_like_a_host(kit: ProjKit) -> None:
    """URLs in responses never begin with two slashes, after which browsers read the name of a host."""
    app = Starlette(routes=[Mount("/{tenant:path}/kit", kit)])
    sent = await call(app, http_scope("//evil.example/kit/api/v1/openapi.json"))
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["servers"] == [{"url": "/evil.example/kit"}]


HOST = """
import asyncio, logging, sys
logging.basicConfig(level=logging.INFO)
from projkit import ProjKit, Settings
from tests.asgi import call, http_scope
if sys.argv[1:] == ["--access-log"]:
    logging.getLogger("projkit.access").setLevel(logging.INFO)
for _ in range(2):
    kit = ProjKit(Settings())
    asyncio.run(call(kit, http_scope("/api/v1/projects")))
"""


@pytest.mark.parametrize("wanted", [False, True])
def test_the_log_of_a_host(tmp_path: Path, wanted: bool) -> None:
    """With basicConfig in a host the kit adds no access lines unless asked to; a new development key is logged once."""
    arguments = ["--access-log"] if wanted else []
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", HOST, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert len([line for line in lines if "projkit.access" in line]) == (2 if wanted else 0)
    (told,) = [line for line in lines if "projkit-keys.json" in line]
    assert str(tmp_path / "projkit-keys.json") in told
