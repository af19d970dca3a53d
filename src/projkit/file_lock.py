"""Advisory locks on files (``flock``), which the kernel releases when the holder closes the file or dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

_POLL_SECONDS: Final = 0.02


def acquire_lock(file: int | IO[Any], *, shared: bool = False, blocking: bool = True) -> bool:
    """Lock an open file; return False if another holder prevents it and ``blocking`` is off.

    The lock belongs to the open file, not to the process: closing the file releases it.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, operation if blocking else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock on the file at ``path``; False if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not acquire_lock(descriptor, shared=True, blocking=False)
    finally:
        os.close(descriptor)


@contextmanager
def locked_file(path: Path, *, timeout_seconds: float = 0.0) -> Iterator[bool]:
    """Hold an exclusive lock on the file at ``path``; yield False if it could not be acquired in time.

    The file is created with mode 0600 if it does not exist. The holder may remove it: a lock on a file that has been
    removed is not counted as acquired.

    Raises:
        OSError: the file cannot be opened.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            acquired = acquire_lock(descriptor, blocking=False)
            if acquired and not is_at(descriptor, path):
                continue
            if acquired or time.monotonic() >= deadline:
                yield acquired
                return
        finally:
            os.close(descriptor)
        time.sleep(_POLL_SECONDS)


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
