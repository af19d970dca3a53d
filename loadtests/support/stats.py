"""Latency statistics that can be merged across processes. Times are in milliseconds."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

_LOG_BUCKET_WIDTH: Final = math.log(1.02)  # percentiles are accurate to 1 %
_MIN_MS: Final = 0.01


class Histogram:
    """A histogram with bucket widths of 2 %. Count, sum and maximum are exact."""

    def __init__(self) -> None:
        self.count, self.sum, self.max = 0, 0.0, 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, ms: float) -> None:
        """Add one value; a negative one (the clock was read slightly early) counts as 0."""
        ms = max(ms, 0.0)
        self.count += 1
        self.sum += ms
        self.max = max(self.max, ms)
        self._buckets[math.ceil(math.log(max(ms, _MIN_MS)) / _LOG_BUCKET_WIDTH)] += 1

    def merge(self, other: "Histogram") -> None:
        """Add the counts of ``other``."""
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)
        self._buckets.update(other._buckets)

    @property
    def mean(self) -> float:
        """The mean; 0 if there are no values."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """Return a percentile by nearest rank; of fewer than 100 values the p99 is the maximum."""
        rank, seen = math.ceil(share * self.count), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(math.exp(bucket * _LOG_BUCKET_WIDTH), self.max)
        return 0.0

    def above(self, limit: float) -> int:
        """Return how many values exceed ``limit`` by more than the width of a bucket (2 %)."""
        return sum(
            number
            for bucket, number in self._buckets.items()
            if (bucket - 1) * _LOG_BUCKET_WIDTH >= math.log(limit)
        )

    def to_wire(self) -> list[Any]:
        """Serialize for another process."""
        return [self.count, self.sum, self.max, list(self._buckets.items())]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> "Histogram":
        """Deserialize the result of `to_wire`."""
        histogram = cls()
        histogram.count, histogram.sum, histogram.max, buckets = wire
        histogram._buckets.update(dict(buckets))
        return histogram


@dataclass
class EndpointStats:
    """One endpoint in one stage: latency from the intended start, latency from the moment of sending, and failures."""

    method: str
    route: str
    intended: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """The number of requests without the expected response."""
        return self.failures.total()

    def merge(self, other: "EndpointStats") -> None:
        """Add the counts of ``other``."""
        self.intended.merge(other.intended)
        self.service.merge(other.service)
        self.failures.update(other.failures)


class Stats:
    """Statistics by stage and endpoint, and the delay of the generator itself."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], EndpointStats] = {}
        self.lateness = Histogram()

    def row(self, stage: str, name: str, method: str, route: str) -> EndpointStats:
        """Return the statistics of one endpoint in one stage, created if missing."""
        return self.rows.setdefault((stage, name), EndpointStats(method, route))

    def stage(self, stage: str) -> dict[str, EndpointStats]:
        """Return the statistics of one stage by endpoint."""
        return {name: row for (of, name), row in self.rows.items() if of == stage}

    def stages(self) -> list[str]:
        """Return the stages in order of their first request."""
        return list(dict.fromkeys(stage for stage, _ in self.rows))

    def export(self) -> dict[str, Any]:
        """Serialize everything for the master and reset."""
        wire = {
            "lateness": self.lateness.to_wire(),
            "rows": [
                [
                    *key,
                    row.method,
                    row.route,
                    row.intended.to_wire(),
                    row.service.to_wire(),
                    dict(row.failures),
                ]
                for key, row in self.rows.items()
            ],
        }
        self.rows, self.lateness = {}, Histogram()
        return wire

    def add_exported(self, wire: dict[str, Any]) -> None:
        """Merge what a worker has exported."""
        self.lateness.merge(Histogram.from_wire(wire["lateness"]))
        for stage, name, method, route, intended, service, failures in wire["rows"]:
            exported = EndpointStats(
                method, route, Histogram.from_wire(intended), Histogram.from_wire(service), Counter(failures)
            )
            self.row(stage, name, method, route).merge(exported)
