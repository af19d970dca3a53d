"""The directory in which the workers of one server keep what they count.

- ``worker-<pid>-<start in ms since 1970>-<random>``: one for each process, locked by it for as long as it lives;
- ``retired``: what ended workers have left, with the names of the files that it holds;
- ``history-<monotonic ms>``: samples (``telemetry/history.py``), and ``sampler``: locked by who takes them;
- ``started``: when the counts began;
- ``lock``: held by whoever opens or retires.

The first worker of a server, the one that finds no other alive, empties the directory: counts begin with the server.
Readers wait for nobody: they look again where ``retired`` has changed under their eyes, and leave the retiring to
others where the lock is taken.
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
_PATIENCE_SECONDS: Final = 5.0
_LOOKS: Final = 5


class Worker(NamedTuple):
    """A living worker: its process id and the time at which it started, in seconds since 1970."""

    pid: int
    started_at: float


class WorkerDirectory:
    """One process' part in the directory; open it in the process that counts, not before a fork.

    ``close()`` ends the part, as the end of the process does; what was counted stays.

    Raises:
        OSError: the directory cannot be used.
    """

    def __init__(self, path: Path, families: Mapping[str, Family], size: int) -> None:
        self.path = path
        self._families = families
        self._name = f"{_WORKER}{os.getpid()}-{time.time_ns() // 1_000_000}-{secrets.token_hex(4)}"
        self._complained = False
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_file(path / _LOCK, timeout_seconds=_PATIENCE_SECONDS) as acquired:
            if not acquired:
                raise TimeoutError(f"its lock is held for more than {_PATIENCE_SECONDS:g} s")
            if not any(alive for _, alive in self._workers()):
                self._empty()
                (path / _STARTED).write_text(repr(time.time()))
            self.started_at = float((path / _STARTED).read_text())
            descriptor = self._create(size)
        self.close: Final = weakref.finalize(self, os.close, descriptor)
        self.buffer = memoryview(mmap.mmap(descriptor, size))

    def other_files(self, *, retire: bool) -> list[WorkerFile]:
        """What the other workers have counted, and whether each is alive; nothing where the directory is gone."""
        try:
            if retire:
                self._retire()
            return self._look()
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning("the counts of other workers cannot be read from %s: %s", self.path, error)
            return []

    def living(self) -> list[Worker]:
        """The workers that are alive, this one included, the oldest first."""
        found = [self._name]
        with suppress(OSError):
            found += [path.name for path, alive in self._workers() if alive and path.name != self._name]
        parts = [name.split("-") for name in found]
        return sorted(
            (Worker(int(pid), int(started_ms) / 1000) for _, pid, started_ms, _ in parts),
            key=lambda worker: worker.started_at,
        )

    def _look(self) -> list[WorkerFile]:
        """What is retired, and the others' files, as of one moment."""
        for attempt in range(_LOOKS):
            before = self._retired_version()
            retired, merged = self._read_retired()
            found = [WorkerFile(retired, is_alive=False)]
            for path, alive in self._workers():
                if path.name != self._name and path.name not in merged:
                    with suppress(FileNotFoundError):
                        found.append(WorkerFile(load(path), alive))
            if before == self._retired_version() or attempt == _LOOKS - 1:
                break
        return found

    def _create(self, size: int) -> int:
        descriptor = os.open(self.path / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            acquire_lock(descriptor)
            # Really: a page that a full disk has no room for would end the process when it is first written to.
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            (self.path / self._name).unlink(missing_ok=True)
            raise
        return descriptor

    def _workers(self) -> Iterator[tuple[Path, bool]]:
        """The workers' files, and whether the process of each is alive."""
        for path in sorted(self.path.glob(f"{_WORKER}*")):
            if path.name == self._name:
                yield path, True
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:
                # Shared, so that two who look at the same time do not take each other for the worker.
                yield path, not acquire_lock(file, shared=True, blocking=False)

    def _retire(self) -> None:
        """Adds what ended workers have left to what others had left before, each once; unless another does."""
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
            # With the names inside, a crash before the files are gone counts nothing twice.
            names = json.dumps([path.name for path in ended]).encode()
            new = self.path / f"{_RETIRED}.new"
            new.write_bytes(names + b"\n" + encode(table))
            new.replace(self.path / _RETIRED)
            for path in ended:
                path.unlink(missing_ok=True)

    def _read_retired(self) -> tuple[bytes, list[str]]:
        """What ended workers have left, laid out as a file, and the names of theirs."""
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
    """Milliseconds on the clock that all processes of a machine share and nobody sets."""
    return time.monotonic_ns() // 1_000_000
