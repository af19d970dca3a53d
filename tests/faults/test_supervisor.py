"""The parent of several workers: deaths are logged, counted and replaced at once, and no worker outlives its parent."""

import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.faults.conftest import SERVE, Server, serve

PATIENCE_SECONDS = 60
# A second is what a machine that is not busy needs at most.
BOUND_SECONDS = 4.0
WORKERS = ("--workers", "3")
# Lets a test block the event loop of a process.
BLOCKING = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: [time.sleep(1) for _ in range(600)])
"""


def workers_of(server: Server) -> set[int]:
    """Return the process ids of the server's workers, whether they serve or are starting."""
    pids = set()
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                pids.add(child.pid)
    return pids


def wait_for(condition: Callable[[], bool], server: Server, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until the condition holds; return the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, server.log_text
        time.sleep(0.01)
    return time.monotonic() - began


def metric(server: Server, name: str) -> dict[str, float]:
    """Return the samples of a metric by their labels, as any worker reports them."""
    with suppress(httpx2.TransportError):  # a connection to a worker that was killed
        text = httpx2.get(f"{server.url}/metrics", timeout=30).text
        return {
            labels: float(value)
            for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        }
    return {}


def exits(server: Server) -> dict[str, float]:
    """Return the number of workers that have ended, by reason, without those that are 0."""
    counts = metric(server, "projkit_worker_exits_total")
    return {re.sub(r'reason="(.*)"', r"\1", labels): count for labels, count in counts.items() if count}


def serving(server: Server, pids: set[int], count: int) -> bool:
    """Return whether so many workers serve, none of which is one of ``pids``."""
    labels = metric(server, "projkit_process_resident_memory_bytes")
    present = {int(re.sub(r'pid="(.*)"', r"\1", label)) for label in labels}
    return len(present - pids) == count and not present & pids


def test_killed_workers_are_replaced_within_a_second(sqlite_url: str) -> None:
    """One worker, all of them at once, and one that is still starting: each death is logged, counted and replaced."""
    with serve(sqlite_url, arguments=WORKERS) as server:
        wait_for(lambda: serving(server, set(), 3), server)
        before = workers_of(server)
        victim = httpx2.get(f"{server.url}/api/v1/monitoring/metrics/performance").json()["pid"]
        os.kill(victim, signal.SIGSEGV)
        took = [wait_for(lambda: len(workers_of(server) - before) == 1, server)]
        assert re.search(
            rf"WARNING .* worker {victim} was ended by SIGSEGV after it had served for ", server.log_text
        )
        wait_for(lambda: serving(server, {victim}, 3), server)

        before = workers_of(server)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        took.append(wait_for(lambda: len(workers_of(server) - before) == 3, server))
        (starting, *_) = workers_of(server) - before
        os.kill(starting, signal.SIGKILL)
        took.append(wait_for(lambda: len(workers_of(server) - before - {starting}) == 3, server))
        assert re.search(
            rf"WARNING .* worker {starting} was ended by SIGKILL before it served", server.log_text
        )
        wait_for(lambda: serving(server, before | {starting}, 3), server)
        assert {tuple(sorted(exits(server).items())) for _ in range(10)} == {
            (("SIGKILL", 4.0), ("SIGSEGV", 1.0))
        }
        print(f"replaced after {', '.join(f'{each:.2f}' for each in took)} s")  # noqa: T201
        assert max(took) < BOUND_SECONDS

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert "Traceback" not in server.log_text


def test_a_crash_loop(sqlite_url: str, tmp_path: Path) -> None:
    """A worker that cannot start is retried with increasing delays, with the fix, while the others serve."""
    file, aside = tmp_path / "projkit.db", tmp_path / "aside.db"
    with serve(sqlite_url, arguments=WORKERS) as server:
        wait_for(lambda: serving(server, set(), 3), server)
        file.rename(aside)
        file.mkdir()
        (victim, *_) = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        expected = "the failure number 4 in a row; the next attempt is in 1 s, and 2 of 3 workers serve"
        wait_for(lambda: expected in server.log_text, server)
        assert "run: projkit check" in server.log_text
        assert httpx2.get(f"{server.url}/api/v1/health/live").status_code == 200
        assert exits(server).keys() == {"SIGKILL", "start_failed"}
        file.rmdir()
        aside.rename(file)
        wait_for(lambda: serving(server, {victim}, 3), server)


def test_no_worker_can_start(sqlite_url: str) -> None:
    """If no worker can start at all, the server ends with exit code 1."""
    environment = {**os.environ, "PROJKIT_HEALTH_CRITICAL": "nonsense", "PROJKIT_DATABASE_URL": sqlite_url}
    done = subprocess.run(
        [*SERVE, *WORKERS], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "before any worker served; stopping the server" in done.stderr
    assert "PROJKIT_HEALTH_CRITICAL names an unknown health check" in done.stderr


def test_no_process_is_left_for_a_replacement(sqlite_url: str) -> None:
    """While the parent cannot start a process, the other workers serve; it starts one as soon as it can."""
    with serve(sqlite_url, arguments=WORKERS) as server:
        wait_for(lambda: serving(server, set(), 3), server)
        parent = server.process.pid
        before = resource.prlimit(parent, resource.RLIMIT_NOFILE)
        in_use = max(int(each.name) for each in Path(f"/proc/{parent}/fd").iterdir())
        resource.prlimit(parent, resource.RLIMIT_NOFILE, (in_use, before[1]))
        (victim, *_) = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        expected = (
            "no process could be started for a worker (Too many open files), the failure number 4 in a row"
        )
        wait_for(lambda: expected in server.log_text, server)
        assert httpx2.get(f"{server.url}/api/v1/health/live").status_code == 200
        resource.prlimit(parent, resource.RLIMIT_NOFILE, before)
        wait_for(lambda: serving(server, {victim}, 3), server)
        assert "Traceback" not in server.log_text


def test_a_stop_of_the_whole_group(sqlite_url: str) -> None:
    """Workers drain if the signal reaches them as well, as from systemd or a terminal; a second one ends the drain."""
    with serve(sqlite_url, arguments=WORKERS, PROJKIT_DRAIN_SECONDS="600") as server:
        server.process.send_signal(signal.SIGTERM)
        # A worker that was still starting has ended.
        wait_for(lambda: server.log_text.count("draining for") == len(workers_of(server)), server)
        for pid in workers_of(server):
            os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        while time.monotonic() < began + 2:
            assert httpx2.get(f"{server.url}/api/v1/health/live").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert "WARNING" not in server.log_text


def test_a_stopped_worker_is_replaced(sqlite_url: str) -> None:
    """A worker that does not respond for half a minute is killed and replaced; a server that was suspended is not."""
    with serve(sqlite_url, arguments=("--workers", "2")) as server:
        wait_for(lambda: serving(server, set(), 2), server)
        (victim, *_) = workers_of(server)
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: exits(server) == {"unresponsive": 1.0}, server, 3 * PATIENCE_SECONDS)
        assert f"worker {victim} did not respond and was killed" in server.log_text


def test_the_number_of_workers_changes(sqlite_url: str) -> None:
    """SIGTTIN adds a worker, SIGTTOU removes one, which is no failure."""
    with serve(sqlite_url, arguments=("--workers", "2")) as server:
        wait_for(lambda: serving(server, set(), 2), server)
        server.process.send_signal(signal.SIGTTIN)
        wait_for(lambda: serving(server, set(), 3), server)
        server.process.send_signal(signal.SIGTTOU)
        wait_for(lambda: serving(server, set(), 2), server)
        wait_for(lambda: exits(server) == {"planned": 1.0}, server)
        assert "WARNING" not in server.log_text
        assert "uvicorn.access" not in server.log_text, "workers log each request once"


@pytest.mark.parametrize("when", ["serving", "starting"])
def test_no_worker_outlives_its_parent(sqlite_url: str, when: str) -> None:
    """After SIGKILL of the parent, all workers end, and a new server can listen on the same port."""
    with serve(sqlite_url, arguments=WORKERS) as server:
        wait_for(lambda: serving(server, set(), 3), server)
        port = int(server.url.rpartition(":")[2])
        if when == "starting":
            before = workers_of(server)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: len(workers_of(server)) > 3, server)
            assert before < workers_of(server)
        pids = workers_of(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        took = wait_for(lambda: can_listen(port), server)
        ended = wait_for(lambda: not any(map(psutil.pid_exists, pids)), server)
        print(f"{when}: port free after {took:.2f} s, workers gone after {took + ended:.2f} s")  # noqa: T201
        assert took < 5
        assert f"the parent process {server.process.pid} is gone" in server.log_text
        with serve(sqlite_url, arguments=(*WORKERS, "--port", str(port))) as successor:
            assert successor.url == server.url


def test_no_blocked_worker_outlives_its_parent(sqlite_url: str, tmp_path: Path) -> None:
    """A worker that was asked to stop while its event loop is blocked exits without its parent, and frees the port."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKING)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with serve(
        sqlite_url,
        arguments=("--workers", "2"),
        PROJKIT_REQUEST_TIMEOUT_SECONDS="1",
        PYTHONPATH=path,
    ) as server:
        wait_for(lambda: serving(server, set(), 2), server)
        port = int(server.url.rpartition(":")[2])
        pids = workers_of(server)
        (blocked, *_) = pids
        os.kill(blocked, signal.SIGUSR1)
        time.sleep(0.5)
        os.kill(blocked, signal.SIGTERM)
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        took = wait_for(lambda: can_listen(port), server)
        wait_for(lambda: not any(map(psutil.pid_exists, pids)), server)
        assert took > 5, "the worker was not blocked"
        assert f"worker {blocked} exits now, because it did not stop in time" in server.log_text


def can_listen(port: int) -> bool:
    """Return whether a server can listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
        return True
