"""The directory in which the workers of one server keep their metrics.

- ``worker-<pid>-<start in ms since 1970>-<random>``: one for each process, which locks it for as long as it lives;
- ``retired``: the merged samples of ended workers, and the names of the files they came from;
- ``history-<monotonic ms>``: entries of the history (``telemetry/history.py``); ``sampler``: locked by their writer;
- ``started``: when counting began;
- ``lock``: held while a worker is added or ended ones are retired.

The first worker of a server, which finds no other alive, empties the directory: counts begin with the server. Readers
never wait: they read again if ``retired`` has changed meanwhile, and leave the retiring to another process if the lock
is held.
"""

import json
import logging
import mmap
import os
import secrets
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from projkit.file_lock import acquire_lock, locked_file
from projkit.telemetry.store import Family, WorkerFile, decode, encode, iter_samples, load, merge

logger: Final = logging.getLogger("projkit")

_WORKER: Final = "worker-"
_RETIRED: Final = "retired"
_STARTED: Final = "started"
_LOCK: Final = "lock"
_LOCK_TIMEOUT_SECONDS: Final = 5.0
_MAX_READS: Final = 5


class Worker(NamedTuple):
    """A living worker: its process id, and its start in seconds since 1970."""

    pid: int
    started_at: float


class WorkerDirectory:
    """A process's membership of the directory; create it in the process that counts, not before a fork.

    ``close()`` ends the membership, as the end of the process does; the counts stay.

    Raises:
        OSError: the directory cannot be used.
    """

    def __init__(self, path: Path, families: Mapping[str, Family], size: int) -> None:
        self.path = path
        self._families = families
        self._name = f"{_WORKER}{os.getpid()}-{time.time_ns() // 1_000_000}-{secrets.token_hex(4)}"
        self._warned = False
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_file(path / _LOCK, timeout_seconds=_LOCK_TIMEOUT_SECONDS) as acquired:
            if not acquired:
                raise TimeoutError(f"its lock is held for more than {_LOCK_TIMEOUT_SECONDS:g} s")
            if not any(alive for _, alive in self._workers()):
                self._empty()
                (path / _STARTED).write_text(repr(time.time()))
            self.started_at = float((path / _STARTED).read_text())
            descriptor = self._create(size)
        self.close: Final = weakref.finalize(self, os.close, descriptor)
        self.buffer = memoryview(mmap.mmap(descriptor, size))

    def other_files(self, *, retire: bool) -> list[WorkerFile]:
        """Return the samples of ended workers and the files of the others; nothing if the directory is gone.

        Args:
            retire: whether to merge the files of ended workers first, which takes some milliseconds.
        """
        try:
            if retire:
                self._retire()
            return self._read_others()
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "metrics of other workers are unavailable: cannot read %s: %s", self.path, error
                )
            return []

    def living(self) -> list[Worker]:
        """Return the living workers, including this one, the oldest first."""
        names = [self._name]
        with suppress(OSError):
            names += [path.name for path, alive in self._workers() if alive and path.name != self._name]
        parts = [name.split("-") for name in names]
        return sorted(
            (Worker(int(pid), int(started_ms) / 1000) for _, pid, started_ms, _ in parts),
            key=lambda worker: worker.started_at,
        )

    def _read_others(self) -> list[WorkerFile]:
        """Read the retired samples and the other workers' files in a consistent state."""
        for attempt in range(_MAX_READS):
            before = self._retired_version()
            retired, merged = self._read_retired()
            files = [WorkerFile(retired, is_alive=False)]
            for path, alive in self._workers():
                if path.name != self._name and path.name not in merged:
                    with suppress(FileNotFoundError):
                        files.append(WorkerFile(load(path), alive))
            if before == self._retired_version() or attempt == _MAX_READS - 1:
                break
        return files

    def _create(self, size: int) -> int:
        descriptor = os.open(self.path / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            acquire_lock(descriptor)
            # Allocate the pages: writing to one for which a full disk has no room would kill the process.
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            (self.path / self._name).unlink(missing_ok=True)
            raise
        return descriptor

    def _workers(self) -> Iterator[tuple[Path, bool]]:
        """Yield the workers' files, and whether the process of each is alive."""
        for path in sorted(self.path.glob(f"{_WORKER}*")):
            if path.name == self._name:
                yield path, True
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:
                # Shared, so that two readers at the same time do not take each other for the worker.
                yield path, not acquire_lock(file, shared=True, blocking=False)

    def _retire(self) -> None:
        """Merge the files of ended workers into ``retired``, each once, unless another process is doing it."""
        if all(alive for _, alive in self._workers()):
            return
        with locked_file(self.path / _LOCK) as acquired:
            ended = [path for path, alive in self._workers() if not alive]
            if not acquired or not ended:
                return
            retired, merged = self._read_retired()
            table = decode(retired)
            for path in ended:
                if path.name not in merged:
                    merge(table, iter_samples(load(path)), self._families, alive=False)
            # With the names inside, a crash before the files are removed counts nothing twice.
            names = json.dumps([path.name for path in ended]).encode()
            new = self.path / f"{_RETIRED}.new"
            new.write_bytes(names + b"\n" + encode(table))
            new.replace(self.path / _RETIRED)
            for path in ended:
                path.unlink(missing_ok=True)

    def _read_retired(self) -> tuple[bytes, list[str]]:
        """Return the merged samples of ended workers, in the format of a file, and the names of their files."""
        try:
            names, _, data = (self.path / _RETIRED).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return b"", []
        return data, json.loads(names)

    def _retired_version(self) -> tuple[int, int] | None:
        try:
            status = (self.path / _RETIRED).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path.name.startswith((_WORKER, _RETIRED, "history-")):
                path.unlink()


def now_ms() -> int:
    """Return the time in milliseconds on the monotonic clock, which all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000
