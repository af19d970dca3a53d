"""A host's MeterProvider receives durations by the conventions and the kit's metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from projkit import ProjKit
from tests.conftest import Client, settings_for
from tests.redis_servers import Redises
from tests.telemetry.test_traces import Spans

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
Points = list[tuple[dict[str, Any], Any]]


class Metrics:
    """A provider and its metrics."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def of(self, name: str) -> Points:
        """Return the attributes and points of a metric."""
        data = self._reader.get_metrics_data()
        if data is not None:
            encode_metrics(data)  # what could not be exported is of no use
        return [
            (dict(point.attributes or {}), point)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def metrics() -> Metrics:
    """A host's provider."""
    return Metrics()


@asynccontextmanager
async def metered(url: str, provider: Any, *, wrapped: bool = False, **changes: Any) -> AsyncIterator[Client]:
    """Open a client of a kit with this provider, mounted at ``/kit`` or wrapped around a host."""
    settings = settings_for(url, **changes)
    kit = ProjKit(settings, meter_provider=provider)

    async def page(_: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    routes: list[Any] = [Route("/host/{name}", page)]
    app: Any = Starlette(routes=routes) if wrapped else Starlette(routes=[*routes, Mount("/kit", kit)])
    async with kit.lifespan(), Client(kit.wrap(app, prefix="/kit") if wrapped else app, settings) as client:
        yield client


async def test_requests(sqlite_url: str, metrics: Metrics) -> None:
    """Each request is recorded by its full route, with the attributes of the conventions."""
    async with metered(sqlite_url, metrics.provider) as client:
        await client.get(f"/kit{URL}")
        await client.get(f"/kit{URL}/{uuid4()}")
        await client.request("BREW", "/kit/nowhere")
    found = metrics.of("http.server.request.duration")
    common = {"url.scheme": "http", "network.protocol.version": "1.1"}
    expected = [
        {"http.request.method": "GET", "http.response.status_code": 200, "http.route": f"/kit{URL}"},
        {"http.request.method": "GET", "http.response.status_code": 404, "http.route": f"/kit{URL}/{{project_id}}"},
        {"http.request.method": "_OTHER", "http.response.status_code": 404},
    ]  # fmt: skip
    assert [attributes for attributes, _ in found] == [{**common, **each} for each in expected]
    assert [point.count for _, point in found] == [1, 1, 1]
    assert 0.04 in found[0][1].explicit_bounds


async def test_failures(sqlite_url: str, metrics: Metrics) -> None:
    """A server error has an ``error.type``: the exception class or the status."""

    def get_principal(_: Any) -> Any:
        raise LookupError

    kit = ProjKit(settings_for(sqlite_url), meter_provider=metrics.provider, get_principal=get_principal)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        await client.get(URL)
        kit.drain()
        await client.get("/api/v1/health/ready")
    kinds = {attributes.get("error.type") for attributes, _ in metrics.of("http.server.request.duration")}
    assert kinds == {"LookupError", "503"}


async def test_wrapped_host_requests(sqlite_url: str, metrics: Metrics) -> None:
    """Requests of a wrapped host are recorded by their templates."""
    async with metered(sqlite_url, metrics.provider, wrapped=True) as client:
        await client.get("/host/anybody")
        await client.get(f"/kit{URL}")
    routes = {attributes["http.route"] for attributes, _ in metrics.of("http.server.request.duration")}
    assert routes == {"/host/{name}", f"/kit{URL}"}


async def test_statements_and_commands(any_database_url: str, metrics: Metrics, redis_alone: Redises) -> None:
    """Statements and Redis commands share a histogram, distinguished by their system."""
    changes: dict[str, Any] = {"redis_url": redis_alone.url, "redis_prefix": f"{uuid4().hex}:"}
    async with metered(any_database_url, metrics.provider, **changes) as client:
        await client.get(f"/kit{URL}")
        await client.post("/kit/api/v1/auth/login", json={"username": "nobody", "password": "anything"})
        for _ in range(2):
            await client.post(f"/kit{URL}", json={"name": "A", "external_id": "once"})
    found = metrics.of("db.client.operation.duration")
    dialect = "postgresql" if any_database_url.startswith("postgresql") else "sqlite"
    assert {attributes["db.system.name"] for attributes, _ in found} == {dialect, "redis"}
    reads = {
        "db.system.name": dialect,
        "db.operation.name": "SELECT",
        "db.collection.name": "projkit_projects",
    }
    assert reads in [attributes for attributes, _ in found]
    (failed,) = (attributes for attributes, _ in found if "error.type" in attributes)
    assert failed["db.operation.name"] == "INSERT"


async def test_the_kits_own_counts(sqlite_url: str, metrics: Metrics) -> None:
    """The kit's Prometheus metrics are available as instruments with dotted names."""
    async with metered(sqlite_url, metrics.provider) as client:
        await client.get(f"/kit{URL}")
        await client.get(f"/kit{URL}", headers={"Authorization": "Bearer nonsense"})
        credentials = metrics.of("projkit.auth.credentials")
        health = metrics.of("projkit.health.check.status")
    assert {attributes["outcome"]: point.value for attributes, point in credentials} == {
        "accepted": 1,
        "refused": 1,
    }
    assert {"check": "database"} in [attributes for attributes, _ in health]


async def test_requests_counted_by_the_host(sqlite_url: str, metrics: Metrics) -> None:
    """A request that the host's instrumentation counts is not counted again."""
    tracer = Spans().provider.get_tracer("host")
    async with metered(sqlite_url, metrics.provider) as client:
        with tracer.start_as_current_span("GET"):
            await client.get(f"/kit{URL}")
    assert metrics.of("http.server.request.duration") == []


async def test_provider_factory(sqlite_url: str, metrics: Metrics) -> None:
    """A provider factory is called once, and a second event loop creates no second instruments."""
    asked: list[int] = []

    def provider() -> MeterProvider:
        asked.append(1)
        return metrics.provider

    kit = ProjKit(settings_for(sqlite_url), meter_provider=provider)
    assert asked == []
    for _ in range(2):
        async with kit.lifespan(), Client(kit, kit.settings) as client:
            await client.get(URL)
    assert len(asked) == 1
    assert [point.count for _, point in metrics.of("http.server.request.duration")] == [2]


@pytest.mark.parametrize("provider", [None, NoOpMeterProvider()])
async def test_without_a_provider(sqlite_url: str, provider: Any) -> None:
    """Without a provider nothing is recorded."""
    async with metered(sqlite_url, provider) as client:
        answer = await client.get(f"/kit{URL}")
    assert answer.status_code == 200
