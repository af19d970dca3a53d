"""The kit's series for Prometheus: what they are called, and where their values come from.

``docs/metrics.md`` describes each of them; a test holds the two against each other.
"""

import platform
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final, Literal, NamedTuple

from projkit.telemetry.families import (
    ACTIVE,
    COMMANDS,
    CREDENTIALS,
    CRITICAL,
    CSRF_CHECKS,
    DATABASE_ERRORS,
    DISCONNECTS,
    EXCEPTIONS,
    EXEMPLARS,
    HEALTH,
    HEALTHY,
    HTTP,
    LAG,
    LATENCY,
    LOGINS,
    POOL,
    POOL_WAIT,
    REDIS_ERRORS,
    REFRESHES,
    REFUSED,
    SLOW,
    SPANS,
    STATEMENTS,
    TRANSACTIONS,
    VALID_UNTIL,
    WAITING,
    WEBSOCKETS,
)
from projkit.telemetry.processes import ProcessUsage
from projkit.telemetry.snapshot import Snapshot
from projkit.telemetry.store import Family, Labels

Values = Iterator[tuple[Labels, float]]


class Histogram(NamedTuple):
    """A histogram; where there is a family of exemplars, with those."""

    name: str
    text: str
    labels: tuple[str, ...]
    family: Family
    exemplars: Family | None = None


class Plain(NamedTuple):
    """A counter (the name without its ``_total``) or a gauge."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    labels: tuple[str, ...]
    values: Callable[[Snapshot], Values]


def _cell(family: Family, index: int = 0) -> Callable[[Snapshot], Values]:
    return lambda snapshot: ((labels, cells[index]) for labels, cells in snapshot.of(family))


def _slow(snapshot: Snapshot) -> Values:
    for labels, rows in groupby(snapshot.of(HTTP), key=lambda row: row[0][:2]):
        yield labels, sum(cells[SLOW] for _, cells in rows)


def _health(snapshot: Snapshot) -> Values:
    now = time.monotonic()
    for labels, cells in snapshot.of(HEALTH):
        yield labels, float(cells[HEALTHY] and now < cells[VALID_UNTIL])


def _sunset(snapshot: Snapshot) -> Values:
    if snapshot.facts.legacy_sunset is not None:
        yield (), snapshot.facts.legacy_sunset.timestamp()


def _build(snapshot: Snapshot) -> Values:
    yield (snapshot.facts.version, platform.python_version(), platform.python_implementation()), 1.0


def _workers(snapshot: Snapshot) -> Values:
    yield (), snapshot.workers


def _process(value: Callable[[ProcessUsage], float | None]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: (
        ((str(each.pid),), found) for each in snapshot.processes if (found := value(each)) is not None
    )


HISTOGRAMS: Final = (
    Histogram(
        "projkit_http_server_request_duration_seconds",
        "Requests by how long they took, until the response was complete or began to be streamed.",
        ("method", "route", "status"),
        HTTP,
        EXEMPLARS,
    ),
    Histogram(
        "projkit_db_client_operation_duration_seconds",
        "Database statements by how long they took.",
        ("operation", "collection"),
        STATEMENTS,
    ),
    Histogram("projkit_db_pool_wait_seconds", "How long statements waited for a connection.", (), POOL_WAIT),
    Histogram(
        "projkit_redis_client_operation_duration_seconds",
        "Redis commands by how long they took, with the wait for a connection.",
        ("operation",),
        COMMANDS,
    ),
)
PLAIN: Final = (
    Plain(
        "counter", "projkit_http_server_slow_requests", "Requests over SLOW_REQUEST_SECONDS.",
        ("method", "route"), _slow,
    ),
    Plain(
        "counter", "projkit_http_server_client_disconnects", "Clients that left unanswered.",
        ("method", "route"), _cell(DISCONNECTS),
    ),
    Plain(
        "counter", "projkit_http_server_exceptions", "Requests that nobody expected to fail.",
        ("route", "error_type"), _cell(EXCEPTIONS),
    ),
    Plain(
        "counter", "projkit_http_server_refused_requests", "Requests that were refused for too much to do.",
        ("reason",), _cell(REFUSED),
    ),
    Plain(
        "counter", "projkit_websocket_connections", "WebSockets by how they went.",
        ("route", "outcome"), _cell(WEBSOCKETS),
    ),
    Plain(
        "counter", "projkit_db_errors", "Statements that failed, by the class of the error.",
        ("error_type",), _cell(DATABASE_ERRORS),
    ),
    Plain("counter", "projkit_db_transactions", "Transactions by their end.", ("outcome",), _cell(TRANSACTIONS)),
    Plain(
        "counter", "projkit_redis_errors", "Redis commands that failed or took too long, by the class of the error.",
        ("error_type",), _cell(REDIS_ERRORS),
    ),
    Plain(
        "counter", "projkit_auth_credentials",
        "Credentials that requests brought, by how they came, their format and what became of them.",
        ("transport", "format", "outcome"), _cell(CREDENTIALS),
    ),
    Plain(
        "counter", "projkit_auth_csrf_checks",
        "Unsafe requests with cookies, by what their CSRF token is checked by and what became of them.",
        ("mode", "outcome"), _cell(CSRF_CHECKS),
    ),
    Plain("counter", "projkit_auth_logins", "Logins by how they ended.", ("method", "outcome"), _cell(LOGINS)),
    Plain(
        "counter", "projkit_auth_refreshes", "Refresh tokens that were shown, by what became of them.",
        ("outcome",), _cell(REFRESHES),
    ),
    Plain(
        "counter", "projkit_otel_spans", "Spans by whether they reached the collector.",
        ("outcome",), _cell(SPANS),
    ),
    Plain(
        "counter", "projkit_process_cpu_seconds", "Processor time of each living worker.",
        ("pid",), _process(lambda usage: usage.cpu_seconds),
    ),
    Plain("gauge", "projkit_http_server_active_requests", "Requests that are being answered.", (), _cell(ACTIVE)),
    Plain("gauge", "projkit_http_server_waiting_requests", "Requests that wait for their turn.", (), _cell(WAITING)),
    Plain(
        "gauge", "projkit_db_pool_connections", "Connections of the database pool, by state.",
        ("state",), _cell(POOL),
    ),
    Plain(
        "gauge", "projkit_auth_legacy_sunset_timestamp_seconds",
        "LEGACY_SUNSET: from then on legacy tokens are refused.", (), _sunset,
    ),
    Plain(
        "gauge", "projkit_event_loop_lag_seconds",
        "How late an event loop was at worst within the last ten seconds; the worst worker's.", (), _cell(LAG),
    ),
    Plain(
        "gauge", "projkit_health_check_status",
        "1 where all is well, 0 where the check fails or nothing is known; the worst worker's.",
        ("check",), _health,
    ),
    Plain(
        "gauge", "projkit_health_check_critical", "1 where readiness depends on the check.",
        ("check",), _cell(HEALTH, CRITICAL),
    ),
    Plain(
        "gauge", "projkit_health_check_latency_seconds", "How long the last look took; the slowest worker's.",
        ("check",), _cell(HEALTH, LATENCY),
    ),
    Plain(
        "gauge", "projkit_build_info", "What runs here; always 1.",
        ("version", "python_version", "python_implementation"), _build,
    ),
    Plain("gauge", "projkit_workers", "Living workers, whose counts these are.", (), _workers),
    Plain(
        "gauge", "projkit_process_resident_memory_bytes", "Memory of each living worker.",
        ("pid",), _process(lambda usage: usage.resident_bytes),
    ),
    Plain(
        "gauge", "projkit_process_open_fds", "Open file descriptors of each living worker.",
        ("pid",), _process(lambda usage: usage.open_fds),
    ),
    Plain(
        "gauge", "projkit_process_start_time_seconds", "When each living worker started, in seconds since 1970.",
        ("pid",), _process(lambda usage: usage.started_at),
    ),
)  # fmt: skip
