"""The kit's Prometheus metrics, created from what the recorder has counted over all workers."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from projkit.telemetry import exemplars
from projkit.telemetry.buckets import SIZE, cumulative
from projkit.telemetry.families import SUM
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.series import HISTOGRAMS, SCALARS, Histogram
from projkit.telemetry.snapshot import KitInfo, Snapshot, take_snapshot, take_snapshot_async

T = TypeVar("T")
Bucket = tuple[str, float] | tuple[str, float, Exemplar]
# Encoded in a fraction of a millisecond, even if all have exemplars.
_SAMPLES_PER_PART: Final = 6


class MetricPart(NamedTuple):
    """A part of a metric: its first one, or a continuation."""

    metric: Metric
    first: bool


class RecorderCollector(Collector):
    """A collector that reads the recorder at each scrape."""

    def __init__(self, recorder: Recorder, info: KitInfo) -> None:
        self._recorder = recorder
        self._info = info

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics in the order of their declaration."""
        whole: Metric | None = None
        for metric, first in metric_parts(take_snapshot(self._recorder, self._info)):
            if first:
                if whole is not None:
                    yield whole
                whole = metric
            elif whole is not None:
                whole.samples += metric.samples
        if whole is not None:
            yield whole

    async def read(self) -> Snapshot:
        """Read the snapshot for :func:`metric_parts` without blocking the event loop."""
        return await take_snapshot_async(self._recorder, self._info)


def metric_parts(snapshot: Snapshot) -> Iterator[MetricPart]:
    """Yield all metrics in parts that each take well under a millisecond to create and to encode."""
    for histogram in HISTOGRAMS:
        yield from _histogram_parts(histogram, snapshot)
    for kind, name, description, label_names, values in SCALARS:
        for samples, first in _batches(values(snapshot)):
            metric = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, description, labels=label_names
            )
            for labels, value in samples:
                metric.add_metric(labels, value)
            yield MetricPart(metric, first)


def _histogram_parts(histogram: Histogram, snapshot: Snapshot) -> Iterator[MetricPart]:
    traced = {} if histogram.exemplars is None else dict(snapshot.of(histogram.exemplars))
    heading = HistogramMetricFamily(histogram.name, histogram.description, labels=histogram.labels)
    yield MetricPart(heading, first=True)
    for labels, values in snapshot.of(histogram.family):
        metric = copy(heading)
        metric.samples = []
        metric.add_metric(labels, _buckets(values, traced.get(labels)), values[SUM])
        for samples, _ in _batches(metric.samples):
            part = copy(heading)
            part.samples = samples
            yield MetricPart(part, first=False)


def _batches(samples: Iterable[T]) -> Iterator[tuple[list[T], bool]]:
    """Yield a few samples at a time, and whether they are the first, which may be an empty list."""
    remaining = iter(samples)
    yield list(islice(remaining, _SAMPLES_PER_PART)), True
    while batch := list(islice(remaining, _SAMPLES_PER_PART)):
        yield batch, False


def _buckets(values: Sequence[float], traced: Sequence[float] | None) -> list[Bucket]:
    counts = [*((f"{bound:g}", count) for bound, count in cumulative(values)), ("+Inf", sum(values[:SIZE]))]
    if traced is None:
        return [*counts]
    return [
        bucket
        if exemplar is None
        else (*bucket, Exemplar({"trace_id": exemplar.trace_id}, exemplar.seconds, exemplar.at))
        for bucket, exemplar in zip(counts, exemplars.read(traced), strict=True)
    ]
