"""Limits and usage of the container: Linux control groups (cgroups), versions 1 and 2, read from files.

A container sees the whole machine in ``/proc/meminfo`` and ``/proc/stat``, and so does psutil. Its limits are in its
cgroup, or in a parent (Kubernetes limits the pod, systemd the slice). Each level from the process's own group up to the
mounted root is read, and the smallest limit counts; usage is that of the level with this limit, since its other groups
use it up as well. Files that are missing, unreadable or malformed count as no limit: then there is nothing to report.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

_NUMBER: Final = re.compile(r"[0-9]{1,20}")  # up to 2**64; version 1 writes "no limit" as a number near 2**63
_CPU_RANGE: Final = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
_NO_QUOTA: Final = float("inf")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class MemoryUsage(NamedTuple):
    """A limit on memory, and what is in use of it: the working set, without the page cache that is not in use."""

    limit_bytes: int
    used_bytes: int


class CpuUsage(NamedTuple):
    """A limit in CPUs, and the CPU time used of it since the group was created.

    ``periods`` and ``throttled_periods`` count the scheduling periods, and those in which the group had to wait
    because it had used up its quota.
    """

    limit_cpus: float
    used_seconds: float
    periods: int
    throttled_periods: int


class _Controller(NamedTuple):
    """The directories of a controller, from the process's own group to the mounted root."""

    version: int
    levels: tuple[Path, ...]

    def read(self, level: int, name: str) -> str:
        return _read(self.levels[level] / name) if level < len(self.levels) else ""


class ControlGroups:
    """The cgroups of this process, whose paths are read once; limits can change while it runs.

    Args:
        proc: the directory of the process in ``/proc``.
        root: the directory that mount points are relative to.
    """

    def __init__(self, proc: Path = Path("/proc/self"), root: Path = Path("/")) -> None:
        paths = dict(_group_paths(_read(proc / "cgroup")))
        mounts = list(_mounts(_read(proc / "mountinfo"), root))
        self._memory = _controller("memory", paths, mounts)
        self._cpu = _controller("cpu", paths, mounts)
        self._cpuacct = _controller("cpuacct", paths, mounts)
        self._cpuset = _controller("cpuset", paths, mounts)

    def memory(self, machine_bytes: int) -> MemoryUsage | None:
        """Return the smallest limit on memory; None if there is none below the machine's size."""
        limits = [
            (limit, level)
            for level in range(len(self._memory.levels))
            if (limit := self._memory_limit(level))
        ]
        # Of equal limits that of the outermost level counts: it is shared with the most others.
        for limit, level in sorted(limits, key=lambda each: (each[0], -each[1])):
            if limit < machine_bytes and (used := self._memory_used(level)) is not None:
                return MemoryUsage(limit, min(limit, used))
        return None

    def cpu(self, machine_cpus: int) -> CpuUsage | None:
        """Return the smallest limit on CPUs, by quota or by set; None if there is none below the machine's number."""
        quota, level = self._smallest_quota()
        limit = min(quota, self._cpuset_size() or machine_cpus)
        if limit >= machine_cpus:
            return None
        # A quota applies to all groups of its level together, a set to the group itself.
        level = level if quota <= limit else 0
        stat = _fields(self._cpu.read(level, "cpu.stat"))
        if self._cpu.version == 2:
            used, per_second = stat.get("usage_usec"), 1e6
        else:  # the two controllers are mounted together or apart
            used, per_second = _number(self._cpuacct.read(level, "cpuacct.usage")), 1e9
        if used is None:
            return None
        return CpuUsage(limit, used / per_second, stat.get("nr_periods", 0), stat.get("nr_throttled", 0))

    def _memory_limit(self, level: int) -> int:
        """Return the limit of a level; 0 if there is none."""
        if self._memory.version == 2:
            return _number(self._memory.read(level, "memory.max")) or 0
        limit = _number(self._memory.read(level, "memory.limit_in_bytes")) or 0
        if level > 0 or not limit:
            return limit
        # The smallest of the group and its parents, which need not be visible.
        return min(
            limit, _fields(self._memory.read(0, "memory.stat")).get("hierarchical_memory_limit") or limit
        )

    def _memory_used(self, level: int) -> int | None:
        names = ("memory.current", "inactive_file")
        if self._memory.version == 1:
            names = ("memory.usage_in_bytes", "total_inactive_file")
        used = _number(self._memory.read(level, names[0]))
        if used is None:
            return None
        return max(0, used - _fields(self._memory.read(level, "memory.stat")).get(names[1], 0))

    def _smallest_quota(self) -> tuple[float, int]:
        quotas = [(self._quota(level), level) for level in range(len(self._cpu.levels))]
        return min(reversed(quotas), key=lambda each: each[0], default=(_NO_QUOTA, 0))

    def _quota(self, level: int) -> float:
        if self._cpu.version == 2:
            quota, _, period = self._cpu.read(level, "cpu.max").strip().partition(" ")
        else:
            quota, period = (self._cpu.read(level, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        of, per = _number(quota), _number(period)
        return of / per if of and per else _NO_QUOTA

    def _cpuset_size(self) -> int:
        names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
        return next((size for name in names if (size := _set_size(self._cpuset.read(0, name)))), 0)


def _group_paths(text: str) -> Iterator[tuple[str, str]]:
    """Yield each controller with the path of the process's group; version 2 has the name ``""``."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator or not path.startswith("/"):
            continue
        if number == "0" and not controllers:
            yield "", path
        for name in filter(None, controllers.split(",")):
            yield name, path


class _Mount(NamedTuple):
    directory: Path
    root: PurePosixPath
    controllers: frozenset[str] | None  # None: version 2


def _mounts(text: str, root: Path) -> Iterator[_Mount]:
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(types) < 3 or types[0] not in {"cgroup", "cgroup2"}:
            continue
        mounted, directory = (_ESCAPED.sub(lambda match: chr(int(match[1], 8)), each) for each in fields[3:5])
        options = None if types[0] == "cgroup2" else frozenset(types[2].split(","))
        yield _Mount(root / directory.lstrip("/"), PurePosixPath(mounted), options)


def _controller(name: str, paths: dict[str, str], mounts: list[_Mount]) -> _Controller:
    """Find the directories of a controller, in version 1 if it is there: a hybrid system has both."""
    for mount in mounts:
        if name in paths and mount.controllers is not None and name in mount.controllers:
            return _Controller(1, _levels(mount, paths[name]))
    for mount in mounts:
        if "" in paths and mount.controllers is None and name not in paths:
            return _Controller(2, _levels(mount, paths[""]))
    return _Controller(2, ())


def _levels(mount: _Mount, path: str) -> tuple[Path, ...]:
    group = PurePosixPath(path)
    # Outside what is mounted, as with a namespace of its own but the host's mount, the mounted root is all one sees.
    inside = ".." not in group.parts and group.is_relative_to(mount.root)
    relative = group.relative_to(mount.root) if inside else PurePosixPath()
    return tuple(mount.directory / each for each in (relative, *relative.parents))


def _set_size(text: str) -> int:
    """Return the number of CPUs in a list such as ``0-3,8``; 0 if it is empty or malformed."""
    ranges = [_CPU_RANGE.fullmatch(each) for each in text.strip().split(",")]
    sizes = [int(each[2] or each[1]) - int(each[1]) + 1 if each else 0 for each in ranges]
    return sum(sizes) if min(sizes) > 0 else 0


def _fields(text: str) -> dict[str, int]:
    pairs = (line.partition(" ") for line in text.splitlines())
    return {name: number for name, _, value in pairs if (number := _number(value)) is not None}


def _number(text: str) -> int | None:
    return int(match[0]) if (match := _NUMBER.fullmatch(text.strip())) else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: a path that no file can have
        return ""
