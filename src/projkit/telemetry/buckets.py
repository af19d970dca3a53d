"""Histograms: fine enough to read percentiles from, and with the bounds that Prometheus is shown among theirs."""

from bisect import bisect_left
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
# The targets of 5, 10 and 40 ms are bounds, so that whoever reads the series sees them kept or missed.
EXPORTED_BOUNDS: Final = (0.005, 0.010, 0.025, 0.040, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SIZE: Final = len(BOUNDS) + 1  # the last bucket has no upper bound
_EXPORTED_INDEXES: Final = tuple(BOUNDS.index(bound) for bound in EXPORTED_BOUNDS)


def bucket_of(seconds: float) -> int:
    """The index of the bucket: the first whose bound is not below ``seconds``."""
    return bisect_left(BOUNDS, seconds)


def cumulative(buckets: Sequence[float]) -> list[tuple[float, float]]:
    """How many were at most as long as each of the :data:`EXPORTED_BOUNDS` bounds."""
    found, total, start = [], 0.0, 0
    for bound, at in zip(EXPORTED_BOUNDS, _EXPORTED_INDEXES, strict=True):
        total += sum(buckets[start : at + 1])
        start = at + 1
        found.append((bound, total))
    return found


def percentile(buckets: Sequence[float], share: float, longest: float = float("inf")) -> float | None:
    """The duration that ``share`` of all did not exceed, in seconds; None of nothing.

    Between the bounds of its bucket it is interpolated; it is never above ``longest``.
    """
    total = sum(buckets[:SIZE])
    if not total:
        return None
    wanted, passed = share * total, 0.0
    for index in range(SIZE):
        count = buckets[index]
        if count and passed + count >= wanted:
            lower = BOUNDS[index - 1] if index else 0.0
            upper = max(min(BOUNDS[index] if index < len(BOUNDS) else longest, longest), lower)
            if upper == float("inf"):
                return lower
            return min(lower + (upper - lower) * (wanted - passed) / count, upper)
        passed += count
    return BOUNDS[-1]  # pragma: no cover - the loop ends in the bucket of the last


def upper_bound(buckets: Sequence[float]) -> float | None:
    """The bound of the highest bucket that is not empty; None of nothing, infinity past the last."""
    for index in range(SIZE - 1, -1, -1):
        if buckets[index]:
            return BOUNDS[index] if index < len(BOUNDS) else float("inf")
    return None


def milliseconds(seconds: float | None) -> float | None:
    """As figures show it; None of nothing."""
    return None if seconds is None else round(seconds * 1000, 3)
