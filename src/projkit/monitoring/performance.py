"""``metrics/performance``: request counts and latencies since the start and over recent windows."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from projkit.forks import reset_in_forks
from projkit.telemetry.buckets import milliseconds
from projkit.telemetry.endpoint_stats import (
    EndpointStats,
    StatsByEndpoint,
    stats_by_endpoint,
    stats_since,
    sum_stats,
)
from projkit.telemetry.families import ACTIVE, HEALTH
from projkit.telemetry.health_checks import summarize_checks
from projkit.telemetry.history import History, HistoryEntry
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.route_kinds import PROBE, kinds_in
from projkit.telemetry.store import Table
from projkit.telemetry.workers import now_ms

TARGET_MS: Final = 40.0
HEALTH_TARGET_MS: Final = 10.0
# How old the summary for health may become with one worker, and with several, whose files take longer to read.
_SUMMARY_MAX_AGE_SECONDS: Final = 0.5
_SHARED_SUMMARY_MAX_AGE_SECONDS: Final = 2.0


class EndpointPerformance(BaseModel):
    """The requests of one endpoint. Durations end when the response is complete, or when streaming begins."""

    method: str
    route: str = Field(
        description="The route template with the prefix of its mount; `__unknown__` for paths without a route."
    )
    kind: str | None = Field(
        description="The kind of one of the kit's routes, such as `projects` or `probe`; null for the host's routes."
    )
    count: int
    errors: int
    error_rate: float
    slow_requests: int
    client_disconnects: int
    target_ms: float
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    last_error_at: datetime | None


class WindowPerformance(BaseModel):
    """The requests of a time window, in total and by endpoint. Errors are responses with a 5xx status."""

    seconds: float = Field(
        description="The actual length of the window, which is shorter after a recent start."
    )
    requests: int
    errors: int
    error_rate: float
    slow_requests: int
    client_disconnects: int
    requests_per_second: float
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None = Field(
        description="Exact since the start; for a window, the upper bound of the highest non-empty histogram bucket."
    )
    endpoints: list[EndpointPerformance]


class HistoryInterval(BaseModel):
    """The requests between two samples."""

    at: datetime
    seconds: float
    requests: int
    errors: int
    slow_requests: int
    p95_ms: float | None


class WorkerInfo(BaseModel):
    """A running worker that the metrics include."""

    pid: int
    started_at: datetime
    heartbeat_age_seconds: float | None = Field(
        description="Seconds since its event loop last ran, which it does twice a second; null if it runs none."
    )


def worker_infos(recorder: Recorder) -> list[WorkerInfo]:
    """Return the living workers, the oldest first."""
    silent = dict(recorder.silent_loops())
    return [
        WorkerInfo(
            pid=each.pid,
            started_at=datetime.fromtimestamp(each.started_at, UTC),
            heartbeat_age_seconds=round(silent[each.pid], 3) if each.pid in silent else None,
        )
        for each in recorder.workers()
    ]


class CheckPerformance(BaseModel):
    """A health check over all workers."""

    name: str
    critical: bool
    healthy: bool | None = Field(
        description="Whether the check succeeds in every worker that has a current result; null if none has one."
    )
    failing_since: datetime | None = Field(
        description="The first failure since the check last succeeded, in the worker where it fails for longest."
    )


class Performance(WindowPerformance):
    """The requests since the server started and over recent windows."""

    scope: Literal["process", "all_workers"]
    workers: list[WorkerInfo]
    pid: int = Field(description="The worker that sent this response.")
    started_at: datetime
    slow_request_seconds: float
    active_requests: int
    checks: list[CheckPerformance]
    last_1_minute: WindowPerformance
    last_5_minutes: WindowPerformance
    last_15_minutes: WindowPerformance
    history: list[HistoryInterval]


class PerformanceReport:
    """Report on requests, for ``metrics/performance`` and for the ``traffic`` of the health report."""

    def __init__(self, recorder: Recorder, history: History) -> None:
        self._recorder = recorder
        self._history = history
        self.reset_after_fork()
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Start without a summary; a refresh by one of the parent's threads never ends in a forked process."""
        self._refreshing: asyncio.Future[None] | None = None
        self._traffic: dict[str, Any] = _summary(EndpointStats(), 0.0)
        self._traffic_at = float("-inf")

    async def full(self) -> Performance:
        """Create the whole report, in a thread because reading the files of many workers takes milliseconds."""
        return await asyncio.to_thread(self._full)

    def traffic(self) -> dict[str, Any]:
        """Return a summary of the last five minutes; with several workers it may be a few seconds old.

        It never waits: with several workers, a thread refreshes the summary for later calls.
        """
        age = time.monotonic() - self._traffic_at
        if self._recorder.directory is None:
            if age > _SUMMARY_MAX_AGE_SECONDS:
                self._refresh()
        elif age > _SHARED_SUMMARY_MAX_AGE_SECONDS and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().run_in_executor(None, self._refresh)
        return self._traffic

    def _refresh(self) -> None:
        self._traffic = self._summarize()
        self._traffic_at = time.monotonic()

    def _summarize(self) -> dict[str, Any]:
        now = self._recorder.endpoints()
        total, seconds = self._window(sum_stats(now.values()), 300)
        return _summary(total, seconds)

    def _window(self, now: EndpointStats, seconds: int) -> tuple[EndpointStats, float]:
        entry = _at(self._history.entries(), seconds)
        return now.since(entry.total()), max((now_ms() - entry.at_ms) / 1000, 0.001)

    def _full(self) -> Performance:
        table = self._recorder.read()
        now, kinds = stats_by_endpoint(table), kinds_in(table)
        entries = self._history.entries()
        at_ms = now_ms()
        started_at = self._recorder.server_started_at
        age = max(datetime.now(UTC).timestamp() - started_at, 0.001)
        return Performance(
            **dict(_report(now, age, kinds)),
            last_1_minute=_since(_at(entries, 60), now, at_ms, kinds),
            last_5_minutes=_since(_at(entries, 300), now, at_ms, kinds),
            last_15_minutes=_since(_at(entries, 900), now, at_ms, kinds),
            scope="process" if self._recorder.directory is None else "all_workers",
            workers=worker_infos(self._recorder),
            pid=os.getpid(),
            started_at=_time(started_at),
            slow_request_seconds=self._recorder.slow_seconds,
            active_requests=int(table[(ACTIVE.name, ())][0]),
            checks=_checks(table),
            history=_intervals(entries, sum_stats(now.values()), at_ms),
        )


def _checks(table: Table) -> list[CheckPerformance]:
    samples = sorted((labels, values) for (family, labels), values in table.items() if family == HEALTH.name)
    return [
        CheckPerformance(
            name=each.name,
            critical=each.critical,
            healthy=each.healthy,
            failing_since=None if each.failing_since is None else _time(each.failing_since),
        )
        for each in summarize_checks(samples, time.monotonic())
    ]


def _since(
    entry: HistoryEntry, now: StatsByEndpoint, now_at_ms: int, kinds: Mapping[str, str]
) -> WindowPerformance:
    seconds = max((now_at_ms - entry.at_ms) / 1000, 0.001)
    return _report(stats_since(now, entry.endpoints()), seconds, kinds)


def _report(endpoints: StatsByEndpoint, seconds: float, kinds: Mapping[str, str]) -> WindowPerformance:
    total = sum_stats(endpoints.values())
    return WindowPerformance(
        seconds=round(seconds, 1),
        requests=total.requests,
        requests_per_second=round(total.requests / seconds, 3),
        endpoints=[
            EndpointPerformance(
                method=method,
                route=route,
                kind=kinds.get(route),
                count=each.requests,
                target_ms=HEALTH_TARGET_MS if kinds.get(route) == PROBE else TARGET_MS,
                last_error_at=_time(each.last_error_at) if each.last_error_at else None,
                **_shared(each),
            )
            for (method, route), each in sorted(
                endpoints.items(), key=lambda item: (-item[1].requests, item[0])
            )
        ],
        **_shared(total),
    )


def _summary(total: EndpointStats, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 1),
        "requests": total.requests,
        "errors": int(total.errors),
        "error_rate": round(total.error_rate, 6),
        **_percentiles(total),
    }


def _shared(stats: EndpointStats) -> dict[str, Any]:
    requests = stats.requests
    return {
        "errors": int(stats.errors),
        "error_rate": round(stats.error_rate, 6),
        "slow_requests": int(stats.slow),
        "client_disconnects": int(stats.disconnects),
        "mean_ms": milliseconds(stats.total_seconds / requests if requests else None),
        **_percentiles(stats),
        "max_ms": milliseconds(stats.max_seconds if requests else None),
    }


def _percentiles(stats: EndpointStats) -> dict[str, float | None]:
    return {f"p{percent}_ms": milliseconds(stats.percentile(percent / 100)) for percent in (50, 95, 99)}


def _at(entries: Sequence[HistoryEntry], seconds: int) -> HistoryEntry:
    """Return the newest entry that is at least ``seconds`` old, or the oldest one."""
    until = now_ms() - seconds * 1000
    older = [entry for entry in entries if entry.at_ms <= until]
    return older[-1] if older else entries[0]


def _intervals(entries: Sequence[HistoryEntry], now: EndpointStats, now_at_ms: int) -> list[HistoryInterval]:
    """Return the requests between consecutive entries, and since the last one."""
    points = [*((entry.at_ms, entry.total()) for entry in entries), (now_at_ms, now)]
    clock = datetime.now(UTC).timestamp()
    intervals = []
    for (then_ms, then), (at_ms, total) in pairwise(points):
        added = total.since(then)
        intervals.append(
            HistoryInterval(
                at=_time(clock - (now_at_ms - at_ms) / 1000),
                seconds=round((at_ms - then_ms) / 1000, 1),
                requests=added.requests,
                errors=int(added.errors),
                slow_requests=int(added.slow),
                p95_ms=milliseconds(added.percentile(0.95)),
            )
        )
    return intervals


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
