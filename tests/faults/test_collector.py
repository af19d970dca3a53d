"""``projkit serve`` with working and failing OpenTelemetry collectors."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from projkit.testing.servers import free_port
from tests.faults.conftest import Server, headers, serve
from tests.telemetry.otlp import Collector

# Runs in every process from its start, like a busy library that is instrumented.
BUSY = """
import threading, time

def work():
    from opentelemetry import trace
    tracer = trace.get_tracer("busy")
    while True:
        tracer.start_span("work").end()
        time.sleep(0.002)

threading.Thread(target=work, daemon=True).start()
"""
# How long a stop waits for a collector, and how long it takes otherwise on a busy machine.
STOPS_WITHIN = 5.0 + 5.0
VARIABLES = {
    "OTEL_BSP_MAX_QUEUE_SIZE": "200",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
}


@contextmanager
def busy_server(
    directory: Path, database_url: str, endpoint: str, workers: int, **more: str
) -> Iterator[Server]:
    """Run a server whose workers create spans all the time."""
    (directory / "sitecustomize.py").write_text(BUSY)
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    with serve(
        database_url,
        arguments=("--workers", str(workers)),
        file_bytes=None,
        PYTHONPATH=path,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        **(VARIABLES | more),
    ) as server:
        yield server


def slowest(server: Server, seconds: float) -> float:
    """Send requests one after the other, check that all succeed, and return the seconds of the slowest."""
    longest, end = 0.0, time.monotonic() + seconds
    with httpx2.Client(headers=headers()) as client:
        while time.monotonic() < end:
            began = time.monotonic()
            assert client.get(server.projects).status_code == 200
            longest = max(longest, time.monotonic() - began)
    return longest


def stop(server: Server) -> float:
    """Stop a server, check its exit status, and return the seconds that took."""
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log_text
    return time.monotonic() - began


@pytest.mark.parametrize("workers", [1, 2])
def test_a_collector_that_works(tmp_path: Path, sqlite_url: str, workers: int) -> None:
    """Each worker exports with its own instance id, and what is buffered at the stop is exported."""
    with (
        Collector() as collector,
        busy_server(
            tmp_path, sqlite_url, collector.endpoint, workers, OTEL_BSP_MAX_QUEUE_SIZE="20000"
        ) as server,
    ):
        slowest(server, 1.0)
        collector.wait(lambda each: len({span.resource["process.pid"] for span in each.spans}) == workers)
        last = time.time()
        assert stop(server) < STOPS_WITHIN
        assert len({span.resource["service.instance.id"] for span in collector.spans}) == workers
        assert max(span.end for span in collector.spans) > last
        names = {metric.name for metric in collector.metrics if metric.scope == "projkit"}
        assert {"http.server.request.duration", "db.client.operation.duration"} <= names
        assert {"projkit.auth.credentials", "projkit.health.check.critical"} <= names
        assert "export of" not in server.log_text
        assert "Traceback" not in server.log_text


@pytest.mark.parametrize(("trouble", "workers"), [("hangs", 1), ("hangs", 2), ("is gone", 1), ("refuses", 1)])
def test_a_collector_that_fails(tmp_path: Path, sqlite_url: str, trouble: str, workers: int) -> None:
    """With a failing collector the server starts, responds as usual and stops in time, and its log is not flooded."""
    with Collector() as collector:
        collector.mute = trouble == "hangs"
        collector.status = 503 if trouble == "refuses" else 200
        endpoint = f"http://127.0.0.1:{free_port()}" if trouble == "is gone" else collector.endpoint
        with busy_server(tmp_path, sqlite_url, endpoint, workers) as server:
            longest = slowest(server, 2.0)
            seconds = stop(server)
            log = server.log_text
    print(f"\n{trouble}, {workers}: slowest response {longest * 1e3:.0f} ms, stopped in {seconds:.1f} s")  # noqa: T201
    assert longest < 1
    assert seconds < STOPS_WITHIN
    failures = [line for line in log.splitlines() if " failed: " in line and "export of" in line]
    assert 1 <= len(failures) <= 2 * workers  # of spans, and maybe of metrics
    assert "Traceback" not in log
    assert "opentelemetry" not in log
