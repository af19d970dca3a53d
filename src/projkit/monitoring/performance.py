"""``metrics/performance``: what the recorder has counted, as figures for people and scripts."""

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from projkit.telemetry.buckets import milliseconds
from projkit.telemetry.endpoint_stats import (
    EndpointStats,
    StatsByEndpoint,
    stats_by_endpoint,
    stats_since,
    sum_stats,
)
from projkit.telemetry.families import ACTIVE
from projkit.telemetry.history import History, HistoryEntry
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.workers import now_ms

TARGET_MS: Final = 40.0
HEALTH_TARGET_MS: Final = 10.0
_TRAFFIC_SECONDS: Final = 2.0
_FRESH_SECONDS: Final = 0.5


class EndpointFigures(BaseModel):
    """One endpoint's requests; durations in milliseconds, until the response was complete or began to be streamed."""

    method: str
    route: str = Field(description="The route's template; `__unknown__` for paths that none has.")
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


class WindowFigures(BaseModel):
    """All requests of a window, and each endpoint's. An error is an answer with 5xx."""

    seconds: float = Field(description="How long the window really is: shorter where the server is younger.")
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
        description="Exact since the start; over a window the upper bound of the highest bucket that was hit."
    )
    endpoints: list[EndpointFigures]


class Moment(BaseModel):
    """What came between two samples."""

    at: datetime
    seconds: float
    requests: int
    errors: int
    slow_requests: int
    p95_ms: float | None


class WorkerShown(BaseModel):
    """A living worker whose counts are among the figures."""

    pid: int
    started_at: datetime


class Performance(WindowFigures):
    """Requests since the server started, and over its last minutes."""

    scope: Literal["process", "all_workers"]
    workers: list[WorkerShown]
    pid: int = Field(description="The worker that answers.")
    started_at: datetime
    slow_request_seconds: float
    active_requests: int
    last_1_minute: WindowFigures
    last_5_minutes: WindowFigures
    last_15_minutes: WindowFigures
    history: list[Moment]


class PerformanceReport:
    """Reads the recorder for ``metrics/performance``, and for health's ``traffic``."""

    def __init__(self, recorder: Recorder, history: History) -> None:
        self._recorder = recorder
        self._history = history
        self._looking: asyncio.Future[None] | None = None
        self._traffic: dict[str, Any] = _summary(EndpointStats(), 0.0)
        self._traffic_at = float("-inf")

    async def full(self) -> Performance:
        """Everything; in a thread, since the files of many workers take a few milliseconds to read."""
        return await asyncio.to_thread(self._full)

    def traffic(self) -> dict[str, Any]:
        """The last five minutes in short; waits for nobody, so that with several workers it is a few seconds old."""
        age = time.monotonic() - self._traffic_at
        if self._recorder.directory is None:
            if age > _FRESH_SECONDS:
                self._refresh()
        elif age > _TRAFFIC_SECONDS and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._refresh)
        return self._traffic

    def _refresh(self) -> None:
        self._traffic = self._look()
        self._traffic_at = time.monotonic()

    def _look(self) -> dict[str, Any]:
        now = self._recorder.endpoints()
        total, seconds = self._window(sum_stats(now.values()), 300)
        return _summary(total, seconds)

    def _window(self, now: EndpointStats, seconds: int) -> tuple[EndpointStats, float]:
        entry = _at(self._history.entries(), seconds)
        return now.since(entry.total()), max((now_ms() - entry.at_ms) / 1000, 0.001)

    def _full(self) -> Performance:
        table = self._recorder.read()
        now = stats_by_endpoint(table, self._recorder.probe_paths)
        entries = self._history.entries()
        moment = now_ms()
        workers = self._recorder.workers()
        started_at = self._recorder.server_started_at
        age = max(datetime.now(UTC).timestamp() - started_at, 0.001)
        return Performance(
            **dict(self._figures(now, age)),
            last_1_minute=self._since(_at(entries, 60), now, moment),
            last_5_minutes=self._since(_at(entries, 300), now, moment),
            last_15_minutes=self._since(_at(entries, 900), now, moment),
            scope="process" if self._recorder.directory is None else "all_workers",
            workers=[WorkerShown(pid=each.pid, started_at=_time(each.started_at)) for each in workers],
            pid=os.getpid(),
            started_at=_time(started_at),
            slow_request_seconds=self._recorder.slow_seconds,
            active_requests=int(table[(ACTIVE.name, ())][0]),
            history=_moments(entries, sum_stats(now.values()), moment),
        )

    def _since(self, entry: HistoryEntry, now: StatsByEndpoint, now_at_ms: int) -> WindowFigures:
        seconds = max((now_at_ms - entry.at_ms) / 1000, 0.001)
        return self._figures(stats_since(now, entry.endpoints()), seconds)

    def _figures(self, endpoints: StatsByEndpoint, seconds: float) -> WindowFigures:
        total = sum_stats(endpoints.values())
        return WindowFigures(
            seconds=round(seconds, 1),
            requests=total.requests,
            requests_per_second=round(total.requests / seconds, 3),
            endpoints=[
                EndpointFigures(
                    method=method,
                    route=route,
                    count=each.requests,
                    target_ms=HEALTH_TARGET_MS if route in self._recorder.quick_paths else TARGET_MS,
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
        "p50_ms": milliseconds(total.percentile(0.5)),
        "p95_ms": milliseconds(total.percentile(0.95)),
        "p99_ms": milliseconds(total.percentile(0.99)),
    }


def _shared(figures: EndpointStats) -> dict[str, Any]:
    requests = figures.requests
    return {
        "errors": int(figures.errors),
        "error_rate": round(figures.error_rate, 6),
        "slow_requests": int(figures.slow),
        "client_disconnects": int(figures.disconnects),
        "mean_ms": milliseconds(figures.total_seconds / requests if requests else None),
        "p50_ms": milliseconds(figures.percentile(0.5)),
        "p95_ms": milliseconds(figures.percentile(0.95)),
        "p99_ms": milliseconds(figures.percentile(0.99)),
        "max_ms": milliseconds(figures.max_seconds if requests else None),
    }


def _at(entries: Sequence[HistoryEntry], seconds: int) -> HistoryEntry:
    """The youngest entry that is at least so old, else the oldest of all."""
    until = now_ms() - seconds * 1000
    older = [entry for entry in entries if entry.at_ms <= until]
    return older[-1] if older else entries[0]


def _moments(entries: Sequence[HistoryEntry], now: EndpointStats, now_at_ms: int) -> list[Moment]:
    """What came between each two entries, and since the last."""
    points = [*((entry.at_ms, entry.total()) for entry in entries), (now_at_ms, now)]
    clock = datetime.now(UTC).timestamp()
    moments = []
    for (then_ms, then), (at_ms, total) in pairwise(points):
        came = total.since(then)
        moments.append(
            Moment(
                at=_time(clock - (now_at_ms - at_ms) / 1000),
                seconds=round((at_ms - then_ms) / 1000, 1),
                requests=came.requests,
                errors=int(came.errors),
                slow_requests=int(came.slow),
                p95_ms=milliseconds(came.percentile(0.95)),
            )
        )
    return moments


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
