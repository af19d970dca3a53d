"""Request statistics of each endpoint and in total, computed from the recorded samples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from projkit.telemetry.buckets import SIZE, percentile, upper_bound
from projkit.telemetry.families import DISCONNECTS, HTTP, LAST_ERROR, MAX, SLOW, SUM
from projkit.telemetry.route_kinds import kinds_in, reports_state
from projkit.telemetry.store import Table

_SERVER_ERROR: Final = "5"
_UNAVAILABLE: Final = "503"


@dataclass(slots=True)
class EndpointStats:
    """Statistics of the requests of one endpoint, or of all; durations in seconds.

    ``max_seconds`` is exact since the start; over a window it is the bound of the highest bucket with a request.
    """

    buckets: list[float] = field(default_factory=lambda: [0.0] * SIZE)
    total_seconds: float = 0.0
    max_seconds: float = 0.0
    last_error_at: float = 0.0
    errors: float = 0.0
    slow: float = 0.0
    disconnects: float = 0.0

    @property
    def requests(self) -> int:
        """The number of requests that got a response."""
        return int(sum(self.buckets))

    @property
    def error_rate(self) -> float:
        """The share of requests with a 5xx response."""
        return self.errors / self.requests if self.requests else 0.0

    def percentile(self, share: float) -> float | None:
        """Return the duration that ``share`` of the requests did not exceed; None without requests."""
        return percentile(self.buckets, share, self.max_seconds or float("inf"))

    def add(self, other: "EndpointStats") -> None:
        """Add the statistics of another endpoint."""
        for index, value in enumerate(other.buckets):
            self.buckets[index] += value
        self.total_seconds += other.total_seconds
        self.max_seconds = max(self.max_seconds, other.max_seconds)
        self.last_error_at = max(self.last_error_at, other.last_error_at)
        self.errors += other.errors
        self.slow += other.slow
        self.disconnects += other.disconnects

    def since(self, earlier: "EndpointStats | None") -> "EndpointStats":
        """Return what was added since ``earlier`` statistics of the same endpoint."""
        if earlier is None:
            return self
        buckets = [max(now - then, 0.0) for now, then in zip(self.buckets, earlier.buckets, strict=True)]
        errors = max(self.errors - earlier.errors, 0.0)
        return EndpointStats(
            buckets=buckets,
            total_seconds=max(self.total_seconds - earlier.total_seconds, 0.0),
            max_seconds=min(upper_bound(buckets) or 0.0, self.max_seconds),
            last_error_at=self.last_error_at if errors else 0.0,
            errors=errors,
            slow=max(self.slow - earlier.slow, 0.0),
            disconnects=max(self.disconnects - earlier.disconnects, 0.0),
        )


# By method and route template.
StatsByEndpoint = dict[tuple[str, str], EndpointStats]


def stats_by_endpoint(table: Table) -> StatsByEndpoint:
    """Compute the statistics of each method and route.

    A 503 of a probe or self-test of the kit reports the failure of something else, so it is not counted as an error.
    """
    kinds = kinds_in(table)
    endpoints: StatsByEndpoint = {}
    for (family, labels), values in table.items():
        if family == HTTP.name:
            method, route, status = labels
            stats = endpoints.setdefault((method, route), EndpointStats())
            count = sum(values[:SIZE])
            is_error = status.startswith(_SERVER_ERROR) and not (
                status == _UNAVAILABLE and reports_state(kinds.get(route))
            )
            stats.add(
                EndpointStats(
                    buckets=values[:SIZE],
                    total_seconds=values[SUM],
                    max_seconds=values[MAX],
                    last_error_at=values[LAST_ERROR] if is_error else 0.0,
                    errors=count if is_error else 0.0,
                    slow=values[SLOW],
                )
            )
        elif family == DISCONNECTS.name:
            endpoints.setdefault((labels[0], labels[1]), EndpointStats()).disconnects += values[0]
    return endpoints


def sum_stats(stats: Iterable[EndpointStats]) -> EndpointStats:
    """Add up the statistics of several endpoints."""
    total = EndpointStats()
    for each in stats:
        total.add(each)
    return total


def stats_since(now: StatsByEndpoint, earlier: Mapping[tuple[str, str], EndpointStats]) -> StatsByEndpoint:
    """Return what each endpoint has added since ``earlier``; endpoints without requests are left out."""
    endpoints = {key: stats.since(earlier.get(key)) for key, stats in now.items()}
    return {key: stats for key, stats in endpoints.items() if stats.requests or stats.disconnects}
