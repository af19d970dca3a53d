"""A worker whose event loop is blocked is seen by the others, named, and not taken for a failing database."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from projkit.testing.servers import free_port
from tests.conftest import SECRET

pytestmark = pytest.mark.anyio
PATIENCE_SECONDS = 90
BLOCKED_SECONDS = 40
APP = "tests.faults.blocking_app:app"


@contextmanager
def running(server: str, database_url: str, directory: Path) -> Iterator[tuple[str, Path]]:
    """Run two workers of a host's server; yield its URL and its log."""
    port = free_port()
    command = {
        "uvicorn": ["-m", "uvicorn", "--workers", "2", "--port", str(port), APP],
        "gunicorn": ["-m", "gunicorn", "-w", "2", "-t", "600", "-b", f"127.0.0.1:{port}",
                     "-k", "uvicorn_worker.UvicornWorker", APP],
    }[server]  # fmt: skip
    log = Path(tempfile.mkstemp(suffix=".log")[1])
    environment = {
        **os.environ, "PROJKIT_SECRET": SECRET, "PROJKIT_DATABASE_URL": database_url,
        "PROJKIT_METRICS_DIRECTORY": str(directory), "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.unlink()


async def wait_for(condition: Callable[[], Any], log: Path) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with suppress(httpx2.TransportError):
            if await condition():
                return
        assert time.monotonic() < deadline, log.read_text()
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
async def test_a_blocked_event_loop(server: str, sqlite_url: str, tmp_path: Path) -> None:
    """The other worker shows the lag, the process and the stale checks; the log has the call that blocks."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    with running(server, sqlite_url, tmp_path / "metrics") as (url, log):
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=2 * BLOCKED_SECONDS) as client:

            async def metrics() -> dict[str, float]:
                lines = (await client.get("/metrics", timeout=5)).text.splitlines()
                return {
                    name: float(value)
                    for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
                }

            async def both_run() -> bool:
                return len([name for name in await metrics() if "heartbeat_age" in name]) == 2

            await wait_for(both_run, log)
            blocking = asyncio.create_task(client.get("/block", params={"seconds": BLOCKED_SECONDS}))
            seen: dict[str, float] = {}

            async def is_stuck() -> bool:
                nonlocal seen
                seen = await metrics()
                return max(age for name, age in seen.items() if "heartbeat_age" in name) > 17

            await wait_for(is_stuck, log)
            (stuck,) = (
                re.search(r"\d+", name)[0]  # type: ignore[index]
                for name, age in seen.items()
                if "heartbeat_age" in name and age > 17
            )
            responding = (await client.get("/pid", timeout=5)).text
            assert responding != stuck
            assert seen["projkit_event_loop_lag_seconds"] > 16
            assert seen['projkit_health_check_stale{check="database"}'] == 1
            assert seen['projkit_health_check_status{check="database"}'] == 1, "it does not fail"

            async def is_named() -> bool:
                health = (await client.get("/api/v1/health/detailed", timeout=5)).json()
                check = health["checks"]["event_loop"]
                assert health["checks"]["database"]["status"] == "ok"
                named = f"another worker is blocked, and its requests wait: process {stuck} for" in check.get(
                    "detail", ""
                )
                return named and health["status"] == "degraded"

            await wait_for(is_named, log)
            workers = (await client.get("/api/v1/monitoring/system/info", timeout=5)).json()["workers"]
            ages = {str(worker["pid"]): worker["heartbeat_age_seconds"] for worker in workers}
            assert ages[stuck] > 17
            text = log.read_text()
            if server == "uvicorn":  # gunicorn configures no log of the application's
                assert re.search(
                    rf"the event loop of process {stuck} has been blocked for \S+ s, in block \(", text
                )
            assert (await blocking).text == "done"

            async def has_recovered() -> bool:
                current = await metrics()
                return max(age for name, age in current.items() if "heartbeat_age" in name) < 5

            await wait_for(has_recovered, log)
