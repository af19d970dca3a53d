"""All that a scrape shows, as of one moment: what was counted, and what is asked of the system for it."""

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

Rows = list[tuple[Labels, list[float]]]
_ROWS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a kit runs: its version, and when legacy tokens end where that is set."""

    version: str
    legacy_sunset: datetime | None = None


class Snapshot(NamedTuple):
    """Rows by family, in the order of their labels; the processes of the living workers."""

    rows: Mapping[str, Rows]
    workers: int
    processes: Iterable[ProcessUsage]
    facts: Facts

    def of(self, family: Family) -> Rows:
        """The rows of a family."""
        return self.rows.get(family.name, [])


class _Asked(NamedTuple):
    """What the disk and the system say: other workers' files, whether they live, and what the processes use."""

    others: list[WorkerFile]
    workers: int
    processes: list[ProcessUsage]


def take(recorder: Recorder, facts: Facts) -> Snapshot:
    """A snapshot, in one go."""
    asked = _ask(recorder, retire=True)
    rows: dict[str, Rows] = {}
    for _ in _assemble(recorder.open(), asked.others, rows):
        pass
    return Snapshot(rows, asked.workers, asked.processes, facts)


def own_snapshot(recorder: Recorder, facts: Facts) -> Snapshot:
    """What this process alone has counted, without asking the system for anything."""
    rows: dict[str, Rows] = {}
    for _ in _assemble(recorder.open(), (), rows):
        pass
    return Snapshot(rows, 1, (), facts)


async def take_slowly(recorder: Recorder, facts: Facts) -> Snapshot:
    """A snapshot for who must not hold the event loop up; the disk is asked in a thread."""
    store = recorder.open()
    asked = await asyncio.to_thread(_ask, recorder, retire=False)
    rows: dict[str, Rows] = {}
    yielder = Yielder()
    for _ in _assemble(store, asked.others, rows):
        await yielder.checkpoint()
    return Snapshot(rows, asked.workers, asked.processes, facts)


def _ask(recorder: Recorder, *, retire: bool) -> _Asked:
    others = recorder.other_files(retire=retire)
    pids = [worker.pid for worker in recorder.workers()]
    return _Asked(others, len(pids), process_usage(pids))


def _assemble(store: MetricStore, others: Iterable[WorkerFile], rows: dict[str, Rows]) -> Iterator[None]:
    """Fills ``rows``, in steps of well under a millisecond."""
    table: Table = {}
    for table in store.merge_in_steps(others):  # noqa: B007  # the last is the whole
        yield
    for number, ((family, labels), values) in enumerate(table.items()):
        rows.setdefault(family, []).append((labels, values))
        if number % _ROWS_AT_ONCE == 0:
            yield
    for each in rows.values():
        each.sort(key=itemgetter(0))
        yield
