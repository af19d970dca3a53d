"""Exported telemetry arrives, every span is counted with its outcome, and no request waits."""

import asyncio
import gc
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Tracer
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from projkit import __version__
from projkit.cli.otel import export_log, read_export_settings
from projkit.cli.otel.export_log import ExportLog
from projkit.cli.otel.providers import TelemetryProviders
from projkit.testing.servers import free_port
from tests.telemetry.otlp import Collector

SDK = tuple(map(int, version("opentelemetry-sdk").split(".")[:2]))
# Time enough for an export that fails, and none for a second try of it.
IMPATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.7"}
# What a stop may take, and what a busy machine adds to it.
STOPS_WITHIN = 5.0 + 2.0


class Exporting:
    """The providers of a worker, created from variables, and the outcomes of their spans."""

    def __init__(self, trace_ratio: float = 1.0) -> None:
        export = read_export_settings(os.environ, trace_ratio)
        assert export is not None
        self.counts: Counter[str] = Counter()
        self.telemetry = TelemetryProviders(export, self._count)

    def _count(self, outcome: str, count: int) -> None:
        assert count > 0
        self.counts[outcome] += count

    @property
    def tracer(self) -> Tracer:
        """A tracer of the provider."""
        assert self.telemetry.tracer_provider is not None
        tracer = self.telemetry.tracer_provider.get_tracer("tests", "1.2")
        assert isinstance(tracer, Tracer)
        return tracer

    def spans(self, count: int, name: str = "span") -> None:
        """End ``count`` spans."""
        tracer = self.tracer
        for _ in range(count):
            tracer.start_span(name).end()

    def close(self) -> float:
        """Close the providers and return the seconds that took."""
        began = time.monotonic()
        asyncio.run(self.telemetry.close())
        return time.monotonic() - began


Open = Callable[..., Exporting]


@pytest.fixture
def export_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A function that opens providers for an endpoint, which are closed after the test."""
    opened = []

    def open_(endpoint: str, ratio: float = 1.0, **variables: str) -> Exporting:
        for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}.items():
            monkeypatch.setenv(name, value)
        opened.append(Exporting(ratio))
        return opened[-1]

    yield open_
    for each in opened:
        if each.telemetry.tracer_provider is not None and not each.telemetry.accounting.stopping:
            each.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A working collector."""
    with Collector() as opened:
        yield opened


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines of the kit's logger."""
    return [record.getMessage() for record in caplog.records if record.name == "projkit"]


def test_spans_arrive(collector: Collector, export_to: Open) -> None:
    """A span arrives with its parent, kind, attributes, events, status and resource."""
    exporting = export_to(collector.endpoint)
    with exporting.tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as outer:
        outer.set_attribute("http.route", "/projects")
        with exporting.tracer.start_as_current_span("inner") as inner:
            inner.add_event("happened", {"times": 2})
            inner.set_status(Status(StatusCode.ERROR, "it broke"))
    exporting.close()
    inner_span, outer_span = collector.spans
    assert (outer_span.name, outer_span.kind, outer_span.parent_id) == ("outer", "SERVER", "")
    assert outer_span.attributes == {"http.route": "/projects"}
    assert (inner_span.parent_id, inner_span.trace_id) == (outer_span.span_id, outer_span.trace_id)
    assert (inner_span.status, inner_span.status_message) == ("ERROR", "it broke")
    assert [(event.name, event.attributes) for event in inner_span.events] == [("happened", {"times": 2})]
    assert outer_span.start <= inner_span.start <= inner_span.end <= outer_span.end
    assert (outer_span.scope, outer_span.scope_version) == ("tests", "1.2")
    resource = outer_span.resource
    assert (resource["service.name"], resource["service.version"]) == ("projkit", __version__)
    assert resource["process.pid"] == os.getpid()
    assert exporting.counts == {"exported": 2}


def test_resource(collector: Collector, export_to: Open) -> None:
    """The resource comes from the variables; by default each worker has an id of its own."""
    named = export_to(
        collector.endpoint,
        OTEL_SERVICE_NAME="shop",
        OTEL_RESOURCE_ATTRIBUTES="service.name=no,service.namespace=a%20b,service.version=7",
    )
    unnamed = export_to(collector.endpoint, OTEL_SERVICE_NAME="", OTEL_RESOURCE_ATTRIBUTES="")
    for exporting in (named, unnamed):
        exporting.spans(1)
        exporting.close()
    first, second = (span.resource for span in collector.spans)
    assert (first["service.name"], first["service.namespace"], first["service.version"]) == (
        "shop",
        "a b",
        "7",
    )
    assert second["service.name"] == "projkit"
    assert first["service.instance.id"] != second["service.instance.id"]


def test_empty_variables(collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    """An empty variable has its default, as the specification requires, and causes no line in the log."""
    export_to(
        collector.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="",
        OTEL_BSP_MAX_QUEUE_SIZE="",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="",
        OTEL_METRIC_EXPORT_INTERVAL="",
        OTEL_METRIC_EXPORT_TIMEOUT="",
        OTEL_SPAN_EVENT_COUNT_LIMIT="",
        OTEL_TRACES_SAMPLER="",
    )
    assert not caplog.records


def test_headers_and_compression(collector: Collector, export_to: Open) -> None:
    """Configured headers and compression are used; a signal's own take precedence over the common ones."""
    exporting = export_to(
        collector.endpoint,
        OTEL_EXPORTER_OTLP_HEADERS="x-common=1",
        OTEL_EXPORTER_OTLP_METRICS_HEADERS="api-key=a b%2Cc",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )
    exporting.spans(1)
    assert exporting.telemetry.meter_provider is not None
    exporting.telemetry.meter_provider.get_meter("tests").create_counter("c").add(1)
    exporting.close()
    requests = {request.path: request.headers for request in collector.requests}
    assert requests["/v1/traces"]["x-common"] == "1"
    assert requests["/v1/metrics"]["api-key"] in {"a b,c", "a b%2Cc"}
    assert "x-common" not in requests["/v1/metrics"]
    assert {headers["content-encoding"] for headers in requests.values()} == {"gzip"}
    assert (len(collector.spans), len(collector.metrics)) == (1, 1)


def test_many_threads(collector: Collector, export_to: Open) -> None:
    """Spans that end concurrently, faster than they are exported, are each counted once."""
    exporting = export_to(collector.endpoint, OTEL_BSP_MAX_QUEUE_SIZE="200", OTEL_BSP_SCHEDULE_DELAY="10")
    threads = [threading.Thread(target=exporting.spans, args=(1000,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exporting.close()
    assert exporting.counts.total() == 4000
    assert exporting.counts["failed"] == 0
    assert len(collector.spans) == exporting.counts["exported"] > 0


@pytest.mark.parametrize(
    ("trouble", "counts", "reason"),
    [
        ({"rude": True}, {"failed": 30}, "ConnectionError"),
        ({"status": 400}, {"failed": 30}, "status 400"),
        ({"status": 503}, {"failed": 30}, "status 503"),
        ({"status": 429, "retry_after": "60"}, {"failed": 30}, "status 429"),
        ({"status": 302}, {"failed": 30}, "status 302"),
        ({"rejects": 4}, {"exported": 18, "failed": 12}, "rejected by the collector"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_rejecting_collector(
    collector: Collector,
    export_to: Open,
    caplog: pytest.LogCaptureFixture,
    trouble: dict[str, object],
    counts: dict[str, int],
    reason: str,
) -> None:
    """Spans that a collector does not accept count as failed, with the reason in one log line."""
    caplog.set_level(logging.INFO)
    for name, value in trouble.items():
        setattr(collector, name, value)
    exporting = export_to(collector.endpoint, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10", **IMPATIENT)
    exporting.spans(30)
    assert exporting.close() < STOPS_WITHIN
    assert exporting.counts == counts
    (line,) = lines(caplog)
    assert f"failed ({reason})" in line
    assert f"export of spans to http://127.0.0.1:{collector.port} failed: " in line


def test_collector_started_later(export_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Without a collector spans fail; once it is up they are exported, which is logged."""
    caplog.set_level(logging.INFO)
    port = free_port()
    exporting = export_to(f"http://127.0.0.1:{port}", OTEL_BSP_SCHEDULE_DELAY="20", **IMPATIENT)
    exporting.spans(5, "early")
    deadline = time.monotonic() + 20
    while exporting.counts["failed"] < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with Collector(port) as collector:
        exporting.spans(7, "late")
        collector.wait(lambda each: len(each.named("late")) == 7)
        exporting.close()
    assert exporting.counts == {"failed": 5, "exported": 7}
    warned, over = lines(caplog)
    assert "5 failed (ConnectionError)" in warned
    assert over == f"spans are exported to http://127.0.0.1:{port} again"


@pytest.mark.skipif(SDK < (1, 45), reason="before 1.45 the SDK's exporter drops a batch that gets a 429")
def test_retry_after(collector: Collector, export_to: Open) -> None:
    """A batch that gets a 429 is sent again after the requested time, and counted once."""
    collector.status, collector.retry_after = 429, "0.3"
    exporting = export_to(collector.endpoint, OTEL_BSP_SCHEDULE_DELAY="10")
    exporting.spans(3)
    collector.wait(lambda each: each.requests)
    collector.status = 200
    collector.wait(lambda each: each.spans)
    exporting.close()
    assert exporting.counts == {"exported": 3}
    assert len(collector.spans) == 3


def living_spans() -> int:
    """Return the number of spans in memory."""
    gc.collect()
    return sum(isinstance(each, ReadableSpan) for each in gc.get_objects())


def test_hanging_collector(collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    """With a collector that never responds, memory and shutdown are bounded, and the counts add up."""
    collector.mute = True
    exporting = export_to(
        collector.endpoint, OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="20"
    )
    before = living_spans()
    began = time.monotonic()
    exporting.spans(5000)
    assert time.monotonic() - began < 2
    assert exporting.counts == {"dropped": 4900}
    assert living_spans() - before <= 100
    collector.wait(lambda each: each.requests)

    async def close() -> float:
        longest, last = 0.0, time.monotonic()
        closing = asyncio.create_task(exporting.telemetry.close())
        while not closing.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    began = time.monotonic()
    assert asyncio.run(close()) < 1
    assert time.monotonic() - began < STOPS_WITHIN
    assert exporting.counts == {"dropped": 5000}
    (line,) = lines(caplog)
    assert "dropped since the last line" in line


def test_after_shutdown(collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    """A span that ends after the shutdown is dropped and counted; another shutdown or flush is harmless."""
    exporting = export_to(collector.endpoint)
    tracer = exporting.tracer
    late = tracer.start_span("late")
    exporting.close()
    late.end()
    provider = exporting.telemetry.tracer_provider
    assert provider is not None
    provider.shutdown()
    assert provider.force_flush(100)
    assert exporting.counts == {"dropped": 1}
    assert collector.spans == []
    assert lines(caplog) == []


def test_flushing(collector: Collector, export_to: Open) -> None:
    """A flush respects its timeout."""
    exporting = export_to(collector.endpoint)
    provider = exporting.telemetry.tracer_provider
    assert provider is not None
    exporting.spans(1)
    assert provider.force_flush()
    assert len(collector.spans) == 1
    collector.mute = True
    exporting.spans(1)
    began = time.monotonic()
    assert not provider.force_flush(200)
    assert time.monotonic() - began < 2
    collector.mute = False


def remote_parent(*, sampled: bool) -> Context:
    """Return the context of a caller that has decided on sampling."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return trace.set_span_in_context(NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=flags)))


@pytest.mark.parametrize(
    ("ratio", "sampler", "argument", "kept"),
    [
        (1.0, "", "", "root sampled"),
        (0.0, "", "", "sampled"),
        (0.0, "", "1", "sampled"),
        (1.0, "always_off", "", ""),
        (0.0, "Always_On", "", "root sampled unsampled"),
        (1.0, "traceidratio", "0", ""),
        (0.0, "traceidratio", "", "root sampled unsampled"),
        (1.0, "parentbased_always_off", "", "sampled"),
        (0.0, "parentbased_always_on", "", "root sampled"),
        (1.0, "parentbased_traceidratio", "0.0", "sampled"),
    ],
)
def test_sampling(
    collector: Collector, export_to: Open, ratio: float, sampler: str, argument: str, kept: str
) -> None:
    """TRACE_RATIO applies to traces without a parent, unless OTEL_TRACES_SAMPLER is set."""
    exporting = export_to(
        collector.endpoint, ratio, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument
    )
    parents = {
        "root": None,
        "sampled": remote_parent(sampled=True),
        "unsampled": remote_parent(sampled=False),
    }
    for name, parent in parents.items():
        exporting.tracer.start_span(name, parent).end()
    exporting.close()
    assert " ".join(span.name for span in collector.spans) == kept
    assert exporting.counts["exported"] == exporting.counts.total() == len(kept.split())


@pytest.mark.parametrize(
    ("preference", "temporality"), [("", "CUMULATIVE"), ("delta", "DELTA"), ("LOWMEMORY", "DELTA")]
)
def test_metrics_arrive(collector: Collector, export_to: Open, preference: str, temporality: str) -> None:
    """Metrics arrive periodically and at the shutdown, with the configured temporality."""
    exporting = export_to(
        collector.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="50",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference,
    )
    assert exporting.telemetry.meter_provider is not None
    counter = exporting.telemetry.meter_provider.get_meter("tests").create_counter("things", unit="1")
    counter.add(2, {"kind": "a"})
    collector.wait(lambda each: each.metrics)
    counter.add(3, {"kind": "a"})
    exporting.close()
    things = [metric for metric in collector.metrics if metric.name == "things"]
    assert {(metric.temporality, metric.scope, metric.unit) for metric in things} == {
        (temporality, "tests", "1")
    }
    assert things[0].resource["service.name"] == "projkit"
    values = [point.value for metric in things for point in metric.points]
    assert (sum(values) if temporality == "DELTA" else values[-1]) == 5


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"status": 503}, "status 503"),
        ({"rejects": 1}, "rejected by the collector"),
        ({"rude": True}, "ConnectionError"),
    ],
)
def test_rejected_metrics(
    collector: Collector,
    export_to: Open,
    caplog: pytest.LogCaptureFixture,
    trouble: dict[str, object],
    reason: str,
) -> None:
    """Metrics that a collector does not accept are logged once."""
    for name, value in trouble.items():
        setattr(collector, name, value)
    exporting = export_to(collector.endpoint, OTEL_METRIC_EXPORT_INTERVAL="50", **IMPATIENT)
    assert exporting.telemetry.meter_provider is not None
    exporting.telemetry.meter_provider.get_meter("tests").create_counter("things").add(1)
    collector.wait(lambda each: len(each.requests) >= 3)
    assert exporting.close() < STOPS_WITHIN
    (line,) = lines(caplog)
    assert "export of metrics to " in line
    assert reason in line


def test_the_console(export_to: Open, capsys: pytest.CaptureFixture[str]) -> None:
    """The exporter ``console`` writes spans to standard output and counts them."""
    exporting = export_to("", OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none")
    assert exporting.telemetry.meter_provider is None
    exporting.spans(1, "to be read")
    exporting.close()
    assert json.loads(capsys.readouterr().out)["name"] == "to be read"
    assert exporting.counts == {"exported": 1}


def test_no_secret_in_the_log(
    collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of a failed export contains no credentials, path or header."""
    collector.status = 500
    exporting = export_to(
        f"http://user:hidden@127.0.0.1:{collector.port}/hidden?key=hidden",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=hidden%0A",
        **IMPATIENT,
    )
    exporting.spans(1)
    exporting.close()
    (line,) = lines(caplog)
    assert "hidden" not in line
    assert exporting.counts == {"failed": 1}


def test_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Failed exports are logged once a minute, with the losses since the previous line."""
    caplog.set_level(logging.INFO)
    now = 1000.0
    said = ExportLog("spans", "http://collector:4318", lambda: now)
    for _ in range(100):
        said.record_export(10, "status 503")
        said.record_dropped(1)
    now += export_log.QUIET_SECONDS
    said.record_dropped(1)
    said.record_export(0, "")
    said.record_export(0, "")
    first, second, over = lines(caplog)
    assert ": 10 failed (status 503) since" in first
    assert ": 990 failed (status 503), 101 dropped since" in second
    assert over.endswith("again")
