"""The directory in which the workers of one server keep what they count.

- ``worker-<pid>-<start in ms since 1970>-<random>``: one for each process, locked by it for as long as it lives;
- ``retired``: what ended workers have left, with the names of the files that it holds;
- ``history-<monotonic ms>``: samples (``telemetry/history.py``), and ``sampler``: locked by who takes them;
- ``started``: when the counts began;
- ``lock``: held by whoever opens, retires or reads.

The first worker of a server, the one that finds no other alive, empties the directory: counts begin with the server.
"""

import fcntl
import json
import mmap
import os
import secrets
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

from projkit.errors import ConfigurationError
from projkit.telemetry.cells import Family, Table, decode, encode, merge

_WORKER: Final = "worker-"
_RETIRED: Final = "retired"
_STARTED: Final = "started"


class Worker(NamedTuple):
    """A living worker: its process id and the time at which it started, in seconds since 1970."""

    pid: int
    started_at: float


class WorkerDirectory:
    """One process' part in the directory; open it in the process that counts, not before a fork.

    ``close()`` ends the part, as the end of the process does; what was counted stays.

    Raises:
        ConfigurationError: the directory cannot be used; the message names the setting.
    """

    def __init__(self, path: Path, families: Mapping[str, Family], size: int) -> None:
        self.path = path
        self._families = families
        self._name = f"{_WORKER}{os.getpid()}-{time.time_ns() // 1_000_000}-{secrets.token_hex(4)}"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.locked():
                if not any(alive for _, alive in self._workers()):
                    self._empty()
                    (path / _STARTED).write_text(repr(time.time()))
                self.started_at = float((path / _STARTED).read_text())
                descriptor = self._create(size)
        except OSError as error:
            raise ConfigurationError(
                f"PROJKIT_METRICS_DIRECTORY: {path} cannot be used ({error.strerror}); name a directory that every "
                "worker may write to"
            ) from error
        self.close: Final = weakref.finalize(self, os.close, descriptor)
        self.buffer = memoryview(mmap.mmap(descriptor, size))

    def tables(self) -> Iterator[tuple[Table, bool]]:
        """What the other workers have counted, and whether each is alive."""
        with self.locked():
            self._retire()
            retired, _ = self._read_retired()
            others = [self._read(path) for path, _ in self._workers() if path.name != self._name]
        yield retired, False
        for table in others:
            yield table, True

    def living(self) -> list[Worker]:
        """The workers that are alive, this one included, the oldest first."""
        found = []
        with self.locked():
            for path, alive in self._workers():
                if alive:
                    _, pid, started_ms, _ = path.name.split("-")
                    found.append(Worker(int(pid), int(started_ms) / 1000))
        return sorted(found, key=lambda worker: worker.started_at)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the directory."""
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _create(self, size: int) -> int:
        descriptor = os.open(self.path / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, size)  # sparse: what is not used takes no room
        return descriptor

    def _workers(self) -> Iterator[tuple[Path, bool]]:
        """The workers' files, and whether the process of each is alive."""
        for path in sorted(self.path.glob(f"{_WORKER}*")):
            if path.name == self._name:
                yield path, True
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:
                yield path, not _may_lock(file)

    def _retire(self) -> None:
        """Adds what ended workers have left to what others had left before, each once."""
        ended = [path for path, alive in self._workers() if not alive]
        if not ended:
            return
        table, merged = self._read_retired()
        for path in ended:
            if path.name not in merged:
                merge(table, self._read(path), self._families, alive=False)
        # With the names inside, a crash before the files are gone counts nothing twice.
        names = json.dumps([path.name for path in ended]).encode()
        new = self.path / f"{_RETIRED}.new"
        new.write_bytes(names + b"\n" + encode(table))
        new.replace(self.path / _RETIRED)
        for path in ended:
            path.unlink(missing_ok=True)

    def _read_retired(self) -> tuple[Table, list[str]]:
        try:
            names, _, data = (self.path / _RETIRED).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return {}, []
        return decode(data), json.loads(names)

    def _read(self, path: Path) -> Table:
        return decode(path.read_bytes())

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path.name.startswith((_WORKER, _RETIRED, "history-")):
                path.unlink()


def _may_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def now_ms() -> int:
    """Milliseconds on the clock that all processes of a machine share and nobody sets."""
    return time.monotonic_ns() // 1_000_000
