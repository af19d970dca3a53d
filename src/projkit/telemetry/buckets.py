"""Histograms with buckets fine enough to compute percentiles, a subset of which is exported to Prometheus."""

from collections.abc import Sequence
from typing import Final

# Seconds. Steps of at most a third below the targets, so that a percentile is off by no more than that.
BOUNDS: Final = (
    0.0001, 0.00015, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0008,
    0.001, 0.00125, 0.0015, 0.00175, 0.002, 0.0025, 0.003, 0.0035, 0.004, 0.0045, 0.005, 0.006, 0.007, 0.008, 0.009,
    0.010, 0.0125, 0.015, 0.0175, 0.020, 0.0225, 0.025, 0.030, 0.035, 0.040, 0.045, 0.050, 0.060, 0.075, 0.085,
    0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.85, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.5,
    10.0, 15.0, 20.0, 30.0, 60.0,
)  # fmt: skip
# The targets of 5, 10 and 40 ms are bounds, so that the series show whether they are met.
EXPORTED_BOUNDS: Final = (0.005, 0.010, 0.025, 0.040, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SIZE: Final = len(BOUNDS) + 1  # the last bucket has no upper bound
_EXPORTED_INDEXES: Final = tuple(BOUNDS.index(bound) for bound in EXPORTED_BOUNDS)


def cumulative(buckets: Sequence[float]) -> list[tuple[float, float]]:
    """Return each exported bound with the number of observations up to it."""
    counts, total, start = [], 0.0, 0
    for bound, index in zip(EXPORTED_BOUNDS, _EXPORTED_INDEXES, strict=True):
        total += sum(buckets[start : index + 1])
        start = index + 1
        counts.append((bound, total))
    return counts


def percentile(buckets: Sequence[float], share: float, longest: float = float("inf")) -> float | None:
    """Return the duration in seconds that ``share`` of the observations did not exceed; None without observations.

    It is interpolated between the bounds of its bucket, and never above ``longest``.
    """
    total = sum(buckets[:SIZE])
    if not total:
        return None
    rank, passed = share * total, 0.0
    for index in range(SIZE):
        count = buckets[index]
        if count and passed + count >= rank:
            lower = BOUNDS[index - 1] if index else 0.0
            upper = max(min(BOUNDS[index] if index < len(BOUNDS) else longest, longest), lower)
            if upper == float("inf"):
                return lower
            return min(lower + (upper - lower) * (rank - passed) / count, upper)
        passed += count
    return BOUNDS[-1]  # pragma: no cover - the loop ends in the bucket of the last observation


def upper_bound(buckets: Sequence[float]) -> float | None:
    """Return the bound of the highest non-empty bucket: None without observations, infinity past the last bound."""
    for index in range(SIZE - 1, -1, -1):
        if buckets[index]:
            return BOUNDS[index] if index < len(BOUNDS) else float("inf")
    return None


def milliseconds(seconds: float | None) -> float | None:
    """Convert seconds to rounded milliseconds; None stays None."""
    return None if seconds is None else round(seconds * 1000, 3)
