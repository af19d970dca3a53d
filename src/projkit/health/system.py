"""The machine and the process: sampled in the background, since asking costs up to a tenth of a millisecond."""

import asyncio
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from projkit.health.checks import CheckFailedError, HealthCheck
from projkit.observers import NULL_OBSERVER, Observer

PERIOD_SECONDS: Final = 5.0
_TICK_SECONDS: Final = 0.5
_TICKS: Final = int(2 * PERIOD_SECONDS / _TICK_SECONDS)
# A loop that is later than this answers nobody in time.
_LATE_SECONDS: Final = 1.0
# A disk fails where both are undercut: 5 % of a small one is little, and of a large one plenty.
_FREE_SHARE: Final = 0.05
_FREE_BYTES: Final = 1 << 30
_DISK_PERIOD_SECONDS: Final = 15.0


class SystemSampler:
    """What the machine and this process do, and how late the event loop is that it runs on."""

    def __init__(self, observer: Observer = NULL_OBSERVER) -> None:
        self._observer = observer
        self._process = psutil.Process()
        self._lateness: deque[float] = deque([0.0], maxlen=_TICKS)
        self.latest: Mapping[str, Any] = {}

    @property
    def lag_seconds(self) -> float:
        """How late the event loop was at worst, within the last ten seconds."""
        return max(self._lateness)

    async def run(self) -> None:
        """Samples until it is cancelled."""
        loop = asyncio.get_running_loop()
        # The share of the processor is of the time since it was last asked for, in the same thread.
        psutil.cpu_percent(interval=None)
        self._process.cpu_percent(interval=None)
        self._sample()
        self._observer.record_event_loop_lag(self.lag_seconds)
        sampled = loop.time() - PERIOD_SECONDS + _TICK_SECONDS  # that share is to be had soon
        while True:
            due = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self._lateness.append(max(0.0, loop.time() - due))
            self._observer.record_event_loop_lag(self.lag_seconds)
            if loop.time() - sampled >= PERIOD_SECONDS:
                sampled = loop.time()
                self._sample()

    async def check_loop(self) -> Mapping[str, Any]:
        """Whether the event loop comes round in time.

        Raises:
            CheckFailedError: it was more than a second late.
        """
        data = {"lag_ms": round(self.lag_seconds * 1000, 1)}
        if self.lag_seconds > _LATE_SECONDS:
            raise CheckFailedError(
                f"was {self.lag_seconds:.1f} s late: something blocks it, or the processor is overloaded",
                data,
            )
        return data

    def _sample(self) -> None:
        memory = psutil.virtual_memory()
        with self._process.oneshot():
            process = {
                "pid": self._process.pid,
                "rss_bytes": self._process.memory_info().rss,
                "cpu_percent": self._process.cpu_percent(interval=None),
                "threads": self._process.num_threads(),
                "open_files": self._process.num_fds() if hasattr(self._process, "num_fds") else None,
            }
        self.latest = {
            "cpu_percent": psutil.cpu_percent(interval=None),
            "load_average": [round(each, 2) for each in psutil.getloadavg()],
            "memory": {
                "total_bytes": memory.total,
                "available_bytes": memory.available,
                "used_percent": memory.percent,
            },
            "process": process,
        }


def loop_check(sampler: SystemSampler) -> HealthCheck:
    """The check ``event_loop``."""
    return HealthCheck("event_loop", sampler.check_loop, period=PERIOD_SECONDS)


def disk_check(directory: Path) -> HealthCheck:
    """The check ``disk``: in a thread, since a network file system may hang."""

    def look() -> Mapping[str, Any]:
        try:
            total, _, free = shutil.disk_usage(directory)
        except OSError as error:
            raise CheckFailedError(f"cannot be looked at: {error.strerror}") from error
        data = {
            "total_bytes": total,
            "free_bytes": free,
            "used_percent": round(100 * (1 - free / total), 1) if total else 0.0,
        }
        if free < _FREE_BYTES and free < total * _FREE_SHARE:
            raise CheckFailedError(f"only {free >> 20} MiB are free", data)
        return data

    return HealthCheck("disk", look, period=_DISK_PERIOD_SECONDS)
