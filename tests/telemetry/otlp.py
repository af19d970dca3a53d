"""An OTLP collector over HTTP that can be made to misbehave.

It stores what it receives as plain values: spans and metrics with their resource and scope.
"""

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

TRACES, METRICS = "/v1/traces", "/v1/metrics"


@dataclass(frozen=True)
class Event:
    """An event within a span."""

    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Span:
    """A span as it arrived; ids are hexadecimal, ``parent_id`` is empty for a root, times are seconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start: float
    end: float
    attributes: dict[str, Any]
    status: str
    status_message: str
    events: tuple[Event, ...]
    links: tuple[str, ...]
    resource: dict[str, Any]
    scope: str
    scope_version: str


@dataclass(frozen=True)
class Point:
    """One series of a metric; a histogram has ``count``, ``bounds`` and ``buckets``, and its sum as ``value``."""

    attributes: dict[str, Any]
    value: float
    count: int = 0
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric as it arrived; ``temporality`` is empty for a gauge."""

    name: str
    unit: str
    kind: str
    temporality: str
    points: tuple[Point, ...]
    resource: dict[str, Any]
    scope: str


@dataclass(frozen=True)
class Request:
    """A received request; header names are in lower case."""

    path: str
    headers: dict[str, str]


class Collector:
    """A collector on a local port, by default any free one.

    Attributes:
        status: the status of its responses; exports are stored only with 200.
        retry_after: the value of Retry-After, if any.
        rejects: the number of spans or points that it reports as rejected in each response.
        mute: whether it sends no responses for now.
        rude: whether it closes each connection without a response.
        requests: all received requests.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.status = 200
        self.retry_after: str | None = None
        self.rejects = 0
        self.mute = False
        self.rude = False
        self.requests: list[Request] = []
        self.spans: list[Span] = []
        self.metrics: list[Metric] = []
        self.connections: set[socket.socket] = set()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        collector = self

        class Handler(_Handler):
            owner = collector

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Close the port and every connection."""
        if not self._closed.is_set():
            self._closed.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self.hang_up()

    def hang_up(self) -> None:
        """Close every connection, as a restarting collector does."""
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def named(self, name: str) -> list[Span]:
        """Return the spans with this name."""
        return [span for span in self.spans if span.name == name]

    def wait(self, condition: Callable[[Self], object], seconds: float = 20) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < deadline, f"{len(self.requests)} requests, {len(self.spans)} spans"
            time.sleep(0.01)

    def take(self, path: str, body: bytes) -> bytes:
        """Store the content of an export and return the response."""
        if path == TRACES:
            self.spans += _spans(trace_service.ExportTraceServiceRequest.FromString(body))
            traces = trace_service.ExportTraceServiceResponse()
            traces.partial_success.rejected_spans = self.rejects
            return bytes(traces.SerializeToString())
        self.metrics += _metrics(metrics_service.ExportMetricsServiceRequest.FromString(body))
        points = metrics_service.ExportMetricsServiceResponse()
        points.partial_success.rejected_data_points = self.rejects
        return bytes(points.SerializeToString())

    def idle(self) -> None:
        """Wait while the collector is mute."""
        while self.mute and not self._closed.wait(0.01):
            pass


class _Handler(BaseHTTPRequestHandler):
    owner: Any
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.owner.connections.discard(self.connection)
        try:
            super().finish()
        except OSError:
            return

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has disconnected, or was disconnected
            return

    def do_POST(self) -> None:
        collector: Collector = self.owner
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        collector.requests.append(Request(self.path, headers))
        if collector.rude:
            self.close_connection = True
            return
        collector.idle()
        status = collector.status if self.path in {TRACES, METRICS} else 404
        content = collector.take(self.path, _unpacked(body, headers)) if status == 200 else b""
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(content)))
        if collector.retry_after is not None:
            self.send_header("retry-after", collector.retry_after)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    match headers.get("content-encoding"):
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case _:
            return body


def _spans(request: trace_service.ExportTraceServiceRequest) -> Iterable[Span]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield Span(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    start=span.start_time_unix_nano / 1e9,
                    end=span.end_time_unix_nano / 1e9,
                    attributes=_attributes(span.attributes),
                    status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    status_message=span.status.message,
                    events=tuple(Event(each.name, _attributes(each.attributes)) for each in span.events),
                    links=tuple(link.trace_id.hex() for link in span.links),
                    resource=resource,
                    scope=scoped.scope.name,
                    scope_version=scoped.scope.version,
                )


def _metrics(request: metrics_service.ExportMetricsServiceRequest) -> Iterable[Metric]:
    for group in request.resource_metrics:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_metrics:
            for metric in scoped.metrics:
                kind = str(metric.WhichOneof("data"))
                data = getattr(metric, kind)
                temporality = ""
                if kind != "gauge":
                    name = metrics_pb2.AggregationTemporality.Name(data.aggregation_temporality)
                    temporality = name.removeprefix("AGGREGATION_TEMPORALITY_")
                yield Metric(
                    name=metric.name,
                    unit=metric.unit,
                    kind=kind,
                    temporality=temporality,
                    points=tuple(_point(point, kind) for point in data.data_points),
                    resource=resource,
                    scope=scoped.scope.name,
                )


def _point(point: Any, kind: str) -> Point:
    attributes = _attributes(point.attributes)
    if kind == "histogram":
        bounds, buckets = tuple(point.explicit_bounds), tuple(point.bucket_counts)
        return Point(attributes, point.sum, point.count, bounds, buckets)
    return Point(attributes, getattr(point, point.WhichOneof("value")))


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
