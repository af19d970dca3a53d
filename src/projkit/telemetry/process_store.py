"""The metric store of one process: in its file of the metrics directory, or in memory.

Losing telemetry must not stop the service. A process that cannot use the directory counts in memory, warns once, sets
the gauge ``projkit_metrics_store_degraded``, and tries again periodically. So does one whose file was removed, for
example by a cleaner of temporary files: its counts continue in a new file.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Final

from projkit.telemetry.families import DEGRADED, FAMILIES, FILE_BYTES
from projkit.telemetry.store import MemoryStore, MetricStore, MmapStore
from projkit.telemetry.worker_files import touch_all
from projkit.telemetry.workers import WorkerDirectory

logger: Final = logging.getLogger("projkit")

_TOUCH_SECONDS: Final = 3600.0
_KITS_BY_DIRECTORY: Final[dict[Path, int]] = {}


def directory_for_kit(directory: Path) -> Path:
    """Return a directory for one kit: a second kit of a process gets a subdirectory, so that counts are not mixed."""
    number = _KITS_BY_DIRECTORY[directory] = _KITS_BY_DIRECTORY.get(directory, -1) + 1
    return directory / f"kit-{number}" if number else directory


class ProcessStore:
    """The store of this process; create it in the process that counts, not before a fork.

    Args:
        path: the metrics directory that the workers of one server share; None for a single process.

    Attributes:
        directory: the metrics directory, also if it cannot be used; None for a single process.
        store: the samples.
    """

    def __init__(self, path: Path | None) -> None:
        families = {family.name: family for family in FAMILIES}
        self.directory = None if path is None else WorkerDirectory(path, families, FILE_BYTES)
        self._is_alone = False
        self._repairing = threading.Lock()
        self._touched_at = time.monotonic()
        self._has_joined = False
        backend = None if self.directory is None else self._join()
        self.store = MetricStore(FAMILIES, backend or MemoryStore())
        self.set_gauge()

    @property
    def shares_metrics(self) -> bool:
        """Whether other workers see the counts of this process."""
        return self.directory is not None and not self._is_alone

    def find_replacement(self) -> MmapStore | None:
        """Return a backend to continue in, if this process counts alone or has lost its file; blocks.

        The caller passes it to :meth:`replace` on the event loop. Meanwhile, further calls return None.
        """
        directory = self.directory
        if directory is None or not self._repairing.acquire(blocking=False):
            return None
        replacement = self._join() if directory.has_lost_file else None
        if replacement is None:
            self._repairing.release()
            if time.monotonic() - self._touched_at >= _TOUCH_SECONDS:
                self._touched_at = time.monotonic()
                touch_all(directory.path)
        return replacement

    def replace(self, backend: MmapStore) -> None:
        """Continue in another backend."""
        self.store.move_to(backend)
        self._repairing.release()

    def set_gauge(self) -> None:
        """Report whether this process can share its metrics; call this on the event loop that counts."""
        is_readable = self.directory is None or self.directory.is_readable
        self.store.sample(DEGRADED, (), ())[0] = float(self._is_alone or not is_readable)

    def _join(self) -> MmapStore | None:
        """Join the directory; return None if that fails."""
        directory = self.directory
        assert directory is not None  # noqa: S101  # checked by the callers
        try:
            backend = MmapStore(directory.join())
        except OSError as error:
            self._has_joined = False
            if not self._is_alone:
                self._is_alone = True
                logger.warning(
                    "metrics directory %s cannot be used (%s); this process counts alone and tries again "
                    "every 10 s; make the directory writable for every worker, with 7 MB of free space for each",
                    directory.path,
                    error.strerror or error,
                )
            return None
        if self._has_joined:
            logger.warning(
                "the metrics file of this process was removed from %s; it counts in a new one", directory.path
            )
        elif self._is_alone:
            logger.warning("metrics directory %s can be used again", directory.path)
        self._is_alone, self._has_joined = False, True
        return backend
