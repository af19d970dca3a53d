"""The kit's series for Prometheus, made of what the recorder has counted over all workers."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from projkit.telemetry.buckets import SIZE, cumulative
from projkit.telemetry.cells import Family, Labels, Table
from projkit.telemetry.families import (
    ACTIVE,
    CREDENTIALS,
    CSRF_CHECKS,
    DATABASE_ERRORS,
    DISCONNECTS,
    EXCEPTIONS,
    HTTP,
    POOL,
    POOL_WAIT,
    SLOW,
    STATEMENTS,
    SUM,
    TRANSACTIONS,
    WEBSOCKETS,
)
from projkit.telemetry.recorder import Recorder

Rows = list[tuple[Labels, list[float]]]
_ROWS_AT_ONCE: Final = 8

_HISTOGRAMS: Final[Sequence[tuple[Family, str, str, tuple[str, ...]]]] = (
    (
        HTTP,
        "projkit_http_server_request_duration_seconds",
        "Requests by how long they took, until the response was complete or began to be streamed.",
        ("method", "route", "status"),
    ),
    (
        STATEMENTS,
        "projkit_db_client_operation_duration_seconds",
        "Database statements by how long they took.",
        ("operation", "collection"),
    ),
    (POOL_WAIT, "projkit_db_pool_wait_seconds", "How long statements waited for a connection.", ()),
)
_COUNTERS: Final[Sequence[tuple[Family, str, str, tuple[str, ...]]]] = (
    (DISCONNECTS, "projkit_http_server_client_disconnects", "Clients that left unanswered.", ("method", "route")),
    (EXCEPTIONS, "projkit_http_server_exceptions", "Requests that nobody expected to fail.", ("route", "error_type")),
    (WEBSOCKETS, "projkit_websocket_connections", "WebSockets by how they went.", ("route", "outcome")),
    (DATABASE_ERRORS, "projkit_db_errors", "Statements that failed, by the class of the error.", ("error_type",)),
    (TRANSACTIONS, "projkit_db_transactions", "Transactions by their end.", ("outcome",)),
    (
        CREDENTIALS,
        "projkit_auth_credentials",
        "Credentials that requests brought, by how they came, their format and what became of them.",
        ("transport", "format", "outcome"),
    ),
    (
        CSRF_CHECKS,
        "projkit_auth_csrf_checks",
        "Unsafe requests with cookies, by what their CSRF token is checked by and what became of them.",
        ("mode", "outcome"),
    ),
)  # fmt: skip
_GAUGES: Final[Sequence[tuple[Family, str, str, tuple[str, ...]]]] = (
    (ACTIVE, "projkit_http_server_active_requests", "Requests that are being answered.", ()),
    (POOL, "projkit_db_pool_connections", "Connections of the database pool, by state.", ("state",)),
)


class Piece(NamedTuple):
    """A part of a metric: its first one, or one that goes on with it."""

    metric: Metric
    first: bool


class RecorderCollector(Collector):
    """Reads the recorder at each scrape."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        """All series, in the order in which they are documented."""
        whole: Metric | None = None
        for metric, first in self.pieces(_by_family(self._recorder.read())):
            if first:
                if whole is not None:
                    yield whole
                whole = metric
            elif whole is not None:
                whole.samples += metric.samples
        if whole is not None:
            yield whole

    async def read(self) -> Mapping[str, Rows]:
        """All rows by family; lets others on the event loop go on between the workers' files."""
        table: Table = {}
        for table in self._recorder.open().read_on():  # noqa: B007  # the last is the whole
            await asyncio.sleep(0)
        return _by_family(table)

    def pieces(self, rows: Mapping[str, Rows]) -> Iterator[Piece]:
        """As :meth:`collect`, in parts that take well under a millisecond each to write."""
        for family, name, text, labels in _HISTOGRAMS:
            for part, first in _parts(rows.get(family.name, [])):
                yield Piece(_histogram(name, text, labels, part), first)
        yield Piece(_slow(rows.get(HTTP.name, [])), first=True)
        for kind, metrics in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for family, name, text, labels in metrics:
                for part, first in _parts(rows.get(family.name, [])):
                    metric = kind(name, text, labels=labels)
                    for values, cells in part:
                        metric.add_metric(values, cells[0])
                    yield Piece(metric, first)


def _parts(rows: Rows) -> Iterator[tuple[Rows, bool]]:
    for start in range(0, max(len(rows), 1), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE], start == 0


def _by_family(table: Table) -> Mapping[str, Rows]:
    found: dict[str, Rows] = {}
    for (family, labels), cells in sorted(table.items()):
        found.setdefault(family, []).append((labels, cells))
    return found


def _histogram(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    histogram = HistogramMetricFamily(name, text, labels=labels)
    for values, cells in rows:
        total = sum(cells[:SIZE])
        buckets = [(f"{bound:g}", number) for bound, number in cumulative(cells)]
        histogram.add_metric(values, [*buckets, ("+Inf", total)], cells[SUM])
    return histogram


def _slow(rows: Rows) -> Metric:
    counter = CounterMetricFamily(
        "projkit_http_server_slow_requests", "Requests over SLOW_REQUEST_SECONDS.", labels=("method", "route")
    )
    totals: dict[tuple[str, str], float] = {}
    for (method, route, _), cells in rows:
        totals[(method, route)] = totals.get((method, route), 0.0) + cells[SLOW]
    for labels, total in totals.items():
        counter.add_metric(labels, total)
    return counter
