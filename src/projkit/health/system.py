"""Measurements of the container or machine and the process, taken in the background within a millisecond."""

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from projkit.health.checks import CheckFailedError, HealthCheck
from projkit.health.loop_watchdog import LoopWatchdog
from projkit.health.resources import ResourceSampler
from projkit.observers import HEARTBEAT_SECONDS, NULL_OBSERVER, Observer

PERIOD_SECONDS: Final = 5.0
_TICKS: Final = int(2 * PERIOD_SECONDS / HEARTBEAT_SECONDS)
# With a greater lag, no request gets a response in time.
_MAX_LAG_SECONDS: Final = 1.0
# Another worker that has not run for so long is blocked.
STUCK_SECONDS: Final = 5.0
# Returns the event loops of all workers of the server, as (pid, seconds since it last ran); blocks.
SilentLoops = Callable[[], Iterable[tuple[int, float]]]
# The disk check fails below both limits: 5 % is little space on a small disk and plenty on a large one.
_MIN_FREE_RATIO: Final = 0.05
_MIN_FREE_BYTES: Final = 1 << 30
_DISK_PERIOD_SECONDS: Final = 15.0


class SystemSampler:
    """The sampler of CPU, memory, process and event-loop lag.

    Args:
        observer: records the heartbeat of the event loop.
        silent_loops: returns for how long the event loop of each worker has not run.
    """

    def __init__(self, observer: Observer = NULL_OBSERVER, silent_loops: SilentLoops = lambda: ()) -> None:
        self._observer = observer
        self._silent_loops = silent_loops
        self._process = psutil.Process()
        self._resources = ResourceSampler()
        self._lags: deque[float] = deque([0.0], maxlen=_TICKS)
        self.latest: Mapping[str, Any] = {}

    @property
    def lag_seconds(self) -> float:
        """The greatest lag of the event loop within the last ten seconds."""
        return max(self._lags)

    async def run(self) -> None:
        """Sample until cancelled."""
        watchdog = LoopWatchdog(self._observer.end_heartbeat)
        watchdog.start()
        try:
            await self._sample_periodically(watchdog)
        finally:
            watchdog.close()
            self._observer.end_heartbeat()

    async def _sample_periodically(self, watchdog: LoopWatchdog) -> None:
        loop = asyncio.get_running_loop()
        # The CPU usage is that since the previous call in the same thread.
        self._resources.sample()
        self._process.cpu_percent(interval=None)
        self._sample()
        self._observer.record_heartbeat(self.lag_seconds)
        sampled = loop.time() - PERIOD_SECONDS + HEARTBEAT_SECONDS  # the first CPU usage is available soon
        while True:
            due = loop.time() + HEARTBEAT_SECONDS
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._lags.append(watchdog.beat(max(0.0, loop.time() - due)))
            self._observer.record_heartbeat(self.lag_seconds)
            if loop.time() - sampled >= PERIOD_SECONDS:
                sampled = loop.time()
                self._sample()

    def check_loop(self) -> Mapping[str, Any]:
        """Return the lag of the event loop; runs in a thread.

        Raises:
            CheckFailedError: the lag exceeded one second, or the event loop of another worker is blocked.
        """
        data: dict[str, Any] = {"lag_ms": round(self.lag_seconds * 1000, 1)}
        if self.lag_seconds > _MAX_LAG_SECONDS:
            raise CheckFailedError(
                f"lagged by {self.lag_seconds:.1f} s: a handler or a check blocked it, or the CPU is overloaded",
                data,
            )
        others = ((pid, seconds) for pid, seconds in self._silent_loops() if pid != self._process.pid)
        if stuck := [each for each in others if each[1] > STUCK_SECONDS]:
            data["stuck_workers"] = [{"pid": pid, "seconds": round(seconds, 1)} for pid, seconds in stuck]
            names = " and ".join(f"{pid} for {seconds:.0f} s" for pid, seconds in stuck)
            raise CheckFailedError(f"another worker is blocked, and its requests wait: process {names}", data)
        return data

    def _sample(self) -> None:
        with self._process.oneshot():
            process = {
                "pid": self._process.pid,
                "rss_bytes": self._process.memory_info().rss,
                "cpu_percent": self._process.cpu_percent(interval=None),
                "threads": self._process.num_threads(),
                "open_files": self._process.num_fds() if hasattr(self._process, "num_fds") else None,
            }
        self.latest = {
            **self._resources.sample(),
            "load_average": [round(each, 2) for each in psutil.getloadavg()],
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
