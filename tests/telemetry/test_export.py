"""What is exported arrives, and whatever becomes of it every span is counted, and nobody waits."""

import asyncio
import gc
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Tracer
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from projkit import __version__
from projkit.cli.otel import export_log, read_export_settings
from projkit.cli.otel.export_log import ExportLog
from projkit.cli.otel.providers import TelemetryProviders
from tests.cli.running import free_port
from tests.telemetry.otlp import Collector

# Time enough for an export that fails, and none for a second try of it.
IMPATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.7"}
# What a stop may take, and what a busy machine adds to it.
STOPS_WITHIN = 5.0 + 2.0


class Exporting:
    """Providers made from variables, as a worker makes them, and what they have told of their spans."""

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
        """Makes spans."""
        assert self.telemetry.tracer_provider is not None
        tracer = self.telemetry.tracer_provider.get_tracer("tests", "1.2")
        assert isinstance(tracer, Tracer)
        return tracer

    def spans(self, count: int, name: str = "span") -> None:
        """Hands in so many spans."""
        tracer = self.tracer
        for _ in range(count):
            tracer.start_span(name).end()

    def close(self) -> float:
        """Stops; gives how long it took."""
        began = time.monotonic()
        asyncio.run(self.telemetry.close())
        return time.monotonic() - began


Open = Callable[..., Exporting]


@pytest.fixture
def export_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens providers that export to an endpoint; whatever a test leaves open is closed after it."""
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
    """A collector that works."""
    with Collector() as opened:
        yield opened


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the kit's own logger has said."""
    return [record.getMessage() for record in caplog.records if record.name == "projkit"]


def test_spans_arrive(collector: Collector, export_to: Open) -> None:
    """A span arrives with its parent, kind, attributes, events and status, and with who has sent it."""
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
    """Who sends is said by the variables where they say it, and each worker has an id of its own where they do not."""
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


def test_what_the_exporter_reads(collector: Collector, export_to: Open) -> None:
    """Headers and compression that the variables name reach the collector, the signal's own before the common ones."""
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
    """Spans that end in several threads at once, faster than they are exported, are each counted once."""
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
def test_a_collector_that_refuses(
    collector: Collector,
    export_to: Open,
    caplog: pytest.LogCaptureFixture,
    trouble: dict[str, object],
    counts: dict[str, int],
    reason: str,
) -> None:
    """What a collector does not take has failed, all of it, and the log says why in one line."""
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


def test_a_collector_that_is_not_there_yet(export_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody listens spans fail, and later ones are exported as soon as somebody does, which the log tells."""
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


def test_a_collector_that_asks_for_time(collector: Collector, export_to: Open) -> None:
    """A batch that is answered with 429 is sent again when the collector says, and its spans are counted once."""
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
    """How many spans the memory of this process holds."""
    gc.collect()
    return sum(isinstance(each, ReadableSpan) for each in gc.get_objects())


def test_a_collector_that_hangs(
    collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """With a collector that takes requests and never answers nobody waits to hand spans in, only so many are held,
    the stop is bounded and does not stop the event loop, and the counts add up."""
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


def test_after_the_stop(collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    """A span that ends after the stop is dropped and counted, and no more; stopping again and flushing do no harm."""
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
    """A flush takes no longer than it may."""
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
    """A caller that has decided."""
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
    """TRACE_RATIO decides on traces that begin here and callers on theirs, unless OTEL_TRACES_SAMPLER is set."""
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
    """Metrics arrive every so often and once more at the stop, with the temporality that the variable asks for."""
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
def test_metrics_that_are_refused(
    collector: Collector,
    export_to: Open,
    caplog: pytest.LogCaptureFixture,
    trouble: dict[str, object],
    reason: str,
) -> None:
    """Metrics that a collector does not take have one line in the log, however often they are sent."""
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
    """The exporter ``console`` writes spans to standard output, and counts them as any other."""
    exporting = export_to("", OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none")
    assert exporting.telemetry.meter_provider is None
    exporting.spans(1, "to be read")
    exporting.close()
    assert json.loads(capsys.readouterr().out)["name"] == "to be read"
    assert exporting.counts == {"exported": 1}


def test_no_secret_in_the_log(
    collector: Collector, export_to: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the credentials in an endpoint nor its path nor a header is in what the kit says of a failed export."""
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
    """However often an export fails there is one line a minute, which has what was lost since the one before."""
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
