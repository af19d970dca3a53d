"""Declarations of the kit's Prometheus metrics: names, descriptions, labels, and the source of their values.

``docs/metrics.md`` describes each of them; a test compares the two.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final, Literal, NamedTuple

from projkit.telemetry.event_loops import EventLoop, event_loops
from projkit.telemetry.families import (
    ACTIVE,
    CLEANUP,
    CLEANUP_BACKLOG,
    COMMANDS,
    CREDENTIALS,
    CSRF_CHECKS,
    DATABASE_ERRORS,
    DEGRADED,
    DISCONNECTS,
    EVENT_LOOP,
    EXCEPTIONS,
    EXEMPLARS,
    HEALTH,
    HTTP,
    LOGINS,
    POOL,
    POOL_WAIT,
    QUEUED,
    REDIS_ERRORS,
    REFRESHES,
    REJECTED,
    ROUTES,
    SLOW,
    SPANS,
    STATEMENTS,
    TRANSACTIONS,
    WEBSOCKETS,
    WORKER_EXITS,
)
from projkit.telemetry.health_checks import CheckSummary, summarize_checks
from projkit.telemetry.processes import ProcessUsage
from projkit.telemetry.snapshot import Snapshot
from projkit.telemetry.store import Family, Labels

Values = Iterator[tuple[Labels, float]]


class Histogram(NamedTuple):
    """A histogram, optionally with a family of exemplars."""

    name: str
    description: str
    labels: tuple[str, ...]
    family: Family
    exemplars: Family | None = None


class Scalar(NamedTuple):
    """A counter (its name without ``_total``) or a gauge."""

    kind: Literal["counter", "gauge"]
    name: str
    description: str
    labels: tuple[str, ...]
    values: Callable[[Snapshot], Values]


def _value(family: Family, index: int = 0) -> Callable[[Snapshot], Values]:
    return lambda snapshot: ((labels, values[index]) for labels, values in snapshot.of(family))


def _slow(snapshot: Snapshot) -> Values:
    for labels, samples in groupby(snapshot.of(HTTP), key=lambda sample: sample[0][:2]):
        yield labels, sum(values[SLOW] for _, values in samples)


def _check(value: Callable[[CheckSummary], float | None]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: (
        ((each.name,), float(number))
        for each in summarize_checks(snapshot.of(HEALTH), time.monotonic())
        if (number := value(each)) is not None
    )


def _event_loops(snapshot: Snapshot) -> list[EventLoop]:
    return event_loops(snapshot.of(EVENT_LOOP), time.monotonic(), str(os.getpid()))


def _lag(snapshot: Snapshot) -> Values:
    if loops := _event_loops(snapshot):
        yield (), max(each.lag_seconds for each in loops)


def _heartbeats(snapshot: Snapshot) -> Values:
    for each in _event_loops(snapshot):
        yield (str(each.pid),), each.silent_seconds


def _sunset(snapshot: Snapshot) -> Values:
    if snapshot.info.legacy_sunset is not None:
        yield (), snapshot.info.legacy_sunset.timestamp()


def _build(snapshot: Snapshot) -> Values:
    yield (snapshot.info.version, platform.python_version(), platform.python_implementation()), 1.0


def _workers(snapshot: Snapshot) -> Values:
    yield (), snapshot.workers


def _process(value: Callable[[ProcessUsage], float | None]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: (
        ((str(usage.pid),), number) for usage in snapshot.processes if (number := value(usage)) is not None
    )


HISTOGRAMS: Final = (
    Histogram(
        "projkit_http_server_request_duration_seconds",
        "Duration of requests, until the response was complete or its streaming began.",
        ("method", "route", "status"),
        HTTP,
        EXEMPLARS,
    ),
    Histogram(
        "projkit_db_client_operation_duration_seconds",
        "Duration of database statements.",
        ("operation", "collection"),
        STATEMENTS,
    ),
    Histogram(
        "projkit_db_pool_wait_seconds",
        "Time that statements and transactions waited for a database connection.",
        (),
        POOL_WAIT,
    ),
    Histogram(
        "projkit_redis_client_operation_duration_seconds",
        "Duration of Redis commands, including the wait for a connection.",
        ("operation",),
        COMMANDS,
    ),
)
SCALARS: Final = (
    Scalar(
        "counter",
        "projkit_http_server_slow_requests",
        "Requests that took longer than SLOW_REQUEST_SECONDS.",
        ("method", "route"),
        _slow,
    ),
    Scalar(
        "counter",
        "projkit_http_server_client_disconnects",
        "Requests whose client disconnected before the response.",
        ("method", "route"),
        _value(DISCONNECTS),
    ),
    Scalar(
        "counter",
        "projkit_http_server_exceptions",
        "Requests that failed with an unhandled exception.",
        ("route", "error_type"),
        _value(EXCEPTIONS),
    ),
    Scalar(
        "counter",
        "projkit_http_server_refused_requests",
        "Requests rejected with 503 because the server was overloaded.",
        ("reason",),
        _value(REJECTED),
    ),
    Scalar(
        "counter",
        "projkit_websocket_connections",
        "WebSocket connections that have ended, by outcome.",
        ("route", "outcome"),
        _value(WEBSOCKETS),
    ),
    Scalar(
        "counter",
        "projkit_db_errors",
        "Failed database statements, by exception class.",
        ("error_type",),
        _value(DATABASE_ERRORS),
    ),
    Scalar(
        "counter",
        "projkit_db_transactions",
        "Database transactions that have ended, by outcome.",
        ("outcome",),
        _value(TRANSACTIONS),
    ),
    Scalar(
        "counter",
        "projkit_redis_errors",
        "Redis commands that failed or timed out, by exception class.",
        ("error_type",),
        _value(REDIS_ERRORS),
    ),
    Scalar(
        "counter",
        "projkit_auth_credentials",
        "Credentials in requests, by transport, format and outcome.",
        ("transport", "format", "outcome"),
        _value(CREDENTIALS),
    ),
    Scalar(
        "counter",
        "projkit_auth_csrf_checks",
        "CSRF checks of unsafe requests authenticated by cookie, by mode and outcome.",
        ("mode", "outcome"),
        _value(CSRF_CHECKS),
    ),
    Scalar(
        "counter",
        "projkit_auth_logins",
        "Login attempts, by method and outcome.",
        ("method", "outcome"),
        _value(LOGINS),
    ),
    Scalar(
        "counter",
        "projkit_auth_refreshes",
        "Uses of refresh tokens, by outcome.",
        ("outcome",),
        _value(REFRESHES),
    ),
    Scalar(
        "counter",
        "projkit_cleanup_rows",
        "Expired rows and deleted projects that the cleanup has removed from the database, by kind.",
        ("kind",),
        _value(CLEANUP),
    ),
    Scalar(
        "gauge",
        "projkit_cleanup_backlog_seconds",
        "Time since the oldest row that has not been removed was due for removal, by kind.",
        ("kind",),
        _value(CLEANUP_BACKLOG),
    ),
    Scalar(
        "counter",
        "projkit_otel_spans",
        "Spans handed to the exporter, by outcome of their export.",
        ("outcome",),
        _value(SPANS),
    ),
    Scalar(
        "counter",
        "projkit_worker_exits",
        "Workers of `projkit serve --workers` that have ended, by reason.",
        ("reason",),
        _value(WORKER_EXITS),
    ),
    Scalar(
        "counter",
        "projkit_process_cpu_seconds",
        "CPU time of each living worker.",
        ("pid",),
        _process(lambda usage: usage.cpu_seconds),
    ),
    Scalar(
        "gauge",
        "projkit_http_server_active_requests",
        "Requests in progress, including those in the queue.",
        (),
        _value(ACTIVE),
    ),
    Scalar(
        "gauge",
        "projkit_http_server_route_info",
        "Always 1, for each of the kit's own routes that has been requested; the host's routes have none.",
        ("route", "kind"),
        _value(ROUTES),
    ),
    Scalar("gauge", "projkit_http_server_waiting_requests", "Requests in the queue.", (), _value(QUEUED)),
    Scalar(
        "gauge",
        "projkit_db_pool_connections",
        "Connections of the database pools, by state.",
        ("state",),
        _value(POOL),
    ),
    Scalar(
        "gauge",
        "projkit_auth_legacy_sunset_timestamp_seconds",
        "Time after which legacy tokens are rejected (LEGACY_SUNSET).",
        (),
        _sunset,
    ),
    Scalar(
        "gauge",
        "projkit_event_loop_lag_seconds",
        "Maximum event loop lag of any worker within the last ten seconds, including one that is still blocked.",
        (),
        _lag,
    ),
    Scalar(
        "gauge",
        "projkit_worker_heartbeat_age_seconds",
        "Time since the event loop of each living worker last ran; it shows that it runs twice a second.",
        ("pid",),
        _heartbeats,
    ),
    Scalar(
        "gauge",
        "projkit_health_check_status",
        "Status of the health check: 1 healthy in every worker that has run it recently, 0 failing in at least one.",
        ("check",),
        _check(lambda check: check.healthy),
    ),
    Scalar(
        "gauge",
        "projkit_health_check_stale",
        "Workers that have not run the health check for three periods, so that its status there is not known.",
        ("check",),
        _check(lambda check: check.stale),
    ),
    Scalar(
        "gauge",
        "projkit_health_check_critical",
        "1 if readiness depends on the check, else 0.",
        ("check",),
        _check(lambda check: check.critical),
    ),
    Scalar(
        "gauge",
        "projkit_health_check_failing_since_timestamp_seconds",
        "Time since which the health check has failed in at least one worker; 0 while it succeeds.",
        ("check",),
        _check(lambda check: check.failing_since or 0.0),
    ),
    Scalar(
        "gauge",
        "projkit_health_check_latency_seconds",
        "Duration of the last run of the health check in the slowest worker.",
        ("check",),
        _check(lambda check: check.latency_seconds),
    ),
    Scalar(
        "gauge",
        "projkit_build_info",
        "Version of the kit and of Python; always 1.",
        ("version", "python_version", "python_implementation"),
        _build,
    ),
    Scalar("gauge", "projkit_workers", "Living workers of this server.", (), _workers),
    Scalar(
        "gauge",
        "projkit_metrics_store_degraded",
        "1 if the worker that responds, or another one, cannot share its metrics with the others, else 0.",
        (),
        _value(DEGRADED),
    ),
    Scalar(
        "gauge",
        "projkit_process_resident_memory_bytes",
        "Resident memory of each living worker.",
        ("pid",),
        _process(lambda usage: usage.resident_bytes),
    ),
    Scalar(
        "gauge",
        "projkit_process_open_fds",
        "Open file descriptors of each living worker.",
        ("pid",),
        _process(lambda usage: usage.open_fds),
    ),
    Scalar(
        "gauge",
        "projkit_process_max_fds",
        "Limit on open file descriptors of each living worker.",
        ("pid",),
        _process(lambda usage: usage.max_fds),
    ),
    Scalar(
        "gauge",
        "projkit_process_start_time_seconds",
        "Start time of each living worker, in seconds since 1970.",
        ("pid",),
        _process(lambda usage: usage.started_at),
    ),
)
