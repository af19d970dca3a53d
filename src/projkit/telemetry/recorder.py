"""The recorder of a kit's events, which Prometheus and the monitoring endpoints both read."""

import math
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from projkit.forks import reset_in_forks
from projkit.observers import REJECTION_REASONS, SPAN_OUTCOMES, DurationMeters, Observer, RejectionReason
from projkit.request_stats import StatementInfo
from projkit.telemetry import exemplars
from projkit.telemetry.buckets import BOUNDS
from projkit.telemetry.endpoint_stats import StatsByEndpoint, stats_by_endpoint
from projkit.telemetry.event_loops import EventLoop, event_loops
from projkit.telemetry.families import (
    ACTIVE,
    CLEANUP,
    CLEANUP_BACKLOG,
    COMMANDS,
    CREDENTIALS,
    CRITICAL,
    CSRF_CHECKS,
    DATABASE_ERRORS,
    DISCONNECTS,
    EVENT_LOOP,
    EXCEPTIONS,
    EXEMPLARS,
    FAILING_SINCE,
    HEALTH,
    HEALTHY,
    HEARTBEAT,
    HTTP,
    LAG,
    LAST_ERROR,
    LATENCY,
    LOGINS,
    MAX,
    METHODS,
    NO_RESULT,
    OTHER,
    OTHER_METHOD,
    OTHER_STATUS,
    POOL,
    POOL_WAIT,
    QUEUED,
    REDIS_ERRORS,
    REFRESHES,
    REJECTED,
    ROUTES,
    SLOW,
    SLOW_STATEMENTS,
    SPANS,
    STATEMENTS,
    SUM,
    TRANSACTIONS,
    VALID_UNTIL,
    WEBSOCKETS,
    WORKER_EXITS,
)
from projkit.telemetry.process_store import ProcessStore, directory_for_kit
from projkit.telemetry.store import Family, Labels, MetricStore, Sample, Table, WorkerFile, iter_samples
from projkit.telemetry.worker_files import Worker
from projkit.telemetry.workers import WorkerDirectory

K = TypeVar("K")

_EVENT_LOOP_LAYOUT: Final = EVENT_LOOP.name, EVENT_LOOP.labels, EVENT_LOOP.width
_SLOW_STATEMENT_SECONDS: Final = 0.2
_MAX_STATEMENT_CHARS: Final = 1000


class Recorder(Observer):
    """The recorder of one kit on all its event loops; with a ``directory``, together with the server's other workers.

    It opens its store at the first use: in the process that counts, not before a fork.

    Args:
        directory: the metrics directory that the workers of one server share; None for a single process.
        slow_seconds: the duration above which a request counts as slow.

    Attributes:
        route_kinds: the kinds of the kit's routes, by full route; it grows as they are requested.
    """

    def __init__(self, directory: Path | None = None, *, slow_seconds: float = 2.0) -> None:
        self.slow_seconds = slow_seconds
        self.route_kinds: Mapping[str, str] = {}
        self.meters: DurationMeters | None = None
        self.path = None if directory is None else directory_for_kit(directory)
        self.reset_after_fork()
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Start without any samples: initially, and in a forked process."""
        self.started_at = time.time()
        self._process_store: ProcessStore | None = None
        self._forget_samples()

    def _forget_samples(self) -> None:
        """Look all samples up again in the store, at their next use."""
        self.http_samples: dict[tuple[str, str, int], Sample] = {}
        self._exemplars: dict[tuple[str, str, int], Sample] = {}
        self._statements: dict[StatementInfo, Sample] = {}
        self._credentials: dict[Labels, Sample] = {}
        self._commands: dict[str, Sample] = {}
        self._transactions: dict[bool, Sample] = {}
        self._active: Sample | None = None
        self._pool_wait: Sample | None = None
        self._queued: Sample | None = None

    def open(self) -> MetricStore:
        """Return the store of this process; in memory if the directory cannot be used, so that no request fails."""
        return (self._process_store or self._open_process_store()).store

    def _open_process_store(self) -> ProcessStore:
        if self._process_store is None:
            self._process_store = ProcessStore(self.path)
            self._look_up_samples()
            for reason in REJECTION_REASONS:  # from the start, so that rates include the first rejection
                self._sample(REJECTED, (reason,), (OTHER,))
        return self._process_store

    def repair(self, call_on_loop: Callable[[Callable[[], None]], None]) -> None:
        """Share the metrics with the other workers again, if this process cannot or no longer does; blocks.

        Args:
            call_on_loop: calls a function on the event loop that counts.
        """
        process_store = self._process_store
        if process_store is None:
            return
        backend = process_store.find_replacement()

        def adopt() -> None:
            if backend is not None:
                process_store.replace(backend)
                self._forget_samples()
                self._look_up_samples()
            process_store.set_gauge()

        call_on_loop(adopt)

    @property
    def shares_metrics(self) -> bool:
        """Whether other workers see the counts of this process."""
        return self._open_process_store().shares_metrics

    def _look_up_samples(self) -> None:
        pid = (str(os.getpid()),)
        # Created first, so that it is at the beginning of the file, where event_loops() reads it.
        self._event_loop = self._sample(EVENT_LOOP, pid, pid)
        self._active = self._sample(ACTIVE, (), ())
        self._pool_wait = self._sample(POOL_WAIT, (), ())
        self._queued = self._sample(QUEUED, (), ())

    @property
    def directory(self) -> WorkerDirectory | None:
        """The metrics directory that the server's workers share, if there is one, even if it cannot be used."""
        return self._open_process_store().directory

    @property
    def server_started_at(self) -> float:
        """The start of the server's first worker, when counting began, in seconds since 1970."""
        directory = self.directory
        return self.started_at if directory is None else directory.started_at

    def workers(self) -> list[Worker]:
        """Return the workers whose events are counted: all living ones, or this process alone."""
        directory = self.directory
        return [Worker(os.getpid(), self.started_at)] if directory is None else directory.living()

    def read(self) -> Table:
        """Return the samples of all workers."""
        return self.open().merged(self.other_files(retire=True))

    def event_loops(self) -> list[EventLoop]:
        """Return the event loops of the living workers that run one; blocks."""
        self.open()
        pid = str(os.getpid())
        samples: list[tuple[Labels, list[float]]] = [((pid,), list(self._event_loop))]
        if (directory := self.directory) is not None:
            for data in directory.beginnings():
                samples += (
                    (labels, values)
                    for (name, labels), values in iter_samples(data)
                    if (name, len(labels), len(values)) == _EVENT_LOOP_LAYOUT
                )
        return event_loops(samples, time.monotonic(), pid)

    def silent_loops(self) -> list[tuple[int, float]]:
        """Return the process id of each worker that runs an event loop, and the seconds since it last ran; blocks."""
        return [(each.pid, each.silent_seconds) for each in self.event_loops()]

    def other_files(self, *, retire: bool) -> list[WorkerFile]:
        """Return the files of the server's other workers (:meth:`WorkerDirectory.other_files`)."""
        directory = self.directory
        return [] if directory is None else directory.other_files(retire=retire)

    def endpoints(self) -> StatsByEndpoint:
        """Return the statistics of each endpoint over all workers."""
        return stats_by_endpoint(self.read())

    # --- requests

    def begin_request(self) -> None:
        (self._active or self._sample(ACTIVE, (), ()))[0] += 1

    def end_request(self) -> None:
        (self._active or self._sample(ACTIVE, (), ()))[0] -= 1

    def record_request(
        self, method: str, route: str, status: int, seconds: float, trace_id: str | None = None
    ) -> None:
        sample = self.http_samples.get((method, route, status))
        if sample is None:
            sample = self._request_sample(HTTP, self.http_samples, method, route, status)
        _observe(sample, seconds)
        if status >= 500:
            sample[LAST_ERROR] = time.time()
        if seconds > self.slow_seconds:
            sample[SLOW] += 1
        if trace_id is not None:
            exemplar_sample = self._exemplars.get((method, route, status))
            if exemplar_sample is None:
                exemplar_sample = self._request_sample(EXEMPLARS, self._exemplars, method, route, status)
            exemplars.write(exemplar_sample, seconds, trace_id)

    def record_disconnect(self, method: str, route: str) -> None:
        method = method if method in METHODS else OTHER_METHOD
        self._count(DISCONNECTS, (method, route), (OTHER_METHOD, OTHER))

    def record_websocket(self, route: str, outcome: str, seconds: float) -> None:
        sample = self.open().sample(WEBSOCKETS, (route, outcome), (OTHER, outcome))
        sample[0] += 1
        sample[1] += seconds

    def record_exception(self, route: str, error_type: str) -> None:
        self._count(EXCEPTIONS, (route, error_type), (OTHER, OTHER))

    # --- the request queue

    def change_queue_length(self, change: int) -> None:
        (self._queued or self._sample(QUEUED, (), ()))[0] += change

    def record_rejection(self, reason: RejectionReason) -> None:
        self._count(REJECTED, (reason,), (OTHER,))

    # --- authentication

    def record_credential(self, transport: str, token_format: str, outcome: str) -> None:
        labels = (transport, token_format, outcome)
        sample = self._credentials.get(labels)
        if sample is None:
            sample = self._remember(self._credentials, labels, CREDENTIALS, labels, (OTHER, OTHER, outcome))
        sample[0] += 1

    def record_csrf_check(self, mode: str, outcome: str) -> None:
        self._count(CSRF_CHECKS, (mode, outcome), (OTHER, outcome))

    def record_login(self, method: str, outcome: str) -> None:
        self._count(LOGINS, (method, outcome), (OTHER, outcome))

    def record_refresh(self, outcome: str) -> None:
        self._count(REFRESHES, (outcome,), (OTHER,))

    # --- the database

    def record_statement(self, statement: StatementInfo, seconds: float, error: BaseException | None) -> None:
        sample = self._statements.get(statement)
        if sample is None:
            labels = (statement.operation, statement.collection)
            sample = self._remember(self._statements, statement, STATEMENTS, labels, (OTHER, OTHER))
        _observe(sample, seconds)
        if self.meters is not None:
            self.meters.record_statement(statement, seconds, error)
        if seconds > _SLOW_STATEMENT_SECONDS:
            text = " ".join(statement.sql.split())[:_MAX_STATEMENT_CHARS]
            slow = self.open().sample(SLOW_STATEMENTS, (text,), (OTHER,))
            slow[0] += 1
            slow[1] += seconds
            slow[2] = max(slow[2], seconds)
        if error is not None:
            self._count(DATABASE_ERRORS, (type(error).__name__,), (OTHER,))

    def record_transaction(self, *, committed: bool) -> None:
        sample = self._transactions.get(committed)
        if sample is None:
            labels = ("committed" if committed else "rolled_back",)
            sample = self._remember(self._transactions, committed, TRANSACTIONS, labels, (OTHER,))
        sample[0] += 1

    def record_pool_wait(self, seconds: float) -> None:
        _observe(self._pool_wait or self._sample(POOL_WAIT, (), ()), seconds)

    def record_pool_connections(self, states: Mapping[str, int]) -> None:
        for state, connections in states.items():
            self._sample(POOL, (state,), (OTHER,))[0] = connections

    def record_cleanup(self, kind: str, rows: int) -> None:
        self._sample(CLEANUP, (kind,), (OTHER,))[0] += rows

    def record_cleanup_backlog(self, kind: str, seconds: float) -> None:
        self._sample(CLEANUP_BACKLOG, (kind,), (OTHER,))[0] = seconds
        self._sample(CLEANUP, (kind,), (OTHER,))  # from the start, so that rates include the first removal

    # --- Redis

    def record_command(self, operation: str, seconds: float, error: BaseException | None) -> None:
        sample = self._commands.get(operation)
        if sample is None:
            sample = self._remember(self._commands, operation, COMMANDS, (operation,), (OTHER,))
        _observe(sample, seconds)
        if self.meters is not None:
            self.meters.record_command(operation, seconds, error)
        if error is not None:
            self._count(REDIS_ERRORS, (type(error).__name__,), (OTHER,))

    # --- health

    def record_health_check(
        self,
        name: str,
        *,
        critical: bool,
        healthy: bool | None,
        seconds: float,
        valid_seconds: float,
        failing_since: datetime | None = None,
    ) -> None:
        sample = self._health_sample(name)
        sample[HEALTHY] = NO_RESULT if healthy is None else float(healthy)
        sample[CRITICAL] = float(critical)
        sample[LATENCY] = seconds
        sample[VALID_UNTIL] = time.monotonic() + valid_seconds
        sample[FAILING_SINCE] = math.inf if failing_since is None else failing_since.timestamp()

    def end_health_check(self, name: str) -> None:
        self._health_sample(name)[VALID_UNTIL] = 0.0

    def record_heartbeat(self, lag_seconds: float) -> None:
        self.open()
        self._event_loop[LAG] = lag_seconds
        self._event_loop[HEARTBEAT] = time.monotonic()

    def end_heartbeat(self) -> None:
        self.open()
        self._event_loop[HEARTBEAT] = 0.0

    def _health_sample(self, name: str) -> Sample:
        pid = str(os.getpid())
        return self._sample(HEALTH, (name, pid), (OTHER, pid))

    # --- worker processes

    def record_worker_exits(self, totals: Mapping[str, int]) -> None:
        for reason, total in totals.items():
            self._sample(WORKER_EXITS, (reason,), (OTHER,))[0] = total

    # --- traces

    def record_spans(self, outcome: str, count: int) -> None:
        for each in SPAN_OUTCOMES:  # all outcomes from the start, so that rates include the first failure
            self._sample(SPANS, (each,), (OTHER,))
        self._sample(SPANS, (outcome,), (OTHER,))[0] += count

    def _count(self, family: Family, labels: Labels, overflow: Labels) -> None:
        self._sample(family, labels, overflow)[0] += 1

    def _sample(self, family: Family, labels: Labels, overflow: Labels) -> Sample:
        return self.open().sample(family, labels, overflow)

    def _request_sample(
        self, family: Family, known: dict[tuple[str, str, int], Sample], method: str, route: str, status: int
    ) -> Sample:
        """Return the sample of a request, with bounded labels, and remember it by the request's own values."""
        code = str(status) if 100 <= status <= 599 else OTHER_STATUS
        overflow = (OTHER_METHOD, OTHER, code)
        if (kind := self.route_kinds.get(route)) is not None:
            self._sample(ROUTES, (route, kind), (OTHER, OTHER))[0] = 1
        if method not in METHODS:  # clients can make up any number of methods, so they are not remembered
            return self._sample(family, (OTHER_METHOD, route, code), overflow)
        return self._remember(known, (method, route, status), family, (method, route, code), overflow)

    def _remember(
        self, known: dict[K, Sample], key: K, family: Family, labels: Labels, overflow: Labels
    ) -> Sample:
        """Return the sample of these labels, and remember it by ``key``, up to the limit of the family."""
        sample = self._sample(family, labels, overflow)
        if len(known) < family.limit:
            known[key] = sample
        return sample


def _observe(sample: Sample, seconds: float) -> None:
    sample[bisect_left(BOUNDS, seconds)] += 1
    sample[SUM] += seconds
    if seconds > sample[MAX]:  # noqa: PLR1730 - max() takes longer than all the rest
        sample[MAX] = seconds
