"""The fast path of probes: its responses and records equal those of the normal path."""

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
from projkit.testing.internals import Internals
from tests.asgi import Message, body, call, http_scope
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
HEALTH = "/api/v1/health"
PROBES = (HEALTH, f"{HEALTH}/live", f"{HEALTH}/ready", "/livez", "/readyz")
PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


async def request(
    kit: ProjKit, path: str, *headers: tuple[bytes, bytes], method: str = "GET", root_path: str = ""
) -> tuple[list[Message], Message]:
    """Return the messages that a kit sends, and the scope afterwards."""
    scope = http_scope(path, method, [(b"host", b"here"), *headers], root_path=root_path)
    return await call(kit, scope, body()), scope


def content_of(sent: list[Message]) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers except those that always differ, and body."""
    start, body = sent
    headers = dict(start["headers"])
    assert len(headers) == len(start["headers"])
    for varying in (b"x-process-time", b"server-timing", b"x-request-id"):
        assert headers.pop(varying)
    return start["status"], headers, body["body"]


@pytest.fixture
def normal_path_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of requests that reach the application, where the normal path ends."""
    seen: list[str] = []
    call = Application.__call__

    async def watched(self: Application, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[scope_keys.PATH])
        await call(self, scope, receive, send)

    monkeypatch.setattr(Application, "__call__", watched)
    return seen


@contextmanager
def access_log() -> Iterator[None]:
    """Enable the access log, as ``projkit serve`` does."""
    level = access_logger.level
    access_logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        access_logger.setLevel(level)


@contextmanager
def outer_trace() -> Iterator[None]:
    """Attach the span of a host's instrumentation around the kit."""
    context = trace.SpanContext(1, 2, is_remote=False)
    token = contexts.attach(trace.set_span_in_context(trace.NonRecordingSpan(context)))
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def nothing() -> Iterator[None]:
    """Change nothing."""
    yield


def make_kit(sqlite_url: str) -> ProjKit:
    """Create a kit that also serves the probes at the root."""
    return ProjKit(settings_for(sqlite_url, access_log_probes=True, health_root_paths=True))


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("state", ["starting", "ready", "draining"])
async def test_responses_equal_those_of_the_normal_path(
    sqlite_url: str, normal_path_requests: list[str], path: str, state: str
) -> None:
    """Status, headers, body and the route in the scope are the same on both paths."""
    kit = make_kit(sqlite_url)
    if state != "starting":
        await kit.startup()
    if state == "draining":
        kit.drain()
    try:
        fast, scope = await request(kit, path)
        assert normal_path_requests == []
        with access_log():
            normal, other_scope = await request(kit, path)
        assert normal_path_requests == [path]
        assert content_of(fast) == content_of(normal)
        assert scope[scope_keys.MATCHED_ROUTE] is other_scope[scope_keys.MATCHED_ROUTE]
        assert scope[scope_keys.MATCHED_ROUTE].path == path
        assert content_of(fast)[0] == (200 if state == "ready" or "live" in path else 503)
    finally:
        await kit.startup()  # a probe may have begun to start it
        await kit.shutdown()


@pytest.mark.parametrize(
    ("path", "root_path"),
    [(f"/kit{HEALTH}/live", "/kit"), (f"{HEALTH}/live", "/proxy"), (f"/api{HEALTH}/live", "/api")],
)
async def test_mounts(sqlite_url: str, normal_path_requests: list[str], path: str, root_path: str) -> None:
    """The fast path also serves a mounted kit and one behind a proxy, however the host writes the path."""
    status, _, body = content_of((await request(make_kit(sqlite_url), path, root_path=root_path))[0])
    assert (status, body, normal_path_requests) == (200, b'{"status":"ok"}', [])


async def test_ambiguous_root_path(sqlite_url: str, normal_path_requests: list[str]) -> None:
    """The normal path serves a probe if the mount's prefix could be a part of the kit's own path."""
    sent, _ = await request(make_kit(sqlite_url), f"{HEALTH}/live", root_path="/api")
    assert (content_of(sent)[0], normal_path_requests) == (200, [f"{HEALTH}/live"])


@pytest.mark.parametrize(
    ("around", "headers", "method"),
    [
        (access_log, (), "GET"),
        (outer_trace, (), "GET"),
        (nothing, (PARENT,), "GET"),
        (nothing, (), "HEAD"),
    ],
    ids=["a log line", "a host's trace", "a caller's trace", "another method"],
)
async def test_observed_requests_take_the_normal_path(
    sqlite_url: str, normal_path_requests: list[str], around: Callable[[], Any], headers: Any, method: str
) -> None:
    """A request whose trace, log line or metrics are observed takes the normal path."""
    with around():
        sent, _ = await request(make_kit(sqlite_url), f"{HEALTH}/live", *headers, method=method)
    assert (content_of(sent)[0], len(normal_path_requests)) == (200, 1)


async def test_requests_are_recorded(sqlite_url: str) -> None:
    """Requests are recorded under their route, and the client's request id is returned."""
    kit = make_kit(sqlite_url)
    path = f"{HEALTH}/live"
    for _ in range(3):
        sent, _ = await request(kit, path, (b"x-request-id", b"client-id"))
        assert dict(sent[0]["headers"])[b"x-request-id"] == b"client-id"
    stats = stats_by_endpoint(Internals(kit).recorder.read())[("GET", path)]
    assert stats.requests == 3
    ids = {dict((await request(kit, path))[0][0]["headers"])[b"x-request-id"] for _ in range(3)}
    assert len(ids) == 3


async def test_disconnects_are_recorded(sqlite_url: str) -> None:
    """A client that has disconnected when the response is sent is recorded as a disconnect."""
    kit = make_kit(sqlite_url)
    path = f"{HEALTH}/live"
    scope = (await request(kit, path))[1]

    async def send(_: Message) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await kit({**scope, scope_keys.MATCHED_ROUTE: None}, None, send)  # type: ignore[arg-type]
    table = Internals(kit).recorder.read()
    assert stats_by_endpoint(table)[("GET", path)].requests == 1
    assert table[("http_disconnects", ("GET", path))] == [1.0]
