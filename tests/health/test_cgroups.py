"""Memory and CPU are those of the container where it has a limit, and the machine's otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projkit.cgroups import ControlGroups, CpuUsage, MemoryUsage
from projkit.health.resources import ResourceSampler
from projkit.monitoring.system import ResourceLimits, resource_limits

MIB = 1 << 20
MACHINE_BYTES, MACHINE_CPUS = 64 << 30, 16
UNLIMITED_V1 = "9223372036854771712\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = "".join(
    f"{31 + number} 30 0:{29 + number} {{root}} /sys/fs/cgroup/{name} ro - cgroup cgroup rw,{name}\n"
    for number, name in enumerate(("memory", "cpu,cpuacct", "cpuset"))
)
Files = Mapping[str, str]


def groups_in(directory: Path, cgroup: str, mountinfo: str, files: Files) -> ControlGroups:
    """Write a tree of files as a process sees it, and return the reader of it."""
    tree = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
    tree |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ControlGroups(directory / "proc/self", directory)


def memory_v2(limit: str, used: int, inactive: int = 0, group: str = "") -> Files:
    return {
        f"{group}memory.max": f"{limit}\n",
        f"{group}memory.current": f"{used}\n",
        f"{group}memory.stat": f"anon 4096\ninactive_file {inactive}\nactive_file 7\n",
    }


def cpu_v2(maximum: str, used: int = 3_000_000, throttled: int = 4, group: str = "") -> Files:
    stat = f"usage_usec {used}\nuser_usec 1\nnr_periods 10\nnr_throttled {throttled}\nthrottled_usec 5\n"
    return {f"{group}cpu.max": f"{maximum}\n", f"{group}cpu.stat": stat}


def memory_v1(limit: str, used: int, stat: str = "", group: str = "") -> Files:
    return {
        f"memory/{group}memory.limit_in_bytes": limit,
        f"memory/{group}memory.usage_in_bytes": f"{used}\n",
        f"memory/{group}memory.stat": stat,
    }


def cpu_v1(quota: int, used: int, group: str = "") -> Files:
    directory = f"cpu,cpuacct/{group}"
    return {
        f"{directory}cpu.cfs_quota_us": f"{quota}\n",
        f"{directory}cpu.cfs_period_us": "100000\n",
        f"{directory}cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 5\n",
        f"{directory}cpuacct.usage": f"{used}\n",
    }


V1_GROUPS = "5:memory:{path}\n4:cpu,cpuacct:{path}\n3:cpuset:{path}\n1:name=systemd:{path}\n"
POD = "kubepods.slice/pod1/"

MEMORY: dict[str, tuple[str, str, Files, MemoryUsage | None]] = {
    "own namespace": (
        "0::/\n", V2_MOUNT, memory_v2(str(512 * MIB), 200 * MIB, 50 * MIB), MemoryUsage(512 * MIB, 150 * MIB)
    ),
    "no limit": ("0::/\n", V2_MOUNT, memory_v2("max", 200 * MIB), None),
    "limit above the machine": ("0::/\n", V2_MOUNT, memory_v2(str(MACHINE_BYTES), 200 * MIB), None),
    "limit of zero": ("0::/\n", V2_MOUNT, memory_v2("0", 0), None),
    "usage unknown": ("0::/\n", V2_MOUNT, {"memory.max": "1000000"}, None),
    "more inactive than used": ("0::/\n", V2_MOUNT, memory_v2("1000", 10, 20), MemoryUsage(1000, 0)),
    "more used than the limit": ("0::/\n", V2_MOUNT, memory_v2("1000", 2000), MemoryUsage(1000, 1000)),
    "limit of a parent": (
        f"0::/{POD}c1\n", V2_MOUNT,
        {**memory_v2("max", 100, group=f"{POD}c1/"), **memory_v2("1000", 700, 100, group=POD),
         **memory_v2("9000", 8000, group="kubepods.slice/")},
        MemoryUsage(1000, 600),
    ),
    "equal limits": (
        f"0::/{POD}c1\n", V2_MOUNT,
        {**memory_v2("1000", 100, group=f"{POD}c1/"), **memory_v2("1000", 700, group=POD)},
        MemoryUsage(1000, 700),
    ),
    "group removed": (
        f"0::/{POD}c1 (deleted)\n", V2_MOUNT, memory_v2("1000", 700, group=POD), MemoryUsage(1000, 700)
    ),
    "outside the namespace": ("0::/../../c1\n", V2_MOUNT, memory_v2("1000", 700), MemoryUsage(1000, 700)),
    "mount of a subtree": (
        f"0::/{POD}c1\n", V2_MOUNT.replace(" / ", " /kubepods.slice ", 1),
        memory_v2("1000", 700, group="pod1/c1/"), MemoryUsage(1000, 700),
    ),
    "escaped mount point": (
        "0::/\n", V2_MOUNT.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/a\040b"),
        memory_v2("1000", 700, group="a b/"), MemoryUsage(1000, 700),
    ),
    "version 1 in Docker": (
        V1_GROUPS.format(path="/docker/c1"), V1_MOUNTS.format(root="/docker/c1"),
        memory_v1("1000\n", 700, "cache 1\ninactive_file 9\ntotal_inactive_file 100\n"), MemoryUsage(1000, 600),
    ),
    "version 1 without a limit": (
        V1_GROUPS.format(path="/"), V1_MOUNTS.format(root="/"), memory_v1(UNLIMITED_V1, 700), None
    ),
    "version 1 with the limit of an invisible parent": (
        V1_GROUPS.format(path="/docker/c1"), V1_MOUNTS.format(root="/docker/c1"),
        memory_v1(UNLIMITED_V1, 700, "hierarchical_memory_limit 800\n"), MemoryUsage(800, 700),
    ),
    "hybrid": (
        V1_GROUPS.format(path=f"/{POD}c1") + "0::/system.slice\n",
        V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + V1_MOUNTS.format(root="/"),
        {**memory_v1("1000\n", 300, group=f"{POD}c1/"), **memory_v2("10", 1, group="unified/system.slice/")},
        MemoryUsage(1000, 300),
    ),
    "hybrid with the controller in version 2": (
        "1:name=systemd:/\n0::/\n", V1_MOUNTS.format(root="/") + V2_MOUNT.replace("cgroup ro", "cgroup/unified ro"),
        memory_v2("1000", 300, group="unified/"), MemoryUsage(1000, 300),
    ),
    "version 1 not mounted": (V1_GROUPS.format(path="/") + "0::/\n", V2_MOUNT, memory_v2("1000", 300), None),
    "nothing mounted": ("0::/\n", "", memory_v2("1000", 300), None),
    "no groups": ("", V2_MOUNT, memory_v2("1000", 300), None),
}  # fmt: skip

CPU: dict[str, tuple[str, str, Files, CpuUsage | None]] = {
    "own namespace": ("0::/\n", V2_MOUNT, cpu_v2("50000 100000"), CpuUsage(0.5, 3.0, 10, 4)),
    "no limit": ("0::/\n", V2_MOUNT, cpu_v2("max 100000"), None),
    "quota above the machine": ("0::/\n", V2_MOUNT, cpu_v2("1600000 100000"), None),
    "period of zero": ("0::/\n", V2_MOUNT, cpu_v2("50000 0"), None),
    "usage unknown": ("0::/\n", V2_MOUNT, {"cpu.max": "50000 100000"}, None),
    "quota of a parent": (
        f"0::/{POD}c1\n", V2_MOUNT,
        {**cpu_v2("max 100000", 1, group=f"{POD}c1/"), **cpu_v2("150000 100000", 9_000_000, 7, group=POD)},
        CpuUsage(1.5, 9.0, 10, 7),
    ),
    "set of CPUs": (
        "0::/c1\n", V2_MOUNT,
        {**cpu_v2("400000 100000", group=""), **cpu_v2("max 100000", 2_000_000, 0, group="c1/"),
         "c1/cpuset.cpus.effective": "0-1,8\n"},
        CpuUsage(3, 2.0, 10, 0),
    ),
    "malformed set": ("0::/\n", V2_MOUNT, {**cpu_v2("max 100000"), "cpuset.cpus.effective": "3-1"}, None),
    "version 1 in Docker": (
        V1_GROUPS.format(path="/docker/c1"), V1_MOUNTS.format(root="/docker/c1"), cpu_v1(50000, 3_000_000_000),
        CpuUsage(0.5, 3.0, 10, 4),
    ),
    "version 1 without a limit": (
        V1_GROUPS.format(path="/"), V1_MOUNTS.format(root="/"), cpu_v1(-1, 3_000_000_000), None
    ),
    "version 1 with a quota of the pod and a set": (
        V1_GROUPS.format(path=f"/{POD}c1"), V1_MOUNTS.format(root="/"),
        {**cpu_v1(-1, 1, f"{POD}c1/"), **cpu_v1(150000, 4_000_000_000, POD), f"cpuset/{POD}c1/cpuset.cpus": "0-3\n"},
        CpuUsage(1.5, 4.0, 10, 4),
    ),
    "set without the controller of usage": (
        "3:cpuset:/\n", V1_MOUNTS.format(root="/"), {"cpuset/cpuset.cpus": "0\n"}, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MEMORY)
def test_memory(tmp_path: Path, case: str) -> None:
    """The smallest limit counts, with the working set of its level, in each version and namespace."""
    cgroup, mountinfo, files, expected = MEMORY[case]
    assert groups_in(tmp_path, cgroup, mountinfo, files).memory(MACHINE_BYTES) == expected


@pytest.mark.parametrize("case", CPU)
def test_cpu(tmp_path: Path, case: str) -> None:
    """The smallest quota or set counts, with the usage of its level, in each version and namespace."""
    cgroup, mountinfo, files, expected = CPU[case]
    assert groups_in(tmp_path, cgroup, mountinfo, files).cpu(MACHINE_CPUS) == expected


TEXT = st.text(max_size=40) | st.sampled_from(
    (
        "max",
        "-1",
        "0",
        "1",
        "9" * 5000,
        "1 0",
        "0-",
        "0-99999999",
        "\0",
        "..",
        "/",
        "0::/",
        "::",
        "1:memory:/",
    )
)
LINES = st.lists(TEXT, max_size=4).map("\n".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cgroup=LINES
    | st.sampled_from(["0::/\n", "0::/\0\n", f"0::/{'a' * 300}/b\n", V1_GROUPS.format(path="/a/b")]),
    mountinfo=LINES | st.just(V2_MOUNT) | TEXT.map(lambda root: V1_MOUNTS.format(root=root)),
    texts=st.lists(LINES | st.integers(0, 10**30).map(str), min_size=6, max_size=6),
)
def test_garbage(tmp_path: Path, cgroup: str, mountinfo: str, texts: list[str]) -> None:
    """Whatever the files contain, figures are plausible or absent, and never an error."""
    names = ("memory.max", "memory.current", "memory.stat", "cpu.max", "cpu.stat", "cpuset.cpus.effective")
    v1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
          "cpu,cpuacct/cpu.cfs_quota_us", "cpu,cpuacct/cpuacct.usage", "cpuset/cpuset.cpus")  # fmt: skip
    files = dict(zip((*names, *v1), (*texts, *texts), strict=True))
    groups = groups_in(tmp_path, cgroup, mountinfo, files)
    if memory := groups.memory(MACHINE_BYTES):
        assert 0 <= memory.used_bytes <= memory.limit_bytes < MACHINE_BYTES
    if cpu := groups.cpu(MACHINE_CPUS):
        assert 0 < cpu.limit_cpus < MACHINE_CPUS
        assert cpu.used_seconds >= 0


@pytest.mark.parametrize("kind", ["directory", "binary", "missing"])
def test_unreadable(tmp_path: Path, kind: str) -> None:
    """Files that cannot be read as text count as no limit."""
    groups = groups_in(tmp_path, "0::/\n", V2_MOUNT, {**memory_v2("1000", 10), **cpu_v2("50000 100000")})
    for name in ("memory.max", "cpu.max"):
        path = tmp_path / "sys/fs/cgroup" / name
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind == "binary":
            path.write_bytes(b"\xff\xfe\x00")
    assert (groups.memory(MACHINE_BYTES), groups.cpu(MACHINE_CPUS)) == (None, None)


def test_sample_of_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU usage is in percent of the container's limit since the previous sample, and throttling is shown."""
    monkeypatch.setattr(os, "cpu_count", lambda: MACHINE_CPUS)
    limits = {**memory_v2(str(MIB), MIB // 4), **cpu_v2("50000 100000", 0, 0)}
    groups = groups_in(tmp_path, "0::/\n", V2_MOUNT, limits)
    times = iter((100.0, 104.0, 104.0))
    sampler = ResourceSampler(groups, lambda: next(times))
    assert sampler.sample() == {
        "cpu_percent": 0.0,
        "cpu": {"source": "cgroup", "cpus": 0.5, "throttled_periods": 0, "throttled_percent": 0.0},
        "memory": {
            "source": "cgroup", "total_bytes": MIB, "available_bytes": MIB * 3 // 4, "used_percent": 25.0
        },
    }  # fmt: skip
    stat = "usage_usec 1500000\nnr_periods 50\nnr_throttled 10\n"
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text(stat)
    second, third = sampler.sample(), sampler.sample()
    assert (second["cpu_percent"], second["cpu"]["throttled_percent"]) == (75.0, 25.0)
    assert (third["cpu_percent"], third["cpu"]["throttled_percent"]) == (0.0, 0.0)
    assert resource_limits(groups) == ResourceLimits(
        cpus=0.5, cpu_source="cgroup", memory_bytes=MIB, memory_source="cgroup"
    )


def test_sample_of_machine(tmp_path: Path) -> None:
    """Without limits, the figures are the machine's, and say so."""
    groups = groups_in(tmp_path, "", "", {})
    sample, machine, cpus = ResourceSampler(groups).sample(), psutil.virtual_memory().total, os.cpu_count()
    assert sample["cpu"] == {"source": "machine", "cpus": cpus}
    assert (sample["memory"]["source"], sample["memory"]["total_bytes"]) == ("machine", machine)
    assert resource_limits(groups) == ResourceLimits(
        cpus=cpus or 1, cpu_source="machine", memory_bytes=machine, memory_source="machine"
    )


def test_sample_of_this_process() -> None:
    """From the real files of the system that runs the test, the figures are plausible."""
    sample, machine = ResourceSampler().sample(), psutil.virtual_memory().total
    cpu, memory = sample["cpu"], sample["memory"]
    assert {cpu["source"], memory["source"]} <= {"cgroup", "machine"}
    assert 0 < cpu["cpus"] <= (os.cpu_count() or 1)
    assert psutil.Process().memory_info().rss // 2 < memory["total_bytes"] <= machine
    assert 0 <= memory["available_bytes"] <= memory["total_bytes"]
    assert 0 <= memory["used_percent"] <= 100
    assert 0 <= sample["cpu_percent"] <= 100
