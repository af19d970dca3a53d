"""The health checks of the workers, as one of them sees the results of all."""

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from projkit.telemetry.families import CRITICAL, FAILING_SINCE, HEALTHY, LATENCY, NO_RESULT, VALID_UNTIL
from projkit.telemetry.store import Labels


class CheckSummary(NamedTuple):
    """A health check over all workers that run it.

    Attributes:
        name: the check.
        critical: whether readiness depends on it.
        healthy: whether it succeeds in every worker that has a current result; None if none has one.
        stale: the number of workers that have not run it for too long.
        failing_since: the first failure since it last succeeded, where it fails for longest, in seconds since 1970.
        latency_seconds: the duration of its last run in the slowest worker.
    """

    name: str
    critical: bool
    healthy: bool | None
    stale: int
    failing_since: float | None
    latency_seconds: float


def summarize_checks(samples: Iterable[tuple[Labels, list[float]]], now: float) -> Iterator[CheckSummary]:
    """Yield each check that a worker runs.

    Args:
        samples: those of the family ``HEALTH``, ordered by their labels.
        now: the present time on the monotonic clock.
    """
    for name, group in groupby(samples, key=lambda sample: sample[0][0]):
        running = [values for _, values in group if values[VALID_UNTIL]]
        if not running:
            continue
        results = [
            each[HEALTHY] for each in running if each[HEALTHY] != NO_RESULT and now < each[VALID_UNTIL]
        ]
        since = min(each[FAILING_SINCE] for each in running)
        yield CheckSummary(
            name,
            critical=any(each[CRITICAL] for each in running),
            healthy=all(results) if results else None,
            stale=sum(now >= each[VALID_UNTIL] for each in running),
            failing_since=None if since == math.inf else since,
            latency_seconds=max(each[LATENCY] for each in running),
        )
