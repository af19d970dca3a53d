"""Probes that are answered at the door: nobody can tell, but by the time that it takes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import context as contexts
from opentelemetry import trace

from projkit import ProjKit
from projkit.http import scope_keys
from projkit.http.application import Application
from projkit.http.timing import access_logger
from projkit.telemetry.endpoint_stats import stats_by_endpoint
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
HEALTH = "/api/v1/health"
PROBES = (HEALTH, f"{HEALTH}/live", f"{HEALTH}/ready", "/livez", "/readyz")
PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
Message = dict[str, Any]


async def ask(
    kit: ProjKit, path: str, *headers: tuple[bytes, bytes], method: str = "GET", root_path: str = ""
) -> tuple[list[Message], Message]:
    """What a kit sends, and the scope as it leaves it."""
    scope: Message = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": root_path, "scheme": "http", "headers": [(b"host", b"here"), *headers],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await kit(scope, receive, send)
    return sent, scope


def said(sent: list[Message]) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers but for those that differ each time, and body."""
    start, body = sent
    headers = dict(start["headers"])
    assert len(headers) == len(start["headers"])
    for varying in (b"x-process-time", b"server-timing", b"x-request-id"):
        assert headers.pop(varying)
    return start["status"], headers, body["body"]


@pytest.fixture
def usual_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that have come to the application, where the usual way ends."""
    seen: list[str] = []
    call = Application.__call__

    async def watched(self: Application, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[scope_keys.PATH])
        await call(self, scope, receive, send)

    monkeypatch.setattr(Application, "__call__", watched)
    return seen


@contextmanager
def access_log() -> Iterator[None]:
    """One log line a request, as ``projkit serve`` writes it."""
    level = access_logger.level
    access_logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        access_logger.setLevel(level)


@contextmanager
def a_trace_further_out() -> Iterator[None]:
    """The span of a host's own instrumentation around the kit."""
    context = trace.SpanContext(1, 2, is_remote=False)
    token = contexts.attach(trace.set_span_in_context(trace.NonRecordingSpan(context)))
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def nothing() -> Iterator[None]:
    """As it is."""
    yield


def a_kit(sqlite_url: str) -> ProjKit:
    """A kit with probes in all places."""
    return ProjKit(settings_for(sqlite_url, health_root_paths=True))


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("state", ["starting", "ready", "draining"])
async def test_both_ways_say_the_same(sqlite_url: str, usual_ways: list[str], path: str, state: str) -> None:
    """At the door a probe gets status, headers and body as by the usual way, and the scope tells its route."""
    kit = a_kit(sqlite_url)
    if state != "starting":
        await kit.startup()
    if state == "draining":
        kit.drain()
    try:
        at_the_door, scope = await ask(kit, path)
        assert usual_ways == []
        with access_log():
            as_usual, other_scope = await ask(kit, path)
        assert usual_ways == [path]
        assert said(at_the_door) == said(as_usual)
        assert scope[scope_keys.MATCHED_ROUTE] is other_scope[scope_keys.MATCHED_ROUTE]
        assert scope[scope_keys.MATCHED_ROUTE].path == path
        assert said(at_the_door)[0] == (200 if state == "ready" or "live" in path else 503)
    finally:
        await kit.startup()  # which a probe may have begun
        await kit.shutdown()


@pytest.mark.parametrize(
    ("path", "root_path"),
    [(f"/kit{HEALTH}/live", "/kit"), (f"{HEALTH}/live", "/proxy"), (f"/api{HEALTH}/live", "/api")],
)
async def test_mounts(sqlite_url: str, usual_ways: list[str], path: str, root_path: str) -> None:
    """Below a mount or behind a proxy a probe is answered at the door as well, however the host writes its path."""
    status, _, body = said((await ask(a_kit(sqlite_url), path, root_path=root_path))[0])
    assert (status, body, usual_ways) == (200, b'{"status":"ok"}', [])


async def test_a_path_that_is_read_in_two_ways(sqlite_url: str, usual_ways: list[str]) -> None:
    """Where the mount's prefix could be part of the kit's own path, the usual way finds the probe."""
    sent, _ = await ask(a_kit(sqlite_url), f"{HEALTH}/live", root_path="/api")
    assert (said(sent)[0], usual_ways) == (200, [f"{HEALTH}/live"])


@pytest.mark.parametrize(
    ("around", "headers", "method"),
    [
        (access_log, (), "GET"),
        (a_trace_further_out, (), "GET"),
        (nothing, (PARENT,), "GET"),
        (nothing, (), "HEAD"),
    ],
    ids=["a log line", "a host's trace", "a caller's trace", "another method"],
)
async def test_who_looks_gets_to_see(
    sqlite_url: str, usual_ways: list[str], around: Callable[[], Any], headers: Any, method: str
) -> None:
    """A request whose trace, log line or metrics are observed takes the normal path."""
    with around():
        sent, _ = await ask(a_kit(sqlite_url), f"{HEALTH}/live", *headers, method=method)
    assert (said(sent)[0], len(usual_ways)) == (200, 1)


async def test_they_are_counted(sqlite_url: str) -> None:
    """Probes at the door count under their route, and echo the id that the client gave."""
    kit = a_kit(sqlite_url)
    path = f"{HEALTH}/live"
    for _ in range(3):
        sent, _ = await ask(kit, path, (b"x-request-id", b"the-clients-own"))
        assert dict(sent[0]["headers"])[b"x-request-id"] == b"the-clients-own"
    stats = stats_by_endpoint(kit._recorder.read(), frozenset())[("GET", path)]
    assert stats.requests == 3
    ids = {dict((await ask(kit, path))[0][0]["headers"])[b"x-request-id"] for _ in range(3)}
    assert len(ids) == 3


async def test_clients_that_have_gone(sqlite_url: str) -> None:
    """A client that is gone when the answer is sent counts as such, not as answered."""
    kit = a_kit(sqlite_url)
    path = f"{HEALTH}/live"
    scope = (await ask(kit, path))[1]

    async def send(_: Message) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await kit({**scope, scope_keys.MATCHED_ROUTE: None}, None, send)  # type: ignore[arg-type]
    table = kit._recorder.read()
    assert stats_by_endpoint(table, frozenset())[("GET", path)].requests == 1
    assert table[("http_disconnects", ("GET", path))] == [1.0]
