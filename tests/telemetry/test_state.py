"""Gauges: health checks, event loop lag, workers and processes, build info."""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

import projkit
from projkit import ProjKit
from projkit.errors import ProjkitError
from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.event_loops import event_loops
from projkit.telemetry.exposition import KitRegistry
from projkit.telemetry.processes import process_usage
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.snapshot import KitInfo
from tests.conftest import settings_for
from tests.telemetry.other_workers import another_worker

pytestmark = pytest.mark.anyio
STATUS = "projkit_health_check_status"
CRITICAL = "projkit_health_check_critical"
LATENCY = "projkit_health_check_latency_seconds"
STALE = "projkit_health_check_stale"
LAG = "projkit_event_loop_lag_seconds"
AGE = "projkit_worker_heartbeat_age_seconds"
PATIENCE = 30.0


class MetricValues:
    """The Prometheus metrics of a registry."""

    def __init__(self, registry: KitRegistry) -> None:
        self._registry = registry

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)

    async def until(self, expected: float, name: str, **labels: str) -> None:
        """Wait for a value."""
        async with asyncio.timeout(PATIENCE):
            while self(name, **labels) != expected:
                await asyncio.sleep(0.02)


def metric_values(recorder: Recorder) -> MetricValues:
    """Return the metrics of a recorder."""
    return MetricValues(KitRegistry(RecorderCollector(recorder, KitInfo("1.2.3"))))


async def test_health_checks(sqlite_url: str) -> None:
    """The status of every check is 1 while it is healthy, and 0 while it fails or is stale."""
    well = True

    async def backend() -> None:
        await asyncio.sleep(0.02)
        if not well:
            raise RuntimeError

    kit = ProjKit(settings_for(sqlite_url, health_critical="database,backend"))
    value = MetricValues(kit.registry)
    kit.add_health_check("backend", backend, period=0.1, timeout=0.4)
    assert value(STATUS, check="backend") is None, "the check has not run yet"
    async with kit.lifespan():
        await value.until(1, STATUS, check="backend")
        assert (value(CRITICAL, check="backend"), value(CRITICAL, check="disk")) == (1, 0)
        assert 0.02 <= (value(LATENCY, check="backend") or 0) < PATIENCE
        assert value(STATUS, check="database") == 1
        well = False
        await value.until(0, STATUS, check="backend")
        assert value(STATUS, check="database") == 1
        well = True
        await value.until(1, STATUS, check="backend")
    assert value(STATUS, check="backend") is None, "a check that no longer runs has no status"
    assert value(STALE, check="backend") is None


async def test_a_kit_that_cannot_start(sqlite_url: str) -> None:
    """If the database prevents the start, its check fails."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    kit = ProjKit(settings_for(url, database_connect_seconds=0.1))
    with pytest.raises(ProjkitError):
        await kit.startup()
    assert MetricValues(kit.registry)(STATUS, check="database") == 0
    assert MetricValues(kit.registry)(CRITICAL, check="database") == 1


def check_result(healthy: bool | None, seconds: float = 0.1, valid_seconds: float = 60.0) -> dict[str, Any]:
    """Return the result of a check as it is recorded."""
    return {"critical": True, "healthy": healthy, "seconds": seconds, "valid_seconds": valid_seconds}


@pytest.mark.parametrize(
    ("theirs", "status", "stale"),
    [
        (check_result(False, 0.5), 0, 0),
        (check_result(True, 0.5, valid_seconds=0.0), 1, 1),
        (check_result(False, 0.5, valid_seconds=0.0), 1, 1),
        (check_result(None, 0.5), 1, 0),
    ],
    ids=["it fails there", "it is stale there", "it failed there long ago", "it has no result there"],
)
def test_the_worst_worker(tmp_path: Path, theirs: dict[str, Any], status: int, stale: int) -> None:
    """A check has the status of the worst worker that has run it; where it was not run, it is stale, not failing."""
    recorder = Recorder(tmp_path)
    value = metric_values(recorder)
    with another_worker(tmp_path) as worker:
        recorder.record_health_check("backend", **check_result(True))
        recorder.record_heartbeat(0.2)
        assert (value(STATUS, check="backend"), value(STALE, check="backend")) == (1, 0)
        worker.do(f"recorder.record_health_check('backend', **{theirs!r}); recorder.record_heartbeat(1.5)")
        assert (value(STATUS, check="backend"), value(STALE, check="backend")) == (status, stale)
        assert value(LATENCY, check="backend") == 0.5
        assert (value(LAG) or 0) >= 1.5
        assert value("projkit_workers") == 2
        worker.kill()
        assert (value(STATUS, check="backend"), value(LATENCY, check="backend")) == (1, 0.1)
        recorder.record_heartbeat(0.2)
        assert (value(LAG) or 0) >= 0.2
        assert value("projkit_workers") == 1


def test_a_blocked_worker(tmp_path: Path) -> None:
    """The lag of a worker that no longer runs grows, as the others report it, and names the process."""
    recorder = Recorder(tmp_path)
    value = metric_values(recorder)
    with another_worker(tmp_path) as worker:
        recorder.record_heartbeat(0.0)
        worker.do("recorder.record_heartbeat(0.25)")
        pid = str(worker.process.pid)
        time.sleep(1.0)
        recorder.record_heartbeat(0.0)
        age = value(AGE, pid=pid) or 0
        assert age >= 1.0
        assert (value(LAG) or 0) >= 0.5
        assert dict(recorder.silent_loops()).keys() == {os.getpid(), worker.process.pid}
        worker.do("recorder.end_heartbeat()")
        assert value(AGE, pid=pid) is None, "its event loop has ended"
        assert [pid for pid, _ in recorder.silent_loops()] == [os.getpid()]
    recorder.end_heartbeat()
    assert (recorder.silent_loops(), value(LAG)) == ([], None)


def test_a_suspended_machine() -> None:
    """If the process that reads was suspended too, the others are no more late than it is."""
    heartbeats: list[tuple[tuple[str, ...], list[float]]] = [(("1",), [0.1, 100.0]), (("2",), [0.2, 99.5])]
    both = event_loops([*heartbeats, (("3",), [0.0, 0.0])], 700.0, "1")
    assert [(each.pid, each.silent_seconds) for each in both] == [(1, 600.0), (2, 1.0)]
    running = event_loops([(("1",), [0.1, 699.9]), heartbeats[1]], 700.0, "1")
    assert [*running[1]] == [2, pytest.approx(600.5), pytest.approx(600.0)]
    assert [each.lag_seconds for each in event_loops(heartbeats, 100.2, "9")] == [0.1, pytest.approx(0.2)]


def test_failing_since_over_workers(tmp_path: Path) -> None:
    """A check has failed since it did in the worker where it has failed for longest; ended workers do not count."""
    recorder = Recorder(tmp_path)
    value = metric_values(recorder)
    name = "projkit_health_check_failing_since_timestamp_seconds"
    recorder.record_health_check("backend", **check_result(True))
    assert value(name, check="backend") == 0
    with another_worker(tmp_path) as worker:
        failing = "**{'critical': True, 'healthy': False, 'seconds': 0.1, 'valid_seconds': 60.0}"
        since = "__import__('datetime').datetime.fromtimestamp(1000, __import__('datetime').UTC)"
        worker.do(f"recorder.record_health_check('backend', {failing}, failing_since={since})")
        assert value(name, check="backend") == 1000
        recorder.record_health_check(
            "backend", **check_result(False), failing_since=datetime.fromtimestamp(2000, UTC)
        )
        assert value(name, check="backend") == 1000
        worker.kill()
        assert value(name, check="backend") == 2000


async def test_event_loop_lag(sqlite_url: str) -> None:
    """A host that blocks the event loop shows in the lag."""
    kit = ProjKit(settings_for(sqlite_url))
    value = MetricValues(kit.registry)
    async with kit.lifespan():
        await asyncio.sleep(0.6)
        time.sleep(1.0)  # that is what is to be seen
        async with asyncio.timeout(PATIENCE):
            while (value(LAG) or 0) < 0.3:
                await asyncio.sleep(0.05)
        assert (value(LAG) or 0) < PATIENCE


def test_processes(tmp_path: Path) -> None:
    """Each living worker's process is exported as the system reports it; an ended one is not."""
    recorder = Recorder(tmp_path)
    value = metric_values(recorder)
    with another_worker(tmp_path) as worker:
        worker.do(
            "recorder.open(); taken = bytearray(b'x' * 50_000_000); files = [open('/dev/null') for _ in range(30)]"
        )
        for pid in (os.getpid(), worker.process.pid):
            process, labels = psutil.Process(pid), {"pid": str(pid)}
            resident = value("projkit_process_resident_memory_bytes", **labels) or 0
            assert resident == pytest.approx(process.memory_info().rss, rel=0.2)
            assert value("projkit_process_open_fds", **labels) == pytest.approx(process.num_fds(), abs=3)
            assert value("projkit_process_max_fds", **labels) == process.rlimit(psutil.RLIMIT_NOFILE)[0]
            assert value("projkit_process_start_time_seconds", **labels) == process.create_time()
            used = sum(process.cpu_times()[:2])
            assert value("projkit_process_cpu_seconds_total", **labels) == pytest.approx(used, abs=1.0)
        ended = str(worker.process.pid)
        assert (value("projkit_process_resident_memory_bytes", pid=ended) or 0) > 50_000_000
        worker.kill()
        assert value("projkit_process_resident_memory_bytes", pid=ended) is None
    assert process_usage([int(ended)]) == [], "an ended process is skipped"


def test_inaccessible_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system does not report one figure, the others are exported nonetheless."""

    def denied(*_: object) -> int:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "num_fds", denied)
    monkeypatch.setattr(psutil.Process, "rlimit", denied)
    value = metric_values(Recorder())
    assert value("projkit_process_open_fds", pid=str(os.getpid())) is None
    assert value("projkit_process_max_fds", pid=str(os.getpid())) is None
    assert value("projkit_process_resident_memory_bytes", pid=str(os.getpid()))


def test_unlimited_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a limit on open files has no such gauge, rather than a negative one."""
    unlimited = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)
    monkeypatch.setattr(psutil.Process, "rlimit", lambda *_: unlimited)
    value = metric_values(Recorder())
    assert value("projkit_process_max_fds", pid=str(os.getpid())) is None
    assert value("projkit_process_open_fds", pid=str(os.getpid()))


@pytest.mark.parametrize("sunset", [None, datetime(2027, 1, 1, tzinfo=UTC)])
def test_build_info(sqlite_url: str, sunset: datetime | None) -> None:
    """The versions are exported, and LEGACY_SUNSET if it is set."""
    value = MetricValues(ProjKit(settings_for(sqlite_url, legacy_sunset=sunset)).registry)
    labels = {
        "version": projkit.__version__,
        "python_version": ".".join(str(part) for part in sys.version_info[:3]),
        "python_implementation": "CPython",
    }
    assert value("projkit_build_info", **labels) == 1
    assert value("projkit_workers") == 1
    found = value("projkit_auth_legacy_sunset_timestamp_seconds")
    assert found == (None if sunset is None else sunset.timestamp())


def test_spans() -> None:
    """Spans are counted by outcome, with all outcomes from the start."""
    recorder = Recorder()
    value = metric_values(recorder)
    assert value("projkit_otel_spans_total", outcome="exported") is None
    recorder.record_spans("exported", 512)
    recorder.record_spans("dropped", 3)
    found = [value("projkit_otel_spans_total", outcome=each) for each in ("exported", "failed", "dropped")]
    assert found == [512, 0, 3]
