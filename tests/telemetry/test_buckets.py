"""Percentiles computed from buckets are off by at most the width of a bucket."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from projkit.telemetry.buckets import (
    BOUNDS,
    EXPORTED_BOUNDS,
    SIZE,
    cumulative,
    percentile,
    upper_bound,
)

DURATIONS = st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=200)


def counted(durations: list[float]) -> list[float]:
    """Return a histogram of durations."""
    buckets = [0.0] * SIZE
    for each in durations:
        buckets[bisect_left(BOUNDS, each)] += 1
    return buckets


@given(DURATIONS, st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentiles(durations: list[float], share: float) -> None:
    """A percentile lies within the bucket of the exact value, and never above the longest duration."""
    found = percentile(counted(durations), share, max(durations))
    exact = sorted(durations)[max(-(-int(share * 100) * len(durations) // 100) - 1, 0)]
    index = bisect_left(BOUNDS, exact)
    assert found is not None
    assert (BOUNDS[index - 1] if index else 0.0) <= found <= max(durations)
    if index < len(BOUNDS):
        assert found <= BOUNDS[index]


def test_of_nothing() -> None:
    """Without observations there is no percentile."""
    assert percentile([0.0] * SIZE, 0.5) is None
    assert upper_bound([0.0] * SIZE) is None


def test_past_the_last_bound() -> None:
    """Past the last bound, a percentile is that bound."""
    assert percentile(counted([100.0]), 0.5) == BOUNDS[-1]
    assert upper_bound(counted([100.0])) == float("inf")


@given(DURATIONS)
def test_shown_bounds(durations: list[float]) -> None:
    """The exported bounds count exactly the durations up to them."""
    for bound, number in cumulative(counted(durations)):
        assert number == sum(each <= bound for each in durations)
    assert {0.005, 0.010, 0.040} <= set(EXPORTED_BOUNDS)
