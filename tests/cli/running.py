"""Running the command line in separate processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

from projkit.testing.servers import free_port
from tests.conftest import SECRET
from tests.services import redis_program

PROJKIT = [sys.executable, "-c", "from projkit.cli import main; main()"]


def projkit(*arguments: str, expect: int = 0, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the test's directory and check its exit code."""
    done = subprocess.run(
        [*PROJKIT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            name: value
            for name, value in {**os.environ, "PROJKIT_SECRET": SECRET, "COLUMNS": "200", **variables}.items()
            if value is not None
        },
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[tuple[str, str]]:
    """Run a server; yield its base URL and the token that it prints in development."""
    process = subprocess.Popen(
        [*PROJKIT, "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PROJKIT_DRAIN_SECONDS": "0", **variables},
    )
    assert process.stderr is not None
    development = variables.get("PROJKIT_ENV") != "production"
    try:
        said = ""
        for line in process.stderr:
            said += line
            if ("Bearer" if development else "Liveness") in line:
                break
        url, token = re.search(r"(http://\S+)/api/v1\n", said), re.search(r"Bearer ([^']+)'", said)
        assert url, said
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx2.get(f"{url[1]}/api/v1/health/ready").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield url[1], token[1] if token else ""
        process.send_signal(signal.SIGTERM)
        if float(variables.get("PROJKIT_DRAIN_SECONDS", 0)) > 10:
            while httpx2.get(f"{url[1]}/api/v1/health/ready").status_code != 503:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1]
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers too: they outlive a server that was killed
        process.communicate()


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[str]:
    """Run a Redis server for the test; yield its URL."""
    port = free_port()
    process = subprocess.Popen(
        [
            redis_program(),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(directory),
            "--save",
            "",
            *options,
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not _listens(port):
            assert process.poll() is None, "redis-server did not start"
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0
