"""The kit's series for Prometheus, made of what the recorder has counted over all workers."""

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
from projkit.telemetry.series import HISTOGRAMS, PLAIN, Histogram
from projkit.telemetry.snapshot import Facts, Snapshot, take, take_slowly

T = TypeVar("T")
Bucket = tuple[str, float] | tuple[str, float, Exemplar]
# What is written in a fraction of a millisecond, also where all have exemplars.
_SAMPLES_AT_ONCE: Final = 6


class Piece(NamedTuple):
    """A part of a metric: its first one, or one that goes on with it."""

    metric: Metric
    first: bool


class RecorderCollector(Collector):
    """Reads the recorder at each scrape."""

    def __init__(self, recorder: Recorder, facts: Facts) -> None:
        self._recorder = recorder
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """All series, in the order in which they are declared."""
        whole: Metric | None = None
        for metric, first in pieces(take(self._recorder, self._facts)):
            if first:
                if whole is not None:
                    yield whole
                whole = metric
            elif whole is not None:
                whole.samples += metric.samples
        if whole is not None:
            yield whole

    async def read(self) -> Snapshot:
        """What :func:`pieces` are made of; lets others on the event loop go on."""
        return await take_slowly(self._recorder, self._facts)


def pieces(snapshot: Snapshot) -> Iterator[Piece]:
    """All series, in parts that take well under a millisecond each to make and to write."""
    for histogram in HISTOGRAMS:
        yield from _histogram(histogram, snapshot)
    for kind, name, text, labels, values in PLAIN:
        for rows, first in _parts(values(snapshot)):
            metric = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, text, labels=labels
            )
            for label_values, value in rows:
                metric.add_metric(label_values, value)
            yield Piece(metric, first)


def _histogram(series: Histogram, snapshot: Snapshot) -> Iterator[Piece]:
    traced = {} if series.exemplars is None else dict(snapshot.of(series.exemplars))
    heading = HistogramMetricFamily(series.name, series.text, labels=series.labels)
    yield Piece(heading, first=True)
    for labels, cells in snapshot.of(series.family):
        one = copy(heading)
        one.samples = []
        one.add_metric(labels, _buckets(cells, traced.get(labels)), cells[SUM])
        for samples, _ in _parts(one.samples):
            part = copy(heading)
            part.samples = samples
            yield Piece(part, first=False)


def _parts(whole: Iterable[T]) -> Iterator[tuple[list[T], bool]]:
    """A few at a time, and which are the first; those may be none."""
    remaining = iter(whole)
    yield list(islice(remaining, _SAMPLES_AT_ONCE)), True
    while part := list(islice(remaining, _SAMPLES_AT_ONCE)):
        yield part, False


def _buckets(cells: Sequence[float], traced: Sequence[float] | None) -> list[Bucket]:
    counts = [*((f"{bound:g}", number) for bound, number in cumulative(cells)), ("+Inf", sum(cells[:SIZE]))]
    if traced is None:
        return [*counts]
    return [
        count if found is None else (*count, Exemplar({"trace_id": found.trace_id}, found.seconds, found.at))
        for count, found in zip(counts, exemplars.read(traced), strict=True)
    ]
