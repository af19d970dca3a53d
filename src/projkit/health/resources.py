"""CPU and memory that the process may use: the container's if it has a limit, otherwise the machine's."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from projkit.cgroups import ControlGroups, CpuUsage


class ResourceSampler:
    """The sampler of CPU and memory; all calls must be made in the same thread, as psutil keeps values for each.

    Args:
        groups: the container's limits and usage.
        clock: returns the time in seconds.
    """

    def __init__(
        self, groups: ControlGroups | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._groups = groups or ControlGroups()
        self._clock = clock
        self._previous: tuple[float, CpuUsage] | None = None

    def sample(self) -> dict[str, Any]:
        """Return CPU usage since the previous call, in percent of what may be used, and the memory in use."""
        percent, cpu = self._cpu()
        return {"cpu_percent": percent, "cpu": cpu, "memory": self._memory()}

    def _cpu(self) -> tuple[float, Mapping[str, Any]]:
        machine_percent, cpus = psutil.cpu_percent(interval=None), os.cpu_count() or 1
        usage, now = self._groups.cpu(cpus), self._clock()
        previous, self._previous = self._previous, usage and (now, usage)
        if usage is None:
            return machine_percent, {"source": "machine", "cpus": cpus}
        percent = throttled = 0.0
        if previous is not None:
            then, before = previous
            percent = _percent(usage.used_seconds - before.used_seconds, (now - then) * usage.limit_cpus)
            throttled = _percent(
                usage.throttled_periods - before.throttled_periods, usage.periods - before.periods
            )
        return percent, {
            "source": "cgroup",
            "cpus": round(usage.limit_cpus, 3),
            "throttled_periods": usage.throttled_periods,
            "throttled_percent": throttled,
        }

    def _memory(self) -> Mapping[str, Any]:
        machine = psutil.virtual_memory()
        if usage := self._groups.memory(machine.total):
            return {
                "source": "cgroup",
                "total_bytes": usage.limit_bytes,
                "available_bytes": usage.limit_bytes - usage.used_bytes,
                "used_percent": _percent(usage.used_bytes, usage.limit_bytes),
            }
        return {
            "source": "machine",
            "total_bytes": machine.total,
            "available_bytes": machine.available,
            "used_percent": machine.percent,
        }


def _percent(part: float, whole: float) -> float:
    # The two clocks differ a little, and a counter of another level begins elsewhere when a limit changes.
    return round(min(100.0, max(0.0, 100 * part / whole)), 1) if whole > 0 else 0.0
