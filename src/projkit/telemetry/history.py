"""A history of counters, from which statistics of the last minutes are computed.

One process samples for all workers of a server: the one that holds the lock of the directory's file ``sampler``. When
it ends, the next process that tries takes over, so a worker that was just restarted knows the last 15 minutes too.
"""

import asyncio
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
from struct import error as struct_error
from typing import Final, NamedTuple

from projkit.file_lock import acquire_lock, is_at
from projkit.forks import reset_in_forks
from projkit.telemetry.buckets import SIZE
from projkit.telemetry.endpoint_stats import EndpointStats, StatsByEndpoint, sum_stats
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.workers import HISTORY, WorkerDirectory, now_ms

logger: Final = logging.getLogger("projkit")

PERIOD_SECONDS: Final = 10.0
KEPT_SECONDS: Final = 15 * 60 + 2 * PERIOD_SECONDS
_STATS: Final = Struct(f"={SIZE + 6}d")
# With the format's size, so that another version of the code does not read what it would misunderstand.
_PREFIX: Final = f"{HISTORY}{_STATS.size}-"
_DAMAGED: Final = (zlib.error, struct_error, ValueError, TypeError)


class HistoryEntry(NamedTuple):
    """The counters at one moment, in milliseconds on the machine's monotonic clock."""

    at_ms: int
    packed: bytes

    def endpoints(self) -> StatsByEndpoint:
        """Return the statistics of each endpoint at that moment."""
        names, _, packed = zlib.decompress(self.packed)[_STATS.size :].partition(b"\n")
        return {
            (method, route): _unpack(values)
            for (method, route), values in zip(json.loads(names), _STATS.iter_unpack(packed), strict=True)
        }

    def total(self) -> EndpointStats:
        """Return the statistics of all endpoints together at that moment."""
        return _unpack(_STATS.unpack_from(zlib.decompress(self.packed)))


def _unpack(values: Sequence[float]) -> EndpointStats:
    return EndpointStats(list(values[:SIZE]), *values[SIZE:])


def _pack(stats: EndpointStats) -> bytes:
    counts = (stats.errors, stats.slow, stats.disconnects)
    return _STATS.pack(*stats.buckets, stats.total_seconds, stats.max_seconds, stats.last_error_at, *counts)


def make_entry(endpoints: StatsByEndpoint, at_ms: int) -> HistoryEntry:
    """Create an entry of these statistics."""
    packed = b"".join(_pack(each) for each in endpoints.values())
    names = json.dumps(list(endpoints)).encode()
    total = _pack(sum_stats(endpoints.values()))
    return HistoryEntry(at_ms, zlib.compress(total + names + b"\n" + packed, 1))


class _MemoryHistory:
    """The entries of a single process."""

    def __init__(self) -> None:
        self._entries: deque[HistoryEntry] = deque(maxlen=int(KEPT_SECONDS / PERIOD_SECONDS) + 1)

    def acquire(self) -> bool:
        return True

    def add(self, entry: HistoryEntry) -> None:
        self._entries.append(entry)

    def entries(self) -> list[HistoryEntry]:
        return list(self._entries)


class _FileHistory:
    """The entries of a server's workers, each in a file of their directory."""

    def __init__(self, directory: WorkerDirectory) -> None:
        self._path = directory.path
        self._lock: int | None = None
        self._release: weakref.finalize[[int], _FileHistory] | None = None
        self._known: dict[int, HistoryEntry | None] = {}

    def acquire(self) -> bool:
        """Return whether this process samples for all: it holds the lock, or can acquire it now."""
        path = self._path / "sampler"
        if self._lock is not None and is_at(self._lock, path):
            return True
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not acquire_lock(lock, blocking=False):
            os.close(lock)
            return False
        if self._release is not None:  # the file of the former lock was removed
            self._release()
        self._lock, self._release = lock, weakref.finalize(self, os.close, lock)
        return True

    def add(self, entry: HistoryEntry) -> None:
        """Write an entry and remove those that are too old."""
        new = self._path / f"new-{_PREFIX}{entry.at_ms}"
        try:
            new.write_bytes(entry.packed)
            new.replace(self._path / f"{_PREFIX}{entry.at_ms}")
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        for path, at_ms in self._paths():
            if at_ms < entry.at_ms - KEPT_SECONDS * 1000:
                path.unlink(missing_ok=True)

    def entries(self) -> list[HistoryEntry]:
        """Return all valid entries, the oldest first; a file is read once."""
        known: dict[int, HistoryEntry | None] = {}
        for path, at_ms in self._paths():
            if at_ms in self._known:
                known[at_ms] = self._known[at_ms]
            else:
                with suppress(OSError):
                    known[at_ms] = _valid(HistoryEntry(at_ms, path.read_bytes()))
        self._known = known
        return sorted(entry for entry in known.values() if entry is not None)

    def _paths(self) -> list[tuple[Path, int]]:
        numbers = [(path, path.name.removeprefix(_PREFIX)) for path in self._path.glob(f"{_PREFIX}*")]
        return [(path, int(number)) for path, number in numbers if number.isdecimal()]


def _valid(entry: HistoryEntry) -> HistoryEntry | None:
    """Return the entry, or None if its file is damaged."""
    try:
        entry.endpoints()
    except _DAMAGED:
        return None
    return entry


class History:
    """The history of a recorder, over all workers; of this process alone while it cannot share its metrics."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._memory = _MemoryHistory()
        self._files: _FileHistory | None = None
        self._store: _MemoryHistory | _FileHistory | None = None
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Open a store of this process: the parent's lock, and its entries in memory, are not ours."""
        self._memory = _MemoryHistory()
        self._files = None
        self._store = None

    def record(self) -> None:
        """Add an entry, unless another worker does that for the server.

        Raises:
            OSError: the entry cannot be written.
        """
        store = self._current()
        if store.acquire():
            store.add(make_entry(self.recorder.endpoints(), now_ms()))

    def entries(self) -> list[HistoryEntry]:
        """Return the entries of the last 15 minutes, the oldest first; at least one, for the server's start."""
        entries = self._current().entries()
        if entries:
            return entries
        age = time.time() - self.recorder.server_started_at
        return [make_entry({}, now_ms() - int(age * 1000))]

    def _current(self) -> _MemoryHistory | _FileHistory:
        """Return where entries are kept now, with a first entry for the moment when they began to be kept there."""
        store: _MemoryHistory | _FileHistory = self._memory
        if self.recorder.shares_metrics and (directory := self.recorder.directory) is not None:
            store = self._files = self._files or _FileHistory(directory)
        if store is not self._store:
            counted = {} if self._store is None else self.recorder.endpoints()  # counts began with the server
            self._store = store
            with suppress(OSError):
                if not store.entries() and store.acquire():
                    store.add(make_entry(counted, now_ms()))
        return store


class Sampler:
    """A background task on one event loop that records the history and repairs the metric store periodically.

    Args:
        history: recorded in a thread, since reading other workers' files takes a few milliseconds.
        also: called each time before that, on the event loop.
    """

    def __init__(self, history: History, also: Callable[[], None]) -> None:
        self._history = history
        self._also = also
        self._has_warned = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    async def close(self) -> None:
        """Stop the task."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            self._also()
            try:
                await asyncio.to_thread(self._history.recorder.repair, self._call_on_loop)
                await asyncio.to_thread(self._history.record)
                self._has_warned = False
            except OSError as error:  # such as a full disk; requests are counted nonetheless
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "statistics of the last minutes are unavailable: cannot write history: %s", error
                    )
            await asyncio.sleep(PERIOD_SECONDS)

    def _call_on_loop(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the event loop is closed, so nothing is counted on it
            function()
