"""Each request has one connected trace in every host, as a collector gets it over OTLP."""

from collections.abc import Iterator
from typing import NamedTuple
from uuid import uuid4

import httpx2
import pytest

from tests.hosts.conftest import Served, started
from tests.telemetry.otlp import Collector, Span

URL = "/kit/api/v1/projects"
PARENT = "00f067aa0ba902b7"
HOSTS = [
    *(
        (host, "plain")
        for host in ("bare", "starlette", "fastapi", "litestar", "quart", "django", "blacksheep")
    ),
    *((host, "instrumented") for host in ("starlette", "fastapi", "django")),
    *((host, "wrapped") for host in ("bare", "starlette", "fastapi", "litestar", "quart", "django")),
]
OLD = {
    "http.method",
    "http.status_code",
    "http.url",
    "http.target",
    "http.scheme",
    "http.flavor",
    "net.host.name",
}


class Scene(NamedTuple):
    """A running host, the collector it exports to, and how it is traced."""

    served: Served
    collector: Collector
    host: str
    traced: str

    @property
    def by_framework(self) -> bool:
        """True if the framework creates the server span: FastAPI by itself, Django inside the kit's wrapper."""
        return (self.host == "fastapi" and self.traced == "plain") or self.traced == "instrumented"


@pytest.fixture(scope="module", params=HOSTS, ids=" ".join)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run each host."""
    host, traced = request.param
    directory = tmp_path_factory.mktemp("traced")
    with Collector() as collector:
        variables = {
            "HOST": host,
            "TRACED": traced,
            "LAYOUT": "siblings",
            "PROJKIT_DATABASE_URL": f"sqlite:///{directory / 'projkit.db'}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            **({"OTEL_SEMCONV_STABILITY_OPT_IN": "http"} if traced == "instrumented" else {}),
        }
        served_by = started(
            "uvicorn", "tests.hosts.traced_app:create_app", directory, "/kit/api/v1/health/live", variables
        )
        with served_by as served:
            yield Scene(served, collector, host, traced)


def ask(
    scene: Scene, path: str, *, method: str = "GET", content: str | None = None
) -> tuple[httpx2.Response, list[Span]]:
    """Send a request in a new trace; return the response and all spans of the trace."""
    trace_id = uuid4().hex
    with scene.served.client() as client:
        answer = client.request(
            method,
            path,
            content=content,
            headers={"traceparent": f"00-{trace_id}-{PARENT}-01", "Content-Type": "application/json"},
        )

    def arrived(collector: Collector) -> bool:
        return any(span.trace_id == trace_id and span.kind == "SERVER" for span in collector.spans)

    scene.collector.wait(arrived)
    return answer, [span for span in scene.collector.spans if span.trace_id == trace_id]


def require_one_tree(spans: list[Span]) -> Span:
    """Check that all spans form one tree below one server span of the caller, and return that span."""
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    (server,) = (span for span in spans if span.kind == "SERVER")
    assert server.parent_id == PARENT
    assert all(span.parent_id in ids for span in spans if span is not server)
    return server


@pytest.mark.parametrize(
    ("method", "path", "route", "status", "statements"),
    [
        ("POST", URL, URL, 201, {"INSERT projkit_projects"}),
        ("GET", f"{URL}?q=canary", URL, 200, {"SELECT projkit_projects"}),
        (
            "GET",
            f"{URL}/0192f0c1-1111-7000-8000-000000000000",
            f"{URL}/{{project_id}}",
            404,
            {"SELECT projkit_projects"},
        ),
        ("POST", f"{URL}/", None, 404, set()),
    ],
)
def test_a_request_to_the_kit(
    scene: Scene, method: str, path: str, route: str | None, status: int, statements: set[str]
) -> None:
    """There is one server span with the whole route and each statement once below it; the response names the trace."""
    answer, spans = ask(scene, path, method=method, content='{"name": "A"}' if method == "POST" else None)
    server = require_one_tree(spans)
    assert (answer.status_code, server.attributes["http.response.status_code"]) == (status, status)
    if route is not None:
        assert (server.name, server.attributes["http.route"]) == (f"{method} {route}", route)
    assert server.attributes["http.request.method"] == method
    assert OLD.isdisjoint(server.attributes)
    clients = [span for span in spans if span.kind == "CLIENT"]
    assert len({span.attributes["db.query.text"] for span in clients}) == len(clients)
    assert statements <= {span.name for span in clients}
    assert {span.parent_id for span in clients} <= {server.span_id}
    assert answer.headers["traceresponse"].split("-")[1:3] == [server.trace_id, server.span_id]
    assert (server.scope == "projkit") == (not scene.by_framework or scene.host == "django")
    assert "canary" not in str([span for span in spans if span.scope == "projkit"])


def test_a_failure_names_its_trace(scene: Scene) -> None:
    """The problem's ``trace_id`` is that of the exported trace."""
    answer, spans = ask(scene, f"{URL}?nonsense=1")
    assert answer.json()["trace_id"] == require_one_tree(spans).trace_id


def test_a_request_to_the_host(scene: Scene) -> None:
    """The host's pages have one server span if the host is instrumented, with the route and no query."""
    if scene.traced == "plain" and not scene.by_framework:
        with scene.served.client() as client:
            client.get("/host/hello", headers={"traceparent": f"00-{uuid4().hex}-{PARENT}-01"})
        ask(scene, URL)  # earlier spans have arrived by now
        assert not any("host/hello" in span.name for span in scene.collector.spans)
        return
    answer, spans = ask(scene, "/host/hello?q=canary")
    server = require_one_tree(spans)
    assert (answer.status_code, server.attributes["http.response.status_code"]) == (200, 200)
    assert OLD.isdisjoint(server.attributes)
    if scene.traced == "wrapped":
        assert [span.kind for span in spans] == ["SERVER"]
        assert "canary" not in str(spans)
        assert "traceresponse" in answer.headers
    if scene.host != "bare":
        route = "host/hello" if scene.host == "django" and scene.traced == "instrumented" else "/host/hello"
        assert (server.name, server.attributes["http.route"]) == (f"GET {route}", route)


def test_probes_leave_no_traces(scene: Scene) -> None:
    """The kit begins no trace for a probe; the host's own instrumentation may."""
    with scene.served.client() as client:
        client.get("/kit/api/v1/health/ready")
    ask(scene, URL)
    probes = [span for span in scene.collector.spans if "/health/" in span.name]
    assert not probes or (scene.by_framework and scene.host != "django")
