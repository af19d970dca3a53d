"""Spans of requests, database statements and Redis commands."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.routing import Mount

from projkit import Principal, ProjKit
from tests.auth.asgi_client import Answer, ask
from tests.conftest import Client, settings_for, token_for
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
NOBODYS = "0192f0c1-1111-7000-8000-000000000000"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Spans:
    """A provider that stores its spans."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> Sequence[ReadableSpan]:
        """Return the spans that have ended since the last call."""
        found = self._exporter.get_finished_spans()
        self._exporter.clear()
        return found

    def server(self) -> ReadableSpan:
        """Return the only server span."""
        (found,) = (span for span in self.all() if span.kind is SpanKind.SERVER)
        return found


@pytest.fixture
def spans() -> Spans:
    """A provider that samples every trace."""
    return Spans()


@asynccontextmanager
async def traced(url: str, provider: Any, *, mount: str = "", **options: Any) -> AsyncIterator[Client]:
    """Open a client of a kit with this provider, optionally mounted in Starlette."""
    changes = options.pop("changes", {})
    settings = settings_for(url, **changes)
    kit = ProjKit(settings, tracer_provider=provider, **options)
    app = Starlette(routes=[Mount(mount, kit)]) if mount else kit
    async with kit.lifespan(), Client(app, settings) as client:
        yield client


@pytest.fixture
async def client(sqlite_url: str, spans: Spans) -> AsyncIterator[Client]:
    """A client of a kit whose spans are stored."""
    async with traced(sqlite_url, spans.provider) as opened:
        yield opened


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


@pytest.mark.parametrize(
    ("method", "path", "status", "name", "route"),
    [
        ("GET", URL, 200, f"GET {URL}", URL),
        ("GET", f"{URL}/{NOBODYS}?q=canary", 404, f"GET {URL}/{{project_id}}", f"{URL}/{{project_id}}"),
        ("POST", URL, 415, f"POST {URL}", URL),
        ("BREW", URL, 405, f"HTTP {URL}", URL),
        ("GET", "/somewhere/canary", 404, "GET", None),
        ("OPTIONS", URL, 204, f"OPTIONS {URL}", URL),
    ],
)
async def test_server_span_attributes(
    client: Client, spans: Spans, method: str, path: str, status: int, name: str, route: str | None
) -> None:
    """Each request has one server span, named by method and route, with the conventions' attributes and no query."""
    answer = await client.request(method, path, headers={"User-Agent": "tests/1", "Host": "kit.test:8443"})
    span = spans.server()
    found = attributes(span)
    known = "_OTHER" if method == "BREW" else method
    assert (answer.status_code, span.name) == (status, name)
    assert span.parent is None
    assert found.pop("network.peer.port") > 0
    assert found.pop("http.route", None) == route
    assert found.pop("http.request.method_original", None) == (method if known == "_OTHER" else None)
    assert found == {
        "http.request.method": known, "http.response.status_code": status, "url.path": path.partition("?")[0],
        "url.scheme": "http", "network.protocol.version": "1.1", "user_agent.original": "tests/1",
        "server.address": "kit.test", "server.port": 8443, "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
    }  # fmt: skip
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "projkit"


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("[::1]:9", {"server.address": "::1", "server.port": 9}),
        ("kit.test", {"server.address": "kit.test", "server.port": 80}),
        ("kit.test:http", {"server.address": "testserver", "server.port": 80}),
        ("[", {"server.address": "testserver", "server.port": 80}),
        ("", {"server.address": "testserver", "server.port": 80}),
    ],
)
async def test_whatever_a_client_calls_us(
    client: Client, spans: Spans, host: str, server: dict[str, Any]
) -> None:
    """An invalid Host header is replaced by the server's address."""
    await ask(client.app, "GET", URL, headers=[("Host", host)])
    found = attributes(spans.server())
    assert {name: found[name] for name in server} == server


@pytest.mark.parametrize("mount", ["/kit", "/deep/er"])
async def test_route_includes_mount(sqlite_url: str, spans: Spans, mount: str) -> None:
    """Name, route and path include the mount."""
    async with traced(sqlite_url, spans.provider, mount=mount) as client:
        await client.get(f"{mount}{URL}/{uuid4()}")
    span = spans.server()
    assert span.name == f"GET {mount}{URL}/{{project_id}}"
    assert attributes(span)["http.route"] == f"{mount}{URL}/{{project_id}}"
    assert attributes(span)["url.path"].startswith(f"{mount}{URL}/")


async def test_a_mount_with_parameters_makes_one_name(sqlite_url: str, spans: Spans) -> None:
    """A mount with parameters is named by its template."""
    async with traced(sqlite_url, spans.provider, mount="/of/{tenant}") as client:
        for number in range(20):
            await client.get(f"/of/{number}{URL}")
    assert {span.name for span in spans.all() if span.kind is SpanKind.SERVER} == {f"GET /of/{{tenant}}{URL}"}


@pytest.mark.parametrize("sampled", [True, False])
async def test_the_caller_decides(sqlite_url: str, sampled: bool) -> None:
    """A sampled caller's request is recorded below it, an unsampled one is not; both get the header."""
    spans = Spans(ParentBased(ALWAYS_OFF))
    async with traced(sqlite_url, spans.provider) as client:
        answer = await client.get(URL, headers={"traceparent": f"00-{TRACE}-{PARENT}-0{int(sampled)}"})
        nobody = await client.get(URL)
    _, trace_id, span_id, flags = answer.headers["traceresponse"].split("-")
    assert (trace_id, int(flags, 16) & 1) == (TRACE, int(sampled))
    assert "traceresponse" not in nobody.headers
    found = spans.all()
    if not sampled:
        assert found == ()
        return
    server = next(span for span in found if span.kind is SpanKind.SERVER)
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == PARENT
    assert f"{server.context.span_id:016x}" == span_id
    assert {f"{span.context.trace_id:032x}" for span in found} == {TRACE}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        "canary",
        f"00-{'0' * 32}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
    ],
)
async def test_a_parent_that_cannot_be_read(client: Client, spans: Spans, header: str) -> None:
    """An invalid ``traceparent`` starts a trace of its own."""
    answer = await client.get(URL, headers={"traceparent": header})
    span = spans.server()
    assert (answer.status_code, span.parent) == (200, None)
    assert f"{span.context.trace_id:032x}" in answer.headers["traceresponse"]


async def test_tracestate_and_baggage_are_passed_on(sqlite_url: str, spans: Spans) -> None:
    """``tracestate`` is propagated, and host code sees the caller's baggage and the span."""
    seen: list[Any] = []

    def get_principal(_: Any) -> Principal:
        seen.append((baggage.get_baggage("tenant"), trace.get_current_span()))
        return Principal("alice", frozenset({"projects:read"}))

    async with traced(sqlite_url, spans.provider, get_principal=get_principal) as client:
        await client.get(
            URL,
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1", "baggage": "tenant=acme"},
        )
    ((tenant, current),) = seen
    server = spans.server()
    assert tenant == "acme"
    assert current.get_span_context() == server.context
    assert server.context.trace_state.to_header() == "a=1"
    assert not trace.get_current_span().get_span_context().is_valid


async def test_host_code_in_unrecorded_request(sqlite_url: str) -> None:
    """Host code sees that a request is not recorded, so that it starts no trace of its own."""
    spans = Spans(ParentBased(ALWAYS_OFF))
    seen: list[trace.SpanContext] = []

    def get_principal(_: Any) -> Principal:
        with spans.provider.get_tracer("host").start_as_current_span("look up") as span:
            seen.append(span.get_span_context())
        return Principal("alice", frozenset({"projects:read"}))

    async with traced(sqlite_url, spans.provider, get_principal=get_principal) as client:
        await client.get(URL)
        await client.get(URL, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert spans.all() == ()
    assert all(each.is_valid for each in seen)
    assert f"{seen[1].trace_id:032x}" == TRACE


@pytest.mark.parametrize(
    "path", ["/api/v1/health", "/api/v1/health/live", "/api/v1/health/ready", "/metrics"]
)
async def test_probes_and_scrapes_begin_no_traces(client: Client, spans: Spans, path: str) -> None:
    """Probes start no traces, but join one of their caller."""
    await client.get(path)
    assert spans.all() == ()
    await client.get(path, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert spans.server().name == f"GET {path}"


async def test_an_unhandled_exception(
    sqlite_url: str, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception's class is the span's ``error.type``, without its message; response and log have the trace id."""

    def get_principal(_: Any) -> Principal:
        raise LookupError("canary")

    async with traced(sqlite_url, spans.provider, get_principal=get_principal) as client:
        answer = await client.get(URL)
    span = spans.server()
    found = attributes(span)
    assert (answer.status_code, found["error.type"], found["http.response.status_code"]) == (
        500,
        "LookupError",
        500,
    )
    assert span.status.status_code is StatusCode.ERROR
    assert "canary" not in span.to_json()
    trace_id = f"{span.context.trace_id:032x}"
    assert answer.json()["trace_id"] == trace_id
    assert [record.trace_id for record in caplog.records if record.name == "projkit"] == [trace_id]  # type: ignore[attr-defined]


async def test_a_503_is_an_error_of_the_server(sqlite_url: str, spans: Spans) -> None:
    """The status of a 5xx response is its ``error.type``."""
    async with traced(sqlite_url, spans.provider) as client:
        kit: ProjKit = client.app
        kit.drain()
        answer = await client.get("/api/v1/health/ready", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    span = spans.server()
    assert (answer.status_code, attributes(span)["error.type"]) == (503, "503")
    assert span.status.status_code is StatusCode.ERROR


async def test_statements_have_spans(any_database_url: str, spans: Spans) -> None:
    """Each statement has a client span with operation, table and number of rows, but no values."""
    async with traced(any_database_url, spans.provider) as client:
        project = await client.project(name="canary", external_id="canary-2")
        spans.all()
        began = time.time_ns()
        await client.get(f"{URL}?q=canary")
        await client.get(f"{URL}/{project['id']}")
        ended = time.time_ns()
    dialect = "postgresql" if any_database_url.startswith("postgresql") else "sqlite"
    found = spans.all()
    servers = [span for span in found if span.kind is SpanKind.SERVER]
    statements = [span for span in found if span.kind is SpanKind.CLIENT]
    reads = [span for span in statements if attributes(span)["db.collection.name"] == "projkit_projects"]
    assert [attributes(span)["db.response.returned_rows"] for span in reads] == [1, 1]
    for span in statements:
        said = attributes(span)
        assert said["db.system.name"] == dialect
        assert said["db.operation.name"] == "SELECT"
        assert span.name == said["db.query.summary"] == f"SELECT {said['db.collection.name']}"
        assert said["db.query.text"].startswith("SELECT")
        assert ("server.address" in said, "db.namespace" in said) == (dialect == "postgresql",) * 2
        assert span.parent is not None
        assert span.parent.span_id in {server.context.span_id for server in servers}
        assert began <= (span.start_time or 0) <= (span.end_time or 0) <= ended
        assert "canary" not in span.to_json()


async def test_writes_have_spans(any_database_url: str, spans: Spans) -> None:
    """Statements of a transaction have spans, with the number of rows."""
    async with traced(any_database_url, spans.provider) as client:
        await client.post(URL, json={"name": "canary"}, headers={"Idempotency-Key": "canary"})
    inserts = [span for span in spans.all() if span.name == "INSERT projkit_projects"]
    assert [attributes(span)["db.response.returned_rows"] for span in inserts] == [1]


async def test_a_statement_that_fails(any_database_url: str, spans: Spans) -> None:
    """The span of a failed statement has the error's class and SQLSTATE, but not its message."""
    async with traced(any_database_url, spans.provider) as client:
        for _ in range(2):
            answer = await client.post(URL, json={"name": "A", "external_id": "canary"})
    assert answer.status_code == 409
    (failed,) = (span for span in spans.all() if span.status.status_code is StatusCode.ERROR)
    said = attributes(failed)
    assert said["error.type"] in {"UniqueViolationError", "IntegrityError"}
    if any_database_url.startswith("postgresql"):
        assert said["db.response.status_code"] == "23505"
    assert "canary" not in failed.to_json()


async def test_commands_have_spans(sqlite_url: str, spans: Spans, redis_alone: Redises) -> None:
    """Each Redis command has a client span without keys and values."""
    changes = {"redis_url": redis_alone.url, "redis_prefix": f"{uuid4().hex}:", "session_cache_seconds": 0}
    async with traced(sqlite_url, spans.provider, changes=changes) as client:
        answer = await client.post(
            "/api/v1/auth/login", json={"username": "nobody", "password": "canary of a password"}
        )
    assert answer.status_code == 401
    found = spans.all()
    commands = [span for span in found if attributes(span).get("db.system.name") == "redis"]
    assert commands
    for span in commands:
        said = attributes(span)
        assert span.name == said["db.operation.name"]
        assert said["server.address"] == "127.0.0.1"
        assert "db.query.text" not in said
        assert (span.kind, "canary" in span.to_json()) == (SpanKind.CLIENT, False)


async def test_a_hosts_engine(any_database_url: str, spans: Spans) -> None:
    """With a host's engine the spans are the same."""
    url = any_database_url.replace("postgresql://", "postgresql+asyncpg://").replace(
        "sqlite:", "sqlite+aiosqlite:"
    )
    engine = create_async_engine(url)
    try:
        async with traced(any_database_url, spans.provider, engine=engine) as client:
            await client.get(URL)
    finally:
        await engine.dispose()
    reads = [span for span in spans.all() if attributes(span).get("db.collection.name") == "projkit_projects"]
    assert [attributes(span)["db.response.returned_rows"] for span in reads] == [0]


async def test_host_code_and_tasks(any_database_url: str, spans: Spans) -> None:
    """Calls of ``kit.projects`` have spans below the host's span, and none without one."""
    kit = ProjKit(settings_for(any_database_url), tracer_provider=spans.provider)
    async with kit.lifespan():
        await kit.projects.create(Principal("alice"), name="A")
        assert spans.all() == ()
        with spans.provider.get_tracer("host").start_as_current_span("task") as task:
            page = await kit.projects.list(Principal("alice"))
    (statement, _) = spans.all()
    assert (len(page.items), statement.name) == (1, "SELECT projkit_projects")
    assert statement.parent == task.get_span_context()


class Choosy(Sampler):
    """A sampler that decides by attributes of the request."""

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, kind: Any = None, attributes: Any = None,
        links: Any = None, trace_state: Any = None,
    ) -> SamplingResult:  # fmt: skip
        wanted = kind is not SpanKind.SERVER or (attributes or {}).get("url.path", "").endswith("summary")
        return SamplingResult(Decision.RECORD_AND_SAMPLE if wanted else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "Choosy"


async def test_attribute_sampler(sqlite_url: str) -> None:
    """A host's own sampler gets the attributes of the request."""
    spans = Spans(Choosy())
    async with traced(sqlite_url, spans.provider) as client:
        await client.get(URL)
        await client.get(f"{URL}/stats/summary")
    assert spans.server().name == f"GET {URL}/stats/summary"


class Broken(SpanProcessor):
    """A processor that fails when spans start or end."""

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        self._fail("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end")

    def _fail(self, moment: str) -> None:
        if moment == self._when:
            raise RuntimeError("broken")


@pytest.mark.parametrize("when", ["start", "end"])
async def test_failing_tracing(sqlite_url: str, when: str, caplog: pytest.LogCaptureFixture) -> None:
    """Requests are served untraced, which is logged once."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(when))
    async with traced(sqlite_url, provider) as client:
        answers = [await client.get(URL) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert sum("requests are served untraced" in record.getMessage() for record in caplog.records) == 1


async def test_provider_factory(sqlite_url: str, spans: Spans) -> None:
    """A provider factory is called at the first request, once."""
    asked: list[int] = []

    def provider() -> TracerProvider:
        asked.append(1)
        return spans.provider

    async with traced(sqlite_url, provider) as client:
        assert asked == []
        await client.get(URL)
        await client.get(URL)
    assert (len(asked), len([span for span in spans.all() if span.kind is SpanKind.SERVER])) == (1, 2)


@pytest.mark.parametrize("provider", [None, trace.NoOpTracerProvider()])
async def test_without_a_provider(sqlite_url: str, provider: Any) -> None:
    """Without a provider there is no header, and a problem has the caller's trace id."""
    async with traced(sqlite_url, provider) as client:
        alone = await client.get("/nowhere")
        called = await client.get("/nowhere", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert "traceresponse" not in alone.headers
    assert "trace_id" not in alone.json()
    assert called.json()["trace_id"] == TRACE


@pytest.fixture
def secrets() -> dict[str, str]:
    """Secrets that must not appear."""
    return {
        name: f"canary-{name}-{uuid4().hex}" for name in ("password", "cookie", "header", "query", "csrf")
    }


async def test_secrets_are_in_no_span(any_database_url: str, spans: Spans, secrets: dict[str, str]) -> None:
    """Tokens, cookies, passwords, queries and the database URL appear in no span."""
    async with traced(any_database_url, spans.provider) as client:
        token = token_for(client.kit_settings, "alice")
        headers = [
            ("Authorization", f"Bearer {token}"), ("Cookie", f"auth_token={secrets['cookie']}"),
            ("X-Secret", secrets["header"]), ("X-CSRF-Token", secrets["csrf"]),
        ]  # fmt: skip
        answers: list[Answer] = [
            await ask(client.app, "GET", URL, headers, query=f"q={secrets['query']}"),
            await ask(client.app, "GET", "/api/v1/auth/oidc/none/callback", headers, query=f"code={secrets['query']}"),
            await ask(
                client.app, "POST", "/api/v1/auth/login",
                json={"username": "alice", "password": secrets["password"]},
            ),
        ]  # fmt: skip
    exported = "".join(span.to_json() for span in spans.all())
    assert len(answers) == 3
    for secret in (token, *secrets.values(), any_database_url):
        assert secret not in exported


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
async def test_exemplars_are_of_traces_that_are_kept(sqlite_url: str, sampler: Sampler) -> None:
    """An exemplar names only traces that are recorded."""
    spans = Spans(ParentBased(sampler))
    async with traced(sqlite_url, spans.provider) as client:
        await client.get(URL)
        scraped = await ask(
            client.app,
            "GET",
            "/metrics",
            headers=[("Accept", "application/openmetrics-text")],
            address="127.0.0.1",
        )
    lines = [line for line in scraped.body.decode().splitlines() if "trace_id" in line]
    recorded = [f"{span.context.trace_id:032x}" for span in spans.all() if span.kind is SpanKind.SERVER]
    assert [line.partition('trace_id="')[2][:32] for line in lines] == recorded
    assert len(recorded) == (sampler is ALWAYS_ON)
