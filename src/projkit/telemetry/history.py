"""Samples of the counters, from which the figures of the last minutes are made.

One process samples for all workers of a server: whoever holds the lock of the directory's ``sampler``. When it ends,
the next to try takes over, so that a worker that has just been restarted knows the last quarter of an hour as well.
"""

import asyncio
import fcntl
import json
import logging
import os
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, Protocol

from projkit.telemetry.buckets import SIZE
from projkit.telemetry.figures import Endpoints, Figures, total_of
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.workers import WorkerDirectory, now_ms

logger: Final = logging.getLogger("projkit")

PERIOD_SECONDS: Final = 10.0
KEPT_SECONDS: Final = 15 * 60 + 2 * PERIOD_SECONDS
_PREFIX: Final = "history-"
_ROW: Final = Struct(f"={SIZE + 6}d")


class HistoryEntry(NamedTuple):
    """The counters at one moment, in milliseconds on the machine's monotonic clock."""

    at_ms: int
    packed: bytes

    def endpoints(self) -> Endpoints:
        """The figures of each endpoint at that moment."""
        names, _, rows = zlib.decompress(self.packed)[_ROW.size :].partition(b"\n")
        found: Endpoints = {}
        for (method, route), values in zip(json.loads(names), _ROW.iter_unpack(rows), strict=True):
            found[(method, route)] = _figures(values)
        return found

    def total(self) -> Figures:
        """The figures of all endpoints at that moment."""
        return _figures(_ROW.unpack_from(zlib.decompress(self.packed)))


def _figures(values: Sequence[float]) -> Figures:
    return Figures(list(values[:SIZE]), *values[SIZE:])


def _row(figures: Figures) -> bytes:
    counts = (figures.errors, figures.slow, figures.disconnects)
    return _ROW.pack(*figures.buckets, figures.seconds, figures.longest, figures.last_error_at, *counts)


def take(endpoints: Endpoints, at_ms: int) -> HistoryEntry:
    """A sample of these figures."""
    rows = b"".join(_row(each) for each in endpoints.values())
    names = json.dumps(list(endpoints)).encode()
    return HistoryEntry(at_ms, zlib.compress(_row(total_of(endpoints.values())) + names + b"\n" + rows, 1))


class Store(Protocol):
    """Where samples are kept, the oldest first."""

    def may_add(self) -> bool:
        """Whether it is this process that samples."""

    def add(self, entry: HistoryEntry) -> None:
        """Keeps one, and drops those that are too old."""

    def entries(self) -> list[HistoryEntry]:
        """Those that are kept."""


class _Memory:
    def __init__(self) -> None:
        self._entries: deque[HistoryEntry] = deque(maxlen=int(KEPT_SECONDS / PERIOD_SECONDS) + 1)

    def may_add(self) -> bool:
        return True

    def add(self, entry: HistoryEntry) -> None:
        self._entries.append(entry)

    def entries(self) -> list[HistoryEntry]:
        return list(self._entries)


class _Files:
    def __init__(self, directory: WorkerDirectory) -> None:
        self._path = directory.path
        self._sampling = False

    def may_add(self) -> bool:
        if not self._sampling:
            lock = os.open(self._path / "sampler", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            weakref.finalize(self, os.close, lock)
            self._sampling = True
        return True

    def add(self, entry: HistoryEntry) -> None:
        new = self._path / f"new-{_PREFIX}{entry.at_ms}"
        new.write_bytes(entry.packed)
        new.replace(self._path / f"{_PREFIX}{entry.at_ms}")
        for path, at_ms in self._paths():
            if at_ms < entry.at_ms - KEPT_SECONDS * 1000:
                path.unlink(missing_ok=True)

    def entries(self) -> list[HistoryEntry]:
        found = []
        for path, at_ms in self._paths():
            with suppress(FileNotFoundError):
                found.append(HistoryEntry(at_ms, path.read_bytes()))
        return sorted(found)

    def _paths(self) -> list[tuple[Path, int]]:
        return [(path, int(path.name.removeprefix(_PREFIX))) for path in self._path.glob(f"{_PREFIX}*")]


class History:
    """The samples of a recorder, over all workers."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._store: Store | None = None

    def record(self) -> None:
        """Takes a sample, unless another worker does."""
        store = self._opened()
        if store.may_add():
            store.add(take(self._recorder.endpoints(), now_ms()))

    def entries(self) -> list[HistoryEntry]:
        """Those of the last quarter of an hour, the oldest first; never none: counts began with the server."""
        found = self._opened().entries()
        if found:
            return found
        age = time.time() - self._recorder.server_started_at
        return [take({}, now_ms() - int(age * 1000))]

    def _opened(self) -> Store:
        if self._store is None:
            directory = self._recorder.directory
            self._store = _Memory() if directory is None else _Files(directory)
            if not self._store.entries() and self._store.may_add():
                self._store.add(take({}, now_ms()))  # counts began with the server
        return self._store


class Sampler:
    """Samples in the background of one event loop.

    Args:
        history: what is sampled, in a thread, since other workers' files take a few milliseconds.
        also: what else is looked at each time, on the event loop.
    """

    def __init__(self, history: History, also: Callable[[], None]) -> None:
        self._history = history
        self._also = also
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends it."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                self._also()
                await asyncio.to_thread(self._history.record)
            except OSError as error:  # a full disk, say; requests are counted all the same
                logger.warning("the figures of the last minutes cannot be kept: %s", error)
            await asyncio.sleep(PERIOD_SECONDS)
