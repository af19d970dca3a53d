"""The directory in which the workers of one server keep their metrics.

- ``worker-<pid>-<start in ms since 1970>-<random>``: one for each process, which locks it for as long as it lives;
- ``retired``: the merged samples of ended workers, and the names of the files they came from;
- ``history-<version>-<monotonic ms>``: entries of the history (``telemetry/history.py``);
- ``sampler``: locked by the writer of the history;
- ``started``: when counting began;
- ``server``: locked by the parent of the workers, if it has created the directory (``cli/metrics_directory.py``);
- ``lock``: held while a worker is added or ended ones are retired.

The first worker of a server, which finds no other alive, empties the directory: counts begin with the server. Readers
never wait: they read again if ``retired`` has changed meanwhile, and leave the retiring to another process if the lock
is held.

Losing the directory stops no worker. What cannot be read counts as absent, and a worker that has no file in the
directory, or has lost it, joins again as soon as it can (``telemetry/process_store.py``).
"""

import json
import logging
import mmap
import os
import secrets
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from projkit.file_lock import acquire_lock, is_locked, locked_file
from projkit.telemetry.store import Family, WorkerFile, decode, encode, iter_samples, load, merge
from projkit.telemetry.worker_files import Worker, WorkerEntry, allocate, parse_name, worker_files

logger: Final = logging.getLogger("projkit")

SERVER: Final = "server"
HISTORY: Final = "history-"
_RETIRED: Final = "retired"
_STARTED: Final = "started"
_LOCK: Final = "lock"
_LOCK_TIMEOUT_SECONDS: Final = 5.0
_MAX_READS: Final = 5
_BEGINNING_BYTES: Final = 512


class WorkerDirectory:
    """A process's view of the directory; create it in the process that counts, not before a fork.

    Attributes:
        path: the directory.
        started_at: when counting began, in seconds since 1970.
        is_readable: whether the last attempt to read the others' files succeeded.
    """

    def __init__(self, path: Path, families: Mapping[str, Family], size: int) -> None:
        self.path = path
        self.started_at = time.time()
        self.is_readable = True
        self._families = families
        self._size = size
        self._started_ms = time.time_ns() // 1_000_000
        self._name = ""
        self._close: weakref.finalize[[int], WorkerDirectory] | None = None

    @property
    def has_lost_file(self) -> bool:
        """Whether the file of this process has been removed, or was never created."""
        if self._close is None:
            return True
        try:
            (self.path / self._name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # it may still be there
            return False
        return False

    def join(self) -> memoryview:
        """Add a file for this process, which replaces its former one, and return its content.

        Raises:
            OSError: the directory cannot be used.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_file(self.path / _LOCK, timeout_seconds=_LOCK_TIMEOUT_SECONDS) as acquired:
            if not acquired:
                raise TimeoutError(f"its lock is held for more than {_LOCK_TIMEOUT_SECONDS:g} s")
            living = [each.worker for each in worker_files(self.path) if each.is_alive]
            if not living and not is_locked(self.path / SERVER):
                self._empty()
            self.started_at = self._read_started(living)
            name = f"worker-{os.getpid()}-{self._started_ms}-{secrets.token_hex(4)}"
            descriptor = self._create(name)
        self.close()
        self._name = name
        self._close = weakref.finalize(self, os.close, descriptor)
        return memoryview(mmap.mmap(descriptor, self._size))

    def close(self) -> None:
        """End the membership, as the end of the process does; the counts stay."""
        if self._close is not None:
            self._close()

    def other_files(self, *, retire: bool) -> list[WorkerFile]:
        """Return the samples of ended workers and the files of the others; nothing if the directory is gone.

        Args:
            retire: whether to merge the files of ended workers first, which takes some milliseconds.
        """
        if retire:
            with suppress(OSError):  # without room for the merged samples, the files of ended workers stay
                self._retire()
        try:
            files = self._read_others()
        except OSError as error:
            if self.is_readable:
                self.is_readable = False
                logger.warning(
                    "metrics of other workers are unavailable: cannot read %s: %s", self.path, error
                )
            return []
        self.is_readable = True
        return files

    def beginnings(self) -> list[bytes]:
        """Return the beginning of each other living worker's file, with the samples that it created first."""
        beginnings = []
        with suppress(OSError):
            for each in self._others():
                if each.is_alive:
                    with suppress(OSError), each.path.open("rb") as file:
                        beginnings.append(file.read(_BEGINNING_BYTES))
        return beginnings

    def living(self) -> list[Worker]:
        """Return the living workers, including this one, the oldest first."""
        living = [Worker(os.getpid(), self._started_ms / 1000)]
        with suppress(OSError):
            living += [each.worker for each in self._others() if each.is_alive]
        return sorted(living, key=lambda worker: worker.started_at)

    def _others(self) -> list[WorkerEntry]:
        return list(worker_files(self.path, without=self._name))

    def _read_others(self) -> list[WorkerFile]:
        """Read the retired samples and the other workers' files in a consistent state."""
        for attempt in range(_MAX_READS):
            before = self._retired_version()
            retired, merged = self._read_retired()
            files = [WorkerFile(retired, is_alive=False)]
            for each in self._others():
                if each.path.name not in merged:
                    with suppress(OSError):
                        files.append(WorkerFile(load(each.path), each.is_alive))
            if before == self._retired_version() or attempt == _MAX_READS - 1:
                break
        return files

    def _create(self, name: str) -> int:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            acquire_lock(descriptor)
            allocate(descriptor, self._size)
        except OSError:
            os.close(descriptor)
            with suppress(OSError):
                (self.path / name).unlink()
            raise
        return descriptor

    def _read_started(self, living: list[Worker]) -> float:
        """Return when counting began; write it again if another program has removed it."""
        path = self.path / _STARTED
        with suppress(OSError, ValueError):
            return float(path.read_text())
        started_at = min([self.started_at, *(each.started_at for each in living)])
        path.unlink(missing_ok=True)
        path.write_text(repr(started_at))
        return started_at

    def _retire(self) -> None:
        """Merge the files of ended workers into ``retired``, each once, unless another process is doing it."""
        if all(each.is_alive for each in self._others()):
            return
        with locked_file(self.path / _LOCK) as acquired:
            ended = [each.path for each in self._others() if not each.is_alive]
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
            return data, [str(name) for name in json.loads(names)]
        except (FileNotFoundError, ValueError, TypeError):  # written by another program
            return b"", []

    def _retired_version(self) -> tuple[int, int] | None:
        try:
            status = (self.path / _RETIRED).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if parse_name(path.name) or path.name.startswith((_RETIRED, _STARTED, HISTORY, f"new-{HISTORY}")):
                with suppress(IsADirectoryError, PermissionError):
                    path.unlink()


def now_ms() -> int:
    """Return the time in milliseconds on the monotonic clock, which all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000
