"""A server that loses its metrics directory continues to serve, replaces its workers, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from projkit.cli.metrics_directory import PREFIX
from tests.faults.conftest import SERVE, Server, serve
from tests.faults.test_files import UNPRIVILEGED
from tests.faults.test_supervisor import exits, metric, serving, wait_for, workers_of

WORKERS = ("--workers", "2")
DEGRADED = "projkit_metrics_store_degraded"
LIVE = "/api/v1/health/live"


def value(server: Server, name: str) -> float | None:
    """Return a metric without labels."""
    text = httpx2.get(f"{server.url}/metrics", timeout=30).text
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), None)


def kill_one(server: Server) -> None:
    """Kill a worker and wait until its successor serves."""
    before = workers_of(server)
    os.kill(min(before), signal.SIGKILL)
    wait_for(lambda: bool(responding(server) - before), server)


def responding(server: Server) -> set[int]:
    """Return the workers that respond to a few requests."""
    path = f"{server.url}/api/v1/monitoring/system/info"
    pids = set()
    for _ in range(8):
        with suppress(httpx2.TransportError):  # a connection to the worker that was killed
            pids.add(httpx2.get(path, timeout=30).json()["pid"])
    return pids


def runtime_directory(tmp_path: Path) -> dict[str, Any]:
    """Return the variables of a server with a runtime directory of its own."""
    (tmp_path / "run").mkdir(exist_ok=True)
    return {"XDG_RUNTIME_DIR": str(tmp_path / "run")}


@pytest.mark.parametrize("lost", ["the directory", "all files", "started", "its permissions"])
def test_a_lost_directory(sqlite_url: str, tmp_path: Path, lost: str) -> None:
    """Whatever is removed, killed workers are replaced, the server stays up, and all workers are counted again."""
    with serve(sqlite_url, prefix=UNPRIVILEGED, arguments=WORKERS, **runtime_directory(tmp_path)) as server:
        wait_for(lambda: serving(server, set(), 2), server)
        (directory,) = (tmp_path / "run").glob(f"{PREFIX}*")
        if lost == "the directory":
            shutil.rmtree(directory)
        elif lost == "its permissions":
            directory.chmod(0)
            kill_one(server)
            wait_for(lambda: value(server, DEGRADED) == 1, server)
            directory.chmod(0o700)
        else:
            for path in directory.iterdir():
                if lost in {"all files", path.name}:
                    path.unlink()
        kill_one(server)
        wait_for(lambda: value(server, "projkit_workers") == 2 and value(server, DEGRADED) == 0, server)
        assert exits(server).keys() == {"SIGKILL"}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log_text
    assert list((tmp_path / "run").iterdir()) == []


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """Provide a file system with room for two workers."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m,nr_inodes=60", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("full_of", ["bytes", "files"])
def test_a_full_disk(sqlite_url: str, tmp_path: Path, full_of: str) -> None:
    """A full disk ends no worker; a replacement counts alone, says so, and shares its counts when there is room."""
    with small_disk(tmp_path / "disk") as disk:
        shared = disk / "metrics"
        with serve(sqlite_url, arguments=WORKERS, PROJKIT_METRICS_DIRECTORY=str(shared)) as server:
            wait_for(lambda: serving(server, set(), 2), server)
            fill(disk, full_of)
            os.kill(min(workers_of(server)), signal.SIGKILL)

            def is_degraded() -> bool:
                fill(disk, full_of)  # also the room of the worker that was killed
                with suppress(httpx2.TransportError):  # a connection to it
                    return value(server, DEGRADED) == 1
                return False

            wait_for(is_degraded, server)
            for number in range(200):  # new series, for which the files have to be written
                assert httpx2.get(f"{server.url}/api/v1/{number}").status_code == 404
            assert "No space left on device); this process counts alone" in server.log_text
            assert exits(server) == {"SIGKILL": 1.0}
            for path in disk.glob("filler-*"):
                path.unlink()
            wait_for(lambda: "can be used again" in server.log_text, server)
            wait_for(
                lambda: {len(metric(server, "projkit_process_open_fds")) for _ in range(8)} == {2}, server
            )
            assert {value(server, DEGRADED) for _ in range(8)} == {0}
            assert "Traceback" not in server.log_text


def fill(disk: Path, full_of: str) -> None:
    """Leave no room on a disk."""
    for _ in range(10_000):
        try:
            with (disk / f"filler-{full_of}-{os.urandom(4).hex()}").open("wb") as file:
                if full_of == "bytes":
                    while True:
                        file.write(bytes(4096))
                        file.flush()
        except OSError:
            return
    raise AssertionError("the disk does not fill up")


def test_an_unusable_directory_at_the_first_start(sqlite_url: str, tmp_path: Path) -> None:
    """The first start fails with exit code 1 and names the setting and the fix."""
    (tmp_path / "file").write_text("")
    variables = {"PROJKIT_METRICS_DIRECTORY": str(tmp_path / "file"), "PROJKIT_DATABASE_URL": sqlite_url}
    for arguments in ((), WORKERS):
        done = subprocess.run(
            [*SERVE, *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "failed: PROJKIT_METRICS_DIRECTORY: " in done.stderr
        assert "set it to a directory that every worker can write to" in done.stderr


def test_nothing_is_left_behind(sqlite_url: str, tmp_path: Path) -> None:
    """What a killed server leaves behind is removed by the next one, but not what belongs to a living one."""
    variables = runtime_directory(tmp_path)
    directories = tmp_path / "run"
    with serve(sqlite_url, arguments=WORKERS, **variables) as living:
        (kept,) = directories.iterdir()
        with serve(sqlite_url, arguments=WORKERS, **variables) as killed:
            pids = workers_of(killed)
            assert len(list(directories.iterdir())) == 2
            os.kill(killed.process.pid, signal.SIGKILL)
            wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), killed)
            assert len(list(directories.iterdir())) == 2
        with serve(sqlite_url, arguments=WORKERS, **variables) as successor:
            assert len(list(directories.iterdir())) == 2
            assert kept.exists()
            successor.process.send_signal(signal.SIGTERM)
            successor.process.wait(60)
        assert list(directories.iterdir()) == [kept]
        assert value(living, "projkit_workers") == 2
