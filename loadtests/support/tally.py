"""Latencies as counts, which can be added up over processes: times are in milliseconds."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

_GROWTH: Final = math.log(1.02)  # a bucket's width: a percentile is right to one part in a hundred
_LEAST: Final = 0.01


class Latencies:
    """A histogram with buckets of 2 %; count, sum and maximum are exact."""

    def __init__(self) -> None:
        self.count, self.sum, self.max = 0, 0.0, 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, ms: float) -> None:
        """Counts one; a negative one, of a clock that was read a little early, is 0."""
        ms = max(ms, 0.0)
        self.count += 1
        self.sum += ms
        self.max = max(self.max, ms)
        self._buckets[math.ceil(math.log(max(ms, _LEAST)) / _GROWTH)] += 1

    def merge(self, other: "Latencies") -> None:
        """Adds another one's counts."""
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)
        self._buckets.update(other._buckets)

    @property
    def mean(self) -> float:
        """0 of none."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """The value that this share of all does not exceed, by nearest rank: of few, the p99 is the maximum."""
        rank, seen = math.ceil(share * self.count), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(math.exp(bucket * _GROWTH), self.max)
        return 0.0

    def above(self, limit: float) -> int:
        """How many exceed it; up to one part in fifty above it does not count."""
        return sum(
            number for bucket, number in self._buckets.items() if (bucket - 1) * _GROWTH >= math.log(limit)
        )

    def to_wire(self) -> list[Any]:
        """For another process."""
        return [self.count, self.sum, self.max, list(self._buckets.items())]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> "Latencies":
        """The reverse of `to_wire`."""
        made = cls()
        made.count, made.sum, made.max, buckets = wire
        made._buckets.update(dict(buckets))
        return made


@dataclass
class Row:
    """What one endpoint did in one stage: from the intended start, from the moment of sending, and what failed."""

    method: str
    route: str
    intended: Latencies = field(default_factory=Latencies)
    service: Latencies = field(default_factory=Latencies)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """How many were not answered as expected."""
        return self.failures.total()

    def merge(self, other: "Row") -> None:
        """Adds another one's counts."""
        self.intended.merge(other.intended)
        self.service.merge(other.service)
        self.failures.update(other.failures)


class Tally:
    """Rows by stage and endpoint; and how late this machine itself was to send."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.lateness = Latencies()

    def row(self, stage: str, name: str, method: str, route: str) -> Row:
        """The row to count in."""
        return self.rows.setdefault((stage, name), Row(method, route))

    def stage(self, stage: str) -> dict[str, Row]:
        """The rows of one stage, by endpoint."""
        return {name: row for (of, name), row in self.rows.items() if of == stage}

    def stages(self) -> list[str]:
        """In the order in which they were first seen."""
        return list(dict.fromkeys(stage for stage, _ in self.rows))

    def take(self) -> dict[str, Any]:
        """Everything, for the master; counts from zero afterwards."""
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
        self.rows, self.lateness = {}, Latencies()
        return wire

    def put(self, wire: dict[str, Any]) -> None:
        """Adds what a worker has taken."""
        self.lateness.merge(Latencies.from_wire(wire["lateness"]))
        for stage, name, method, route, intended, service, failures in wire["rows"]:
            came = Row(
                method, route, Latencies.from_wire(intended), Latencies.from_wire(service), Counter(failures)
            )
            self.row(stage, name, method, route).merge(came)
