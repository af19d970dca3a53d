"""Access to the files of a metrics directory that survives what other programs do to it.

A directory can be emptied by a cleaner of temporary files, lie on a full or read-only disk, contain files of other
programs or of another version, or change its permissions, at any time.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from projkit.errors import ConfigurationError
from projkit.file_lock import acquire_lock

_WORKER: Final = re.compile(r"worker-(?P<pid>\d{1,10})-(?P<started_ms>\d{1,15})-[0-9a-f]+")
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_ZEROS: Final = bytes(1 << 16)


class Worker(NamedTuple):
    """A worker: its process id, and its start in seconds since 1970."""

    pid: int
    started_at: float


def parse_name(name: str) -> Worker | None:
    """Return the worker whose file has this name; None for any other file."""
    match = _WORKER.fullmatch(name)
    return None if match is None else Worker(int(match["pid"]), int(match["started_ms"]) / 1000)


class WorkerEntry(NamedTuple):
    """A worker's file in a directory, and whether the worker's process is alive."""

    path: Path
    worker: Worker
    is_alive: bool


def worker_files(directory: Path, *, without: str = "") -> Iterator[WorkerEntry]:
    """Yield the workers' files in a directory, except the one with the name ``without``.

    Raises:
        OSError: the directory cannot be read.
    """
    for name in sorted(os.listdir(directory)):
        worker = parse_name(name)
        if worker is None or name == without:
            continue
        path = directory / name
        with suppress(FileNotFoundError, PermissionError):
            descriptor = os.open(path, _OPEN_FLAGS)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    # Shared, so that two readers at the same time do not take each other for the worker.
                    is_alive = not acquire_lock(descriptor, shared=True, blocking=False)
                    yield WorkerEntry(path, worker, is_alive)
            finally:
                os.close(descriptor)


def allocate(descriptor: int, size: int) -> None:
    """Reserve the disk space of a file that will be mapped.

    Writing to a mapped page for which a full disk has no room would kill the process with SIGBUS.

    Raises:
        OSError: there is no room.
    """
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:
        # macOS has no such function, and some file systems do not support it.
        if isinstance(error, OSError) and error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise
        os.lseek(descriptor, 0, os.SEEK_SET)
        for start in range(0, size, len(_ZEROS)):
            os.write(descriptor, _ZEROS[: size - start])


def touch_all(directory: Path) -> None:
    """Renew the times of all files, so that no cleaner of temporary files takes them for unused.

    The XDG base directory specification requires that within six hours; systemd-tmpfiles waits for ten days.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                os.utime(entry, follow_symlinks=False)
    with suppress(OSError):
        os.utime(directory)


def require_usable(directory: Path, size: int) -> None:
    """Check that a worker could keep its metrics in the directory, which is created.

    Raises:
        ConfigurationError: it could not; the message names the setting and the fix.
    """
    path = directory / f"probe-{os.getpid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            allocate(descriptor, size)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"PROJKIT_METRICS_DIRECTORY: {directory} cannot be used ({error.strerror or error}); "
            "set it to a directory that every worker can write to, with 7 MB of free space for each"
        ) from error
