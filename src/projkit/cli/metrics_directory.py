"""The metrics directory that ``projkit serve --workers`` creates for its workers, if METRICS_DIRECTORY is not set.

It is below the first of these that can be used: ``$RUNTIME_DIRECTORY`` (systemd's ``RuntimeDirectory=``),
``$XDG_RUNTIME_DIR``, ``/run/user/<uid>``, the directory of the embedded database, and the directory for temporary
files, which cleaners empty. Its file ``server`` is locked by this process for as long as it lives.

The next server removes directories whose server is gone: those of this user that contain such a file, if neither that
nor the file of any worker is locked.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from projkit.file_lock import acquire_lock, is_at
from projkit.settings import Settings
from projkit.telemetry.families import FILE_BYTES
from projkit.telemetry.worker_files import worker_files
from projkit.telemetry.workers import SERVER

PREFIX: Final = "projkit-metrics-"
_MARKER: Final = b"projkit serve\n"


class MetricsDirectory:
    """A directory of this server's own, removed at its end.

    Attributes:
        path: the directory. If none could be created, it does not exist, and the workers count alone until it does.
    """

    def __init__(self, settings: Settings, workers: int) -> None:
        bases = list(_bases(settings))
        for base in bases:
            remove_abandoned(base)
        self._lock: int | None = None
        self.path = _create(bases, workers * FILE_BYTES)
        self.ensure()

    def ensure(self) -> None:
        """Create the directory and its marker again if another program has removed them."""
        marker = self.path / SERVER
        if self._lock is not None and is_at(self._lock, marker):
            return
        with suppress(OSError):
            self.path.mkdir(mode=0o700, exist_ok=True)
            # Locked before it has its name, so that no other server takes it for abandoned.
            descriptor, new = tempfile.mkstemp(dir=self.path, prefix="new-")
            os.write(descriptor, _MARKER)
            acquire_lock(descriptor)
            Path(new).replace(marker)
            self._release()
            self._lock = descriptor

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()


def _bases(settings: Settings) -> Iterator[Path]:
    names = [os.environ.get(variable, "") for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")]
    for name in [*":".join(names).split(":"), f"/run/user/{os.geteuid()}"]:
        base = Path(name)
        with suppress(OSError):  # after su, the variable names the directory of another user
            if base.is_absolute() and base.stat().st_uid == os.geteuid():
                yield base
    if settings.embedded:
        yield settings.sqlite_path.absolute().parent
    yield Path(tempfile.gettempdir())


def _create(bases: list[Path], size: int) -> Path:
    for base in bases:
        with suppress(OSError):
            space = os.statvfs(base)
            # A tmpfs without a limit reports no blocks at all.
            if not space.f_blocks or space.f_bavail * space.f_frsize > 2 * size:
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    return bases[-1] / f"{PREFIX}{os.getpid()}"


def remove_abandoned(base: Path) -> list[Path]:
    """Remove the directories below ``base`` that killed servers of this user have left behind; return them."""
    abandoned = []
    with suppress(OSError):
        for path in base.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if _is_abandoned(path):
                    shutil.rmtree(path)
                    abandoned.append(path)
    return abandoned


def _is_abandoned(path: Path) -> bool:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    marker = os.open(path / SERVER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(marker)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        if os.read(marker, len(_MARKER)) != _MARKER or not acquire_lock(marker, blocking=False):
            return False
        directories = [path, *(each for each in path.iterdir() if each.is_dir())]
        return not any(each.is_alive for directory in directories for each in worker_files(directory))
    finally:
        os.close(marker)
