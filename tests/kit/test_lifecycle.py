"""The kit as an ASGI application starts, stops, drains and wraps hosts."""

import asyncio
import gc
import json
import logging
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import date
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from projkit import Principal, ProjKit
from projkit.errors import ConfigurationError, DatabaseUnavailableError, ProjkitError, SchemaOutOfDateError
from tests.asgi import body, call, http_scope, websocket_scope
from tests.conftest import Client, settings_for, token_for
from tests.services import postgres_server_url

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"


def make(url: str, **options: Any) -> ProjKit:
    """Create a kit that has not started."""
    changes = options.pop("changes", {})
    return ProjKit(settings_for(url, **changes), **options)


async def run_lifespan(app: Any, *, fail: bool = False) -> list[dict[str, Any]]:
    """Run the lifespan of an application and return the messages that it sent."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    with pytest.raises(SchemaOutOfDateError) if fail else nullcontext():
        await call(app, {"type": "lifespan"}, *messages, sent=sent)
    return sent


def url_of(any_database_url: str) -> str:
    """Return the URL with the driver that SQLAlchemy requires."""
    return any_database_url.replace("postgresql://", "postgresql+asyncpg://").replace(
        "sqlite://", "sqlite+aiosqlite://"
    )


async def test_making_a_kit_opens_nothing(tmp_path: Any) -> None:
    """Creating a kit touches neither a database nor a key file."""
    make(f"sqlite:///{tmp_path / 'none.db'}", changes={"secret": None})
    assert list(tmp_path.iterdir()) == []


async def test_the_lifespan_protocol(any_database_url: str) -> None:
    """A kit that is served on its own implements the lifespan protocol and is ready in between."""
    sent = await run_lifespan(make(any_database_url))
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_schema_that_is_missing_fails_the_startup(empty_postgres_url: str) -> None:
    """On a database without tables the startup fails with the command that creates them."""
    sent = await run_lifespan(make(empty_postgres_url), fail=True)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "projkit migrate" in sent[0]["message"]


async def test_a_database_that_does_not_answer_fails_the_startup() -> None:
    """The error about an unreachable database names its setting and not its password."""
    with pytest.raises(
        DatabaseUnavailableError, match=r"PROJKIT_DATABASE_URL: the database n at 127.0.0.1:1"
    ) as caught:
        await make("postgresql://u:hidden@127.0.0.1:1/n").startup()
    assert "hidden" not in str(caught.value)


async def test_starting_and_stopping_again_does_nothing(any_database_url: str) -> None:
    """startup and shutdown may be called twice, and a stopped kit can be started again."""
    kit = make(any_database_url)
    await kit.shutdown()
    for _ in range(2):
        await kit.startup()
        await kit.startup()
        assert kit.ready
        async with Client(kit, kit.settings) as client:
            await client.project()
        await kit.shutdown()
        await kit.shutdown()
        assert not kit.ready


async def test_without_a_lifespan_it_starts_at_the_first_request(
    any_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A kit whose lifespan is not run starts at the first request and logs one warning."""
    kit = make(any_database_url)
    async with Client(kit, kit.settings) as client:
        answers = await asyncio.gather(*(client.get(URL) for _ in range(5)))
        assert [answer.status_code for answer in answers] == [200] * 5
    assert len([record for record in caplog.records if "lifespan" in record.message]) == 1
    await kit.shutdown()


async def test_a_kit_that_cannot_start_says_so(
    empty_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If the lazy start fails, requests get 503, liveness is 200, and the log has the reason."""
    kit = make(empty_postgres_url)
    async with Client(kit, kit.settings) as client:
        answer = await client.get(URL)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await client.get("/api/v1/health/live")).status_code == 200
        ready = await client.get("/api/v1/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "error"})
    assert "projkit migrate" in caplog.text


async def test_draining_turns_readiness_away(any_database_url: str) -> None:
    """A draining kit is not ready but responds; once started again, it is ready."""
    kit = make(any_database_url)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        assert (await client.get("/api/v1/health/ready")).status_code == 200
        kit.drain()
        assert (await client.get("/api/v1/health/ready")).status_code == 503
        assert (await client.get(URL)).status_code == 200


@pytest.mark.parametrize("kind", ["starlette", "raw"])
async def test_a_wrapped_host_that_cannot_start(sqlite_url: str, kind: str) -> None:
    """An error of the host's startup passes through kit.wrap; an error before any message means no lifespan support."""

    @asynccontextmanager
    async def broken(app: Any) -> Any:
        if app:
            raise RuntimeError("the host cannot start")
        yield

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the host cannot start")

    kit = make(sqlite_url)
    app = kit.wrap(Starlette(lifespan=broken) if kind == "starlette" else raw)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[dict[str, Any]] = []
    failure = pytest.raises(RuntimeError, match="the host cannot start")
    with failure if kind == "starlette" else nullcontext():
        await call(app, {"type": "lifespan"}, *messages, sent=sent)
    expected = ["startup.failed"] if kind == "starlette" else ["startup.complete", "shutdown.complete"]
    assert [message["type"] for message in sent] == [f"lifespan.{kind}" for kind in expected]
    assert not kit.ready


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
@pytest.mark.parametrize("kind", ["starlette", "raw"])
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), BaseExceptionGroup("", [asyncio.CancelledError()]), SystemExit(3)]
)
async def test_a_wrapped_host_that_ends_with_any_exception(
    sqlite_url: str, phase: str, kind: str, error: BaseException
) -> None:
    """Whatever a host's lifespan raises, the server gets the message that it would get without the kit, which stops."""

    @asynccontextmanager
    async def broken(app: Any) -> Any:
        if phase == "startup":
            raise error
        yield
        raise error

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if phase == "shutdown":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        raise error

    kit = make(sqlite_url)
    app = kit.wrap(Starlette(lifespan=broken) if kind == "starlette" else raw)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[dict[str, Any]] = []
    fails = kind == "starlette" and phase == "startup"
    with pytest.raises(type(error)) if fails else nullcontext():
        await call(app, {"type": "lifespan"}, *messages, sent=sent)
    last = "startup.failed" if fails else f"shutdown.{'complete' if phase == 'startup' else 'failed'}"
    assert sent[-1]["type"] == f"lifespan.{last}"
    assert sent[-1].get("message", "none")
    assert len(sent) == (1 if fails else 2)
    assert not kit.ready


@pytest.mark.parametrize("phase", ["kit", "startup", "running", "shutdown"])
async def test_a_server_that_cancels_the_lifespan(sqlite_url: str, phase: str) -> None:
    """If the server cancels the lifespan of a wrapped host in any phase, the host ends and the kit stops."""
    reached, ended = asyncio.Event(), asyncio.Event()

    async def host(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            if phase == "startup":
                reached.set()
                await asyncio.sleep(60)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            reached.set()
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def send(message: Any) -> None:
        if phase == "running":
            reached.set()

    received = asyncio.Queue[Any]()
    received.put_nowait({"type": "lifespan.startup"})
    if phase == "shutdown":
        received.put_nowait({"type": "lifespan.shutdown"})
    kit = make(sqlite_url)

    async def serve() -> None:
        await kit.wrap(host)({"type": "lifespan"}, received.get, send)

    task = asyncio.create_task(serve())
    if phase == "kit":
        for _ in range(3):
            await asyncio.sleep(0)
    else:
        await asyncio.wait_for(reached.wait(), 20)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set() == (phase != "kit")
    assert not kit.ready


async def test_a_lifespan_that_is_cancelled_while_the_kit_starts(sqlite_url: str) -> None:
    """A cancelled start leaves nothing running, unless another lifespan has entered."""
    kit = make(sqlite_url)

    async def run(until: asyncio.Event) -> None:
        async with kit.lifespan():
            await until.wait()

    for others in (False, True):
        stop = asyncio.Event()
        cancelled, other = (
            asyncio.create_task(run(stop)),
            asyncio.create_task(run(stop) if others else stop.wait()),
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await kit.projects.list(Principal("alice")) if others else None
        assert kit.ready == others
        stop.set()
        await other
        assert not kit.ready


@pytest.mark.parametrize(
    "wrong", ["postgresql://", 7, async_sessionmaker(bind=None), lambda: create_engine("sqlite://")]
)
async def test_an_engine_of_another_kind(sqlite_url: str, wrong: Any) -> None:
    """An engine argument of another type is rejected with the way to create one."""
    with pytest.raises(ConfigurationError, match="create_async_engine"):
        await make(sqlite_url, engine=wrong).startup()


async def test_a_host_engine_that_does_not_answer_is_named(sqlite_url: str) -> None:
    """With a host's engine, the error names its database and not the setting."""
    engine = create_async_engine("postgresql+asyncpg://me:hidden@127.0.0.1:1/mine")
    with pytest.raises(
        DatabaseUnavailableError, match=r"host's engine, postgresql\+asyncpg://me:\*\*\*@127"
    ) as caught:
        await make(sqlite_url, engine=engine).startup()
    assert "hidden" not in str(caught.value)


async def test_a_lifespan_within_a_lifespan(sqlite_url: str) -> None:
    """The kit stops when the last of its lifespans ends."""
    kit = make(sqlite_url)
    async with kit.lifespan():
        async with kit.lifespan():
            assert kit.ready
        assert kit.ready
    assert not kit.ready


async def test_a_lifespan_that_an_explicit_stop_overtakes(sqlite_url: str) -> None:
    """After a lifespan whose kit was stopped meanwhile, the next lifespan stops the kit again."""
    kit = make(sqlite_url)
    await kit.startup()
    async with kit.lifespan():
        await kit.shutdown()
    async with kit.lifespan():
        assert kit.ready
    assert not kit.ready


async def test_requests_do_not_queue_for_a_hanging_database(caplog: pytest.LogCaptureFixture) -> None:
    """While a lazy start hangs, liveness responds, and all requests get a 503 in bounded time."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        kit = make(f"postgresql://x@127.0.0.1:{port}/x", changes={"database_connect_seconds": 1.0})
        loop = asyncio.get_running_loop()
        async with Client(kit, kit.settings) as client:
            started = loop.time()
            waiting = [asyncio.create_task(client.get(URL)) for _ in range(8)]
            await asyncio.sleep(0.1)
            assert (await client.get("/api/v1/health/live")).status_code == 200
            assert (await client.get("/api/v1/health/ready")).status_code == 503
            assert not any(task.done() for task in waiting)
            assert {(await task).status_code for task in waiting} == {503}
            assert (await client.get(URL)).status_code == 503
            assert loop.time() - started < 6
    assert len([record for record in caplog.records if "cannot start" in record.message]) == 1


async def test_a_mistake_at_a_lazy_start_is_a_503(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """On any error during the start, requests get the contract's 503 and the log the traceback."""

    def broken() -> AsyncEngine:
        raise RuntimeError("no engine today")

    kit = make(sqlite_url, engine=broken)
    async with Client(kit, kit.settings) as client:
        assert (await client.get(URL)).json()["code"] == "service_unavailable"
    assert any(record.exc_info for record in caplog.records)


async def test_readiness_begins_a_lazy_start(sqlite_url: str) -> None:
    """A kit that gets only probes starts too, and no probe waits for it."""
    kit = make(sqlite_url)
    async with Client(kit, kit.settings) as client:
        statuses = [(await client.get("/api/v1/health/ready")).status_code]
        while statuses[-1] != 200:
            await asyncio.sleep(0.02)
            statuses.append((await client.get("/api/v1/health/ready")).status_code)
    assert statuses[0] == 503
    await kit.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_closed_loops_leave_no_connections(any_database_url: str, database_mode: str) -> None:
    """A task with its own event loop and no shutdown leaves at most its last connections behind."""
    kit = make(any_database_url, changes={"database_mode": database_mode})
    for number in range(6):
        asyncio.run(kit.projects.create(Principal("alice"), name=f"P{number}"))
    gc.collect()  # so that their event loops' sockets warn here

    async def count() -> int:
        name = urlsplit(any_database_url).path.lstrip("/")
        connection = await asyncpg.connect(postgres_server_url())
        try:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
            while (connections := int(await connection.fetchval(asked, name))) > 1:
                await asyncio.sleep(0.05)
            return connections
        finally:
            await connection.close()

    if any_database_url.startswith("postgresql"):
        assert asyncio.run(asyncio.wait_for(count(), 20)) <= 1
    else:
        assert sum(thread.name.startswith("projkit-sqlite") for thread in threading.enumerate()) <= 3

    async def stop() -> None:
        assert (await kit.projects.list(Principal("alice"), total=True)).total == 6
        await kit.shutdown()

    asyncio.run(stop())
    gc.collect()


async def _create_on_own_loop(kit: ProjKit) -> str:
    async with Client(kit, kit.settings) as client:
        project = await client.project()
    await kit.shutdown()
    return str(project["id"])


def test_each_event_loop_has_its_own(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A second event loop gets its own connections and sees what the first has written."""
    kit = make(sqlite_url)
    made = {asyncio.run(_create_on_own_loop(kit)) for _ in range(3)}

    async def listed() -> set[str]:
        async with kit.lifespan(), Client(kit, kit.settings) as client:
            return {item["id"] for item in (await client.get(URL)).json()["items"]}

    assert asyncio.run(listed()) == made


@pytest.mark.parametrize(
    "given",
    [lambda engine: engine, lambda engine: lambda: engine, async_sessionmaker],
    ids=["engine", "function", "sessionmaker"],
)
async def test_the_hosts_engine_is_used_and_left_open(
    any_database_url: str, given: Callable[[AsyncEngine], Any]
) -> None:
    """The kit works through the host's engine in every accepted form and does not dispose of it."""
    engine = create_async_engine(url_of(any_database_url))
    kit = make("sqlite:///unused.db", engine=given(engine))
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        project = await client.project(tags=["a"], external_id="E")
        assert (await client.get(f"{URL}/{project['id']}")).json() == project
        assert (await client.post(URL, json={"name": "B", "external_id": "E"})).status_code == 409
    async with engine.connect() as connection:
        count = await connection.exec_driver_sql("SELECT count(*) FROM projkit_projects")
        assert count.scalar() == 1
    await engine.dispose()


@pytest.mark.parametrize("coroutine", [False, True])
async def test_the_host_says_who_is_calling(any_database_url: str, coroutine: bool) -> None:
    """With get_principal the host's users own the projects, and the kit's tokens are not read."""

    def plain(scope: Any) -> Principal | None:
        user = dict(scope["headers"]).get(b"x-user")
        return None if user is None else Principal(user.decode(), frozenset({"projects:read"}))

    async def asynchronous(scope: Any) -> Principal | None:
        return plain(scope)

    kit = make(any_database_url, get_principal=asynchronous if coroutine else plain)
    async with kit.lifespan(), Client(kit, kit.settings, "alice") as client:
        assert (await client.get(URL)).status_code == 401
        assert (await client.get(URL, headers={"X-User": "bob"})).status_code == 200
        assert (await client.post(URL, headers={"X-User": "bob"}, json={"name": "A"})).status_code == 403


def starlette_host(kit: ProjKit, seen: list[str]) -> Starlette:
    """Create a host with a route and a lifespan."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        seen.append("host up")
        yield
        seen.append("host down")

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("host")

    return Starlette(
        routes=[Route("/hello", hello), Route("/api/v1x", hello), Route("/api/v1/users", hello)],
        lifespan=lifespan,
    )


@pytest.mark.parametrize("prefix", ["", "/kit", "/a/b"])
async def test_wrap_serves_both(any_database_url: str, prefix: str) -> None:
    """kit.wrap sends the kit's paths to the kit and all others to the host, with one lifespan for both."""
    kit, seen = make(any_database_url), list[str]()
    app = kit.wrap(starlette_host(kit, seen), prefix=prefix)
    sent = await run_lifespan(app)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert seen == ["host up", "host down"]
    async with kit.lifespan(), Client(app, kit.settings) as client:
        for path in ("/hello", "/api/v1x", "/api/v1/users"):
            assert (await client.get(path)).text == "host"
        assert (await client.get("/nowhere")).headers["content-type"].startswith("text/plain")
        answer = await client.post(f"{prefix}{URL}", json={"name": "A"})
        assert answer.headers["location"] == f"{prefix}{URL}/{answer.json()['id']}"
        assert (await client.get(answer.headers["location"])).status_code == 200
        assert (await client.get(f"{prefix}{URL}/none/none")).json()["code"] == "not_found"


async def test_mounted_in_starlette_beside_a_sibling(any_database_url: str, tmp_path: Any) -> None:
    """Two kits at /kit and /kit2 are independent, and their URLs include the mount."""
    first, second = make(any_database_url), make(f"sqlite:///{tmp_path / 'second.db'}")
    app = Starlette(routes=[Mount("/kit", first), Mount("/kit2", second)])
    async with first.lifespan(), second.lifespan(), Client(app, first.settings) as client:
        for prefix in ("/kit", "/kit2"):
            for _ in range(2):
                answer = await client.post(f"{prefix}{URL}", json={"name": prefix})
                assert answer.headers["location"].startswith(f"{prefix}{URL}/")
            page = await client.get(f"{prefix}{URL}?limit=1")
            assert page.headers["link"].startswith(f"<{prefix}{URL}?")
            assert page.json()["items"][0]["name"] == prefix
            served = (await client.get(f"{prefix}/api/v1/openapi.json")).json()
            assert served["servers"] == [{"url": prefix}]
            assert (await client.get(f"{prefix}/none")).json()["instance"] == f"{prefix}/none"


async def test_scopes_of_every_host(sqlite_url: str) -> None:
    """The kit finds its own path and the root path in every way a host may split them."""
    kit = make(sqlite_url)
    token = token_for(kit.settings, "alice")

    async def location(**scope: Any) -> str:
        headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")]
        base = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
        sent = await call(kit, {**base, **scope}, body(b'{"name":"A"}'))
        assert sent[0]["status"] == 201, sent
        location: bytes = dict(sent[0]["headers"])[b"location"]
        return location.decode().rpartition("/")[0]

    async with kit.lifespan():
        assert await location(path=URL) == URL
        assert await location(path=f"/p{URL}", root_path="/p") == f"/p{URL}"
        assert await location(path=URL, root_path="/p") == f"/p{URL}"
        assert await location(path=f"{URL}/", raw_path=f"/k{URL}".encode()) == f"/k{URL}"
        assert await location(path=f"{URL}/", raw_path=f"/k{URL}?q=1".encode()) == f"/k{URL}"
        assert await location(path=f"/api{URL}", root_path="/api") == f"/api{URL}"
        assert await location(path=f"/k{URL}", root_path="/proxy/k") == f"/proxy/k{URL}"
        assert await location(path=f"/ä b{URL}", root_path="/ä b") == f"/%C3%A4%20b{URL}"


@pytest.mark.parametrize(
    ("settings", "root_path", "path", "expected"),
    [
        ({"public_url": "https://example.com/p"}, "", URL, "/p"),  # a proxy strips the prefix
        ({"public_url": "https://example.com/p"}, "", f"/p{URL}", "/p"),  # or keeps it
        ({"public_url": "https://example.com/p"}, "/p", URL, "/p"),  # the server knows it as well
        ({"public_url": "https://example.com/p"}, "/p", f"/p{URL}", "/p"),
        ({"root_path": "/p"}, "", f"/p{URL}", "/p"),
        ({"public_url": "https://example.com/%C3%A4%20b/"}, "", f"/ä b{URL}", "/%C3%A4%20b"),
        ({"public_url": "https://example.com/p/k"}, "/k", f"/k{URL}", "/p/k"),  # a proxy in front of a mount
        (
            {"public_url": "https://example.com/api"},
            "",
            URL,
            "/api",
        ),  # the API's prefix looks like the proxy's
        ({"public_url": "https://example.com/api"}, "", f"/api{URL}", "/api"),
        ({"public_url": "https://example.com"}, "", URL, ""),
        ({"public_url": "https://example.com/other"}, "/k", f"/k{URL}", "/k"),  # the settings are wrong
        ({"public_url": "https://example.com"}, "/k", f"/k{URL}", "/k"),
    ],
)
async def test_public_path(
    sqlite_url: str,
    settings: dict[str, str],
    root_path: str,
    path: str,
    expected: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """URLs in responses begin with the path of PUBLIC_URL or ROOT_PATH, unless a mount contradicts it."""
    kit = make(sqlite_url, changes=settings)
    async with kit.lifespan():
        for _ in range(2):
            sent = await call(
                kit, http_scope(path.replace("/projects", "/openapi.json"), root_path=root_path)
            )
            assert json.loads(sent[1]["body"])["servers"] == [{"url": expected or "/"}]
        sent = await call(kit, http_scope(path, root_path=root_path))
        assert json.loads(sent[1]["body"])["instance"] == expected + URL
    contradicted = not urlsplit(settings.get("public_url", "/p")).path.endswith(root_path)
    assert caplog.text.count("including the mount path") == contradicted


async def test_wrapped_behind_a_proxy_that_keeps_its_prefix(sqlite_url: str) -> None:
    """A kit around a host has its paths below the path of PUBLIC_URL too, which the host does not know."""
    kit = make(sqlite_url, changes={"public_url": "https://example.com/app/kit"})

    async def host(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body"})

    app = kit.wrap(host, prefix="/kit")
    async with kit.lifespan():
        for path in ("/kit", "/app/kit"):
            sent = await call(app, http_scope(f"{path}/api/v1/openapi.json"))
            assert json.loads(sent[1]["body"])["servers"] == [{"url": "/app/kit"}]
        for path in ("/app/kit/nothing", "/app/api/v1/openapi.json", "/app/kitchen/api/v1/openapi.json"):
            assert (await call(app, http_scope(path)))[0]["status"] == 418


@pytest.mark.parametrize("extension", [True, False])
async def test_websockets_are_refused(sqlite_url: str, extension: bool) -> None:
    """The kit has no WebSocket routes: connections are rejected before they are accepted."""
    extensions: dict[str, Any] = {"websocket.http.response": {}} if extension else {}
    sent = await call(
        make(sqlite_url), websocket_scope(URL, extensions=extensions), {"type": "websocket.connect"}
    )
    assert sent[0]["type"] == ("websocket.http.response.start" if extension else "websocket.close")


async def test_a_mistake_of_ours_is_a_500_that_tells_nothing(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is a 500 without detail; the log has the traceback once, with the request id."""

    async def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("projkit.projects.service.ProjectService.get", broken)
    kit = make(sqlite_url)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        answer = await client.get(
            f"{URL}/00000000-0000-7000-8000-000000000000", headers={"X-Request-ID": "r-1"}
        )
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.request_id, bool(record.exc_info)) for record in errors] == [("r-1", True)]  # type: ignore[attr-defined]
    assert "r-1" in errors[0].message


async def test_a_client_that_has_gone(sqlite_url: str) -> None:
    """A client that disconnects while sending its body leaves no row and no error."""
    kit = make(sqlite_url)
    token = token_for(kit.settings, "alice")
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")]
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        sent = await call(kit, http_scope(URL, "POST", headers), body(b'{"name":', more=True))
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        assert sent[0]["status"] == 400, "for middleware that requires a response"
        assert (await client.get(URL)).json()["items"] == []


async def test_python_callers_have_the_same_projects(any_database_url: str) -> None:
    """kit.projects creates, reads, lists, updates, deletes and summarizes under the rules of the HTTP API."""
    kit = make(any_database_url)
    alice, bob = Principal("alice"), Principal("bob")
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        project = await kit.projects.create(alice, name="A", tags=["x"])
        assert (await client.get(f"{URL}/{project.id}")).json()["name"] == "A"
        assert await kit.projects.get(alice, project.id) == project
        changed = await kit.projects.update(alice, project.id, {"status": "completed"}, version=1)
        assert (changed.version, changed.tags) == (2, ["x"])
        assert changed.completed_at is not None
        assert await kit.projects.get(alice, str(project.id)) == changed
        assert (await kit.projects.list(alice, status="completed")).items == [changed]
        page = await kit.projects.list(alice, status=["completed"], total=True)
        assert (page.items, page.total, page.total_is_capped) == ([changed], 1, False)
        assert (await kit.projects.stats(alice)).total == 1
        for wrong, error in (
            (kit.projects.get(bob, project.id), "NotFoundError"),
            (kit.projects.update(alice, project.id, {"name": "B"}, version=1), "PreconditionFailedError"),
            (kit.projects.update(alice, project.id, {"name": ""}), "ValidationFailedError"),
            (kit.projects.delete(alice, project.id, version=1), "PreconditionFailedError"),
            (kit.projects.create(alice, name=""), "ValidationFailedError"),
            (kit.projects.list(alice, limit=0), "ValidationFailedError"),
            (kit.projects.get(alice, "no uuid"), "NotFoundError"),
            (kit.projects.create(alice, name="A", metadata={"a": [float("nan")]}), "ValidationFailedError"),
            (kit.projects.create(alice, name="A", metadata={"a": 2**63}), "ValidationFailedError"),
            (kit.projects.create(alice, name="A", metadata={"a": date(2026, 1, 1)}), "ValidationFailedError"),
        ):
            with pytest.raises(ProjkitError) as caught:
                await wrong
            assert type(caught.value).__name__ == error
        await kit.projects.delete(alice, project.id)
        assert (await kit.projects.list(alice)).items == []


@pytest.mark.parametrize("subject", ["", "a" * 256, "a\0b", "\ud800"])
def test_a_principal_can_be_stored(subject: str) -> None:
    """A subject or tenant that cannot be stored is rejected when the principal is created."""
    with pytest.raises(ValueError, match=r"subject|surrogates"):
        Principal(subject)


async def test_serializable_engines_end_in_503(postgres_url: str) -> None:
    """Repeated conflicts on a host's engine are retried and end in a 503, never a 500."""
    engine = create_async_engine(url_of(postgres_url), isolation_level="SERIALIZABLE")
    kit = make("sqlite:///unused.db", engine=engine)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        answers = await asyncio.gather(
            *(
                client.post(URL, json={"name": "A"}, headers={"Idempotency-Key": str(number)})
                for number in range(20)
            )
        )
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {201, 503}
        listed = (await client.get(f"{URL}?limit=100")).json()["items"]
        assert len(listed) == statuses.count(201)
    await engine.dispose()


async def test_a_path_that_is_no_text(sqlite_url: str) -> None:
    """A path with a lone surrogate is a 404 like any unknown path."""
    kit = make(sqlite_url)
    scope = {"type": "http", "method": "GET", "path": "/\ud800", "query_string": b"", "headers": []}
    async with kit.lifespan():
        sent = await call(kit, scope, body())
    assert sent[0]["status"] == 404


async def test_python_callers_need_no_lifespan(sqlite_url: str) -> None:
    """A background task can use kit.projects without starting the kit first."""
    kit = make(sqlite_url)
    await kit.projects.create(Principal("alice"), name="A")
    await kit.shutdown()


async def test_access_log_line(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each request has one log line with its route template, status, times and id."""
    caplog.set_level(logging.INFO, "projkit.access")
    kit = make(sqlite_url)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        project = await client.project()
        caplog.clear()
        await client.get(f"{URL}/{project['id']}", headers={"X-Request-ID": "r-2"})
    (record,) = [record for record in caplog.records if record.name == "projkit.access"]
    assert record.__dict__["route"] == f"{URL}/{{project_id}}"
    assert (record.__dict__["status"], record.__dict__["request_id"]) == (200, "r-2")
    assert "r-2" in record.message


async def test_routes_are_real_starlette_routes(sqlite_url: str) -> None:
    """A host can serve the routes of kit.routes itself."""
    kit = make(sqlite_url)
    app = Starlette(routes=list(kit.routes))
    async with kit.lifespan():
        transport = httpx2.ASGITransport(app=app)
        headers = {"Authorization": f"Bearer {token_for(kit.settings, 'alice')}"}
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://testserver", headers=headers
        ) as client:
            assert (await client.get(URL)).status_code == 200
