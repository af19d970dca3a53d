"""The data of one scrape: recorded samples, and figures of the operating system."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Final, NamedTuple

from projkit.telemetry.processes import ProcessUsage, process_usage
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.store import Family, Labels, MetricStore, Table, WorkerFile
from projkit.telemetry.yielding import Yielder

LabelledValues = list[tuple[Labels, list[float]]]
_SAMPLES_PER_STEP: Final = 256


@dataclass(frozen=True, slots=True)
class KitInfo:
    """The constants of a running kit: its version, and the end of legacy tokens if one is set."""

    version: str
    legacy_sunset: datetime | None = None


class Snapshot(NamedTuple):
    """Samples by family, ordered by their labels, with the number of living workers and their processes."""

    samples: Mapping[str, LabelledValues]
    workers: int
    processes: Iterable[ProcessUsage]
    info: KitInfo

    def of(self, family: Family) -> LabelledValues:
        """Return the samples of a family."""
        return self.samples.get(family.name, [])


class _SystemState(NamedTuple):
    """The data read from the disk and the operating system for a snapshot."""

    others: list[WorkerFile]
    workers: int
    processes: list[ProcessUsage]


def take_snapshot(recorder: Recorder, info: KitInfo) -> Snapshot:
    """Take a snapshot of all workers; blocks."""
    system = _read_system(recorder, retire=True)
    samples: dict[str, LabelledValues] = {}
    for _ in _collect(recorder.open(), system.others, samples):
        pass
    return Snapshot(samples, system.workers, system.processes, info)


def process_snapshot(recorder: Recorder, info: KitInfo) -> Snapshot:
    """Take a snapshot of this process alone, without reading anything from the system."""
    samples: dict[str, LabelledValues] = {}
    for _ in _collect(recorder.open(), (), samples):
        pass
    return Snapshot(samples, 1, (), info)


async def take_snapshot_async(recorder: Recorder, info: KitInfo) -> Snapshot:
    """Take a snapshot of all workers without blocking the event loop; the disk is read in a thread."""
    store = recorder.open()
    system = await asyncio.to_thread(_read_system, recorder, retire=False)
    samples: dict[str, LabelledValues] = {}
    yielder = Yielder()
    for _ in _collect(store, system.others, samples):
        await yielder.checkpoint()
    return Snapshot(samples, system.workers, system.processes, info)


def _read_system(recorder: Recorder, *, retire: bool) -> _SystemState:
    others = recorder.other_files(retire=retire)
    pids = [worker.pid for worker in recorder.workers()]
    return _SystemState(others, len(pids), process_usage(pids))


def _collect(
    store: MetricStore, others: Iterable[WorkerFile], samples: dict[str, LabelledValues]
) -> Iterator[None]:
    """Fill ``samples`` in steps of well under a millisecond."""
    table: Table = {}
    for table in store.merge_in_steps(others):  # noqa: B007 - the last one is complete
        yield
    for number, ((family, labels), values) in enumerate(table.items()):
        samples.setdefault(family, []).append((labels, values))
        if number % _SAMPLES_PER_STEP == 0:
            yield
    for each in samples.values():
        each.sort(key=itemgetter(0))
        yield
