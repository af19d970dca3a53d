"""What the counted cells mean: requests, errors and latencies, in all and for each endpoint."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from projkit.telemetry.buckets import SIZE, percentile, upper_bound
from projkit.telemetry.families import DISCONNECTS, HTTP, LAST_ERROR, MAX, SLOW, SUM
from projkit.telemetry.store import Table

_ERROR: Final = "5"
_UNAVAILABLE: Final = "503"


@dataclass(slots=True)
class Figures:
    """Requests of one endpoint, or of all; durations in seconds.

    ``longest`` is exact since the start; over a window it is the bound of the highest bucket that was hit.
    """

    buckets: list[float] = field(default_factory=lambda: [0.0] * SIZE)
    seconds: float = 0.0
    longest: float = 0.0
    last_error_at: float = 0.0
    errors: float = 0.0
    slow: float = 0.0
    disconnects: float = 0.0

    @property
    def requests(self) -> int:
        """How many were answered."""
        return int(sum(self.buckets))

    @property
    def error_rate(self) -> float:
        """The share that was answered with 5xx."""
        return self.errors / self.requests if self.requests else 0.0

    def percentile(self, share: float) -> float | None:
        """The duration that ``share`` of them did not exceed."""
        return percentile(self.buckets, share, self.longest or float("inf"))

    def add(self, other: "Figures") -> None:
        """Takes another one in."""
        for index, value in enumerate(other.buckets):
            self.buckets[index] += value
        self.seconds += other.seconds
        self.longest = max(self.longest, other.longest)
        self.last_error_at = max(self.last_error_at, other.last_error_at)
        self.errors += other.errors
        self.slow += other.slow
        self.disconnects += other.disconnects

    def since(self, earlier: "Figures | None") -> "Figures":
        """What has come since an earlier look at the same counts."""
        if earlier is None:
            return self
        buckets = [max(now - then, 0.0) for now, then in zip(self.buckets, earlier.buckets, strict=True)]
        errors = max(self.errors - earlier.errors, 0.0)
        return Figures(
            buckets=buckets,
            seconds=max(self.seconds - earlier.seconds, 0.0),
            longest=min(upper_bound(buckets) or 0.0, self.longest),
            last_error_at=self.last_error_at if errors else 0.0,
            errors=errors,
            slow=max(self.slow - earlier.slow, 0.0),
            disconnects=max(self.disconnects - earlier.disconnects, 0.0),
        )


Endpoints = dict[tuple[str, str], Figures]


def endpoints_of(table: Table, probes: Set[str] = frozenset()) -> Endpoints:
    """The figures of each method and route; a 503 of ``probes`` says that something else fails, and is no error."""
    found: Endpoints = {}
    for (family, labels), cells in table.items():
        if family == HTTP.name:
            method, route, status = labels
            figures = found.setdefault((method, route), Figures())
            count = sum(cells[:SIZE])
            is_error = status.startswith(_ERROR) and not (status == _UNAVAILABLE and route in probes)
            figures.add(
                Figures(
                    buckets=cells[:SIZE],
                    seconds=cells[SUM],
                    longest=cells[MAX],
                    last_error_at=cells[LAST_ERROR] if is_error else 0.0,
                    errors=count if is_error else 0.0,
                    slow=cells[SLOW],
                )
            )
        elif family == DISCONNECTS.name:
            found.setdefault((labels[0], labels[1]), Figures()).disconnects += cells[0]
    return found


def total_of(figures: Iterable[Figures]) -> Figures:
    """All of them together."""
    total = Figures()
    for each in figures:
        total.add(each)
    return total


def since(now: Endpoints, earlier: Mapping[tuple[str, str], Figures]) -> Endpoints:
    """What each endpoint has had since; those that had nothing are left out."""
    found = {key: figures.since(earlier.get(key)) for key, figures in now.items()}
    return {key: figures for key, figures in found.items() if figures.requests or figures.disconnects}
