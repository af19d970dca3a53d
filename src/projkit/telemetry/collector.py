"""The kit's series for Prometheus, made of what the recorder has counted over all workers."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Shown

from projkit.telemetry import exemplars
from projkit.telemetry.buckets import SIZE, cumulative
from projkit.telemetry.cells import Labels
from projkit.telemetry.families import SUM
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.series import HISTOGRAMS, PLAIN, Histogram
from projkit.telemetry.snapshot import Facts, Rows, Snapshot, take, take_slowly

T = TypeVar("T")
# What is written in well under a millisecond: a histogram alone has seventeen samples.
_HISTOGRAMS_AT_ONCE: Final = 1
_SAMPLES_AT_ONCE: Final = 20


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
        traced = {} if histogram.exemplars is None else dict(snapshot.of(histogram.exemplars))
        for rows, first in _parts(snapshot.of(histogram.family), _HISTOGRAMS_AT_ONCE):
            yield Piece(_histogram(histogram, rows, traced), first)
    for kind, name, text, labels, values in PLAIN:
        for samples, first in _parts(values(snapshot), _SAMPLES_AT_ONCE):
            metric = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, text, labels=labels
            )
            for label_values, value in samples:
                metric.add_metric(label_values, value)
            yield Piece(metric, first)


def _parts(whole: Iterable[T], size: int) -> Iterator[tuple[list[T], bool]]:
    """A few at a time, and which are the first; those may be none."""
    remaining = iter(whole)
    yield list(islice(remaining, size)), True
    while part := list(islice(remaining, size)):
        yield part, False


def _histogram(series: Histogram, rows: Rows, traced: dict[Labels, list[float]]) -> Metric:
    histogram = HistogramMetricFamily(series.name, series.text, labels=series.labels)
    for values, cells in rows:
        bounds = [
            *((f"{bound:g}", number) for bound, number in cumulative(cells)),
            ("+Inf", sum(cells[:SIZE])),
        ]
        if (found := traced.get(values)) is None:
            histogram.add_metric(values, bounds, cells[SUM])
        else:
            buckets = [
                bound if each is None else (*bound, _shown(each))
                for bound, each in zip(bounds, exemplars.read(found), strict=True)
            ]
            histogram.add_metric(values, buckets, cells[SUM])
    return histogram


def _shown(exemplar: exemplars.Exemplar) -> Shown:
    return Shown({"trace_id": exemplar.trace_id}, exemplar.seconds, exemplar.at)
