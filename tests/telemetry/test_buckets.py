"""Percentiles from buckets are right to within the width of one."""

from hypothesis import given
from hypothesis import strategies as st

from projkit.telemetry.buckets import (
    BOUNDS,
    EXPORTED_BOUNDS,
    SIZE,
    bucket_of,
    cumulative,
    percentile,
    upper_bound,
)

DURATIONS = st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=200)


def counted(durations: list[float]) -> list[float]:
    """A histogram of these."""
    buckets = [0.0] * SIZE
    for each in durations:
        buckets[bucket_of(each)] += 1
    return buckets


@given(DURATIONS, st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentiles(durations: list[float], share: float) -> None:
    """A percentile lies within the bucket of the duration that it stands for, and never above the longest."""
    found = percentile(counted(durations), share, max(durations))
    exact = sorted(durations)[max(-(-int(share * 100) * len(durations) // 100) - 1, 0)]
    index = bucket_of(exact)
    assert found is not None
    assert (BOUNDS[index - 1] if index else 0.0) <= found <= max(durations)
    if index < len(BOUNDS):
        assert found <= BOUNDS[index]


def test_of_nothing() -> None:
    """Of nothing there is no percentile."""
    assert percentile([0.0] * SIZE, 0.5) is None
    assert upper_bound([0.0] * SIZE) is None


def test_past_the_last_bound() -> None:
    """What is past the last bound is said to be that at least."""
    assert percentile(counted([100.0]), 0.5) == BOUNDS[-1]
    assert upper_bound(counted([100.0])) == float("inf")


@given(DURATIONS)
def test_shown_bounds(durations: list[float]) -> None:
    """The bounds that Prometheus is shown count exactly what did not exceed them."""
    for bound, number in cumulative(counted(durations)):
        assert number == sum(each <= bound for each in durations)
    assert {0.005, 0.010, 0.040} <= set(EXPORTED_BOUNDS)
