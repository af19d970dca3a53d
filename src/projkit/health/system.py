"""Measurements of the machine and the process, taken in the background: they cost up to a tenth of a millisecond."""

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
# With a greater lag, no request gets a response in time.
_MAX_LAG_SECONDS: Final = 1.0
# The disk check fails below both limits: 5 % is little space on a small disk and plenty on a large one.
_MIN_FREE_RATIO: Final = 0.05
_MIN_FREE_BYTES: Final = 1 << 30
_DISK_PERIOD_SECONDS: Final = 15.0


class SystemSampler:
    """The sampler of CPU, memory, process and event-loop lag."""

    def __init__(self, observer: Observer = NULL_OBSERVER) -> None:
        self._observer = observer
        self._process = psutil.Process()
        self._lags: deque[float] = deque([0.0], maxlen=_TICKS)
        self.latest: Mapping[str, Any] = {}

    @property
    def lag_seconds(self) -> float:
        """The greatest lag of the event loop within the last ten seconds."""
        return max(self._lags)

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        # psutil reports the CPU usage since the previous call in the same thread.
        psutil.cpu_percent(interval=None)
        self._process.cpu_percent(interval=None)
        self._sample()
        self._observer.record_event_loop_lag(self.lag_seconds)
        sampled = loop.time() - PERIOD_SECONDS + _TICK_SECONDS  # the first CPU usage is available soon
        while True:
            due = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self._lags.append(max(0.0, loop.time() - due))
            self._observer.record_event_loop_lag(self.lag_seconds)
            if loop.time() - sampled >= PERIOD_SECONDS:
                sampled = loop.time()
                self._sample()

    async def check_loop(self) -> Mapping[str, Any]:
        """Return the lag of the event loop.

        Raises:
            CheckFailedError: the lag exceeded one second.
        """
        data = {"lag_ms": round(self.lag_seconds * 1000, 1)}
        if self.lag_seconds > _MAX_LAG_SECONDS:
            raise CheckFailedError(
                f"lagged by {self.lag_seconds:.1f} s: a handler or a check blocked it, or the CPU is overloaded",
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
    """Create the check ``event_loop``."""
    return HealthCheck("event_loop", sampler.check_loop, period=PERIOD_SECONDS)


def disk_check(directory: Path) -> HealthCheck:
    """Create the check ``disk``, which runs in a thread because a network file system can hang."""

    def check() -> Mapping[str, Any]:
        try:
            total, _, free = shutil.disk_usage(directory)
        except OSError as error:
            raise CheckFailedError(f"disk usage cannot be read: {error.strerror}") from error
        data = {
            "total_bytes": total,
            "free_bytes": free,
            "used_percent": round(100 * (1 - free / total), 1) if total else 0.0,
        }
        if free < _MIN_FREE_BYTES and free < total * _MIN_FREE_RATIO:
            raise CheckFailedError(f"only {free >> 20} MiB free", data)
        return data

    return HealthCheck("disk", check, period=_DISK_PERIOD_SECONDS)
