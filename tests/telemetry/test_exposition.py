"""``/metrics`` returns what was counted."""

import asyncio
import gzip
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import Counter
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from projkit import ProjKit
from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.exposition import KitRegistry, render
from projkit.telemetry.processes import ProcessUsage
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.snapshot import KitInfo
from projkit.testing.internals import Internals
from tests.auth.asgi_client import ask
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def registry() -> KitRegistry:
    """A registry with many series and a metric of the host."""
    recorder = Recorder()
    for number in range(60):
        for status in (200, 404, 500):
            recorder.record_request("GET", f'/route/"{number}"\\n', status, number / 1000)
    recorder.record_disconnect("GET", "/gone")
    recorder.record_credential("bearer", "legacy", "accepted")
    registry = KitRegistry(RecorderCollector(recorder, KitInfo("1.2.3")))
    Counter("host_things", "Of the host's.", ("kind",), registry=registry).labels("one").inc(3)
    return registry


@pytest.mark.parametrize(
    ("accept", "at_once"),
    [
        ("", generate_latest),
        (OPENMETRICS, generate_openmetrics),
        (f"{OPENMETRICS}; q=0.0, */*", generate_latest),
    ],
    ids=["text", "openmetrics", "openmetrics refused"],
)
async def test_encoded_in_parts(
    registry: KitRegistry, accept: str, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding in parts gives byte for byte the library's output, including the host's series."""
    usage = [ProcessUsage(1, 2.0, 3, None, 1024, 4.0)]
    monkeypatch.setattr("projkit.telemetry.snapshot.process_usage", lambda _: usage)
    body, _ = await render(registry, accept)
    assert body == at_once(registry)
    assert b'host_things_total{kind="one"} 3.0' in body


async def test_event_loop_continues(registry: KitRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop runs other tasks while metrics are encoded."""
    monkeypatch.setattr("projkit.telemetry.yielding.SLICE_SECONDS", 0.0)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    await render(registry, "")
    task.cancel()
    assert turns > 20


def samples(families: Iterable[Any]) -> dict[tuple[str, ...], float]:
    """Return values by name and labels."""
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_formats(sqlite_url: str) -> None:
    """Both formats can be parsed, and contain each response by method, template and status."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        for _ in range(3):
            await ask(kit, "GET", "/api/v1/health/live")
        await ask(kit, "GET", "/none")
        plain = await ask(kit, "GET", "/metrics", address="127.0.0.1")
        headers = [("accept", OPENMETRICS), ("accept-encoding", "gzip")]
        packed = await ask(kit, "GET", "/metrics", headers, address="127.0.0.1")
    assert (plain.header("content-type") or "").startswith("text/plain")
    assert packed.header("content-encoding") == "gzip"
    assert (packed.header("content-type") or "").startswith("application/openmetrics-text")
    assert packed.header("vary") == "Accept, Accept-Encoding"
    name = "projkit_http_server_request_duration_seconds"
    live = ("method=GET", "route=/api/v1/health/live", "status=200")
    for found in (
        samples(parse(plain.body.decode())),
        samples(parse_openmetrics(gzip.decompress(packed.body).decode())),  # type: ignore[no-untyped-call]
    ):
        assert found[(f"{name}_count", *live)] == 3
        assert found[(f"{name}_count", "method=GET", "route=__unknown__", "status=404")] == 1
        assert found[("projkit_http_server_active_requests",)] == 1
        for bound in ("0.005", "0.01", "0.04", "+Inf"):
            assert (f"{name}_bucket", f"le={bound}", *live) in found


async def test_exceptions(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unhandled exceptions are counted by class."""
    kit = ProjKit(settings_for(sqlite_url))

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with kit.lifespan():
        monkeypatch.setattr(Internals(kit).monitoring.performance, "full", broken)
        answer = await ask(kit, "GET", "/api/v1/monitoring/metrics/performance", address="127.0.0.1")
    assert answer.status == 500
    labels = {"route": "/api/v1/monitoring/metrics/performance", "error_type": "ZeroDivisionError"}
    assert kit.registry.get_sample_value("projkit_http_server_exceptions_total", labels) == 1
