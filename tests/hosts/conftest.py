"""Hosts on real servers, over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser

from projkit import Settings
from tests.conftest import SCOPES, SECRET, token_for
from tests.web.browsing import chromium

ROOT = Path(__file__).parents[2]
SERVERS = ("uvicorn", "granian", "hypercorn")


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium."""
    async with chromium() as found:
        yield found


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        """The server's log."""
        return self._log.read_text()

    def client(self, subject: str = "alice", scopes: tuple[str, ...] = SCOPES) -> httpx2.Client:
        """Create a client with a token."""
        token = token_for(Settings(secret=SECRET), subject, scopes)
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=20)

    def raw_get(self, target: str, token: str = "") -> bytes:
        """Send a GET with this target, unchanged, in the request line; return the raw response."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            received = b""
            while chunk := connection.recv(65_536):
                received += chunk
        return received

    def stop(self) -> int:
        """Stop the server and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


def command(server: str, app: str, port: int, root_path: str) -> list[str]:
    """Return the command that starts a server."""
    python = [sys.executable, "-m"]
    if server == "uvicorn":
        flags = ["--root-path", root_path] if root_path else []
        return [*python, "uvicorn", app, "--port", str(port), "--log-level", "warning", *flags]
    if server == "granian":
        flags = ["--url-path-prefix", root_path] if root_path else []
        return [
            *python,
            "granian",
            app,
            "--interface",
            "asgi",
            "--port",
            str(port),
            "--no-access-log",
            *flags,
        ]
    if server == "gunicorn":  # three workers, forked after the application was loaded
        worker = ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "3", "--preload"]
        return [*python, "gunicorn", app, "--bind", f"127.0.0.1:{port}", *worker]
    flags = ["--root-path", root_path] if root_path else []
    if server == "daphne":
        return [*python, "daphne", "-p", str(port), *flags, app]
    return [*python, "hypercorn", app, "--bind", f"127.0.0.1:{port}", *flags]


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(
    server: str, app: str, directory: Path, probe: str, variables: Mapping[str, str], *, root_path: str = ""
) -> Iterator[Served]:
    """Run a host on a server; it responds at ``probe`` before it is returned, and is stopped at the end."""
    port = free_port()
    with running(command(server, app, port, root_path), port, directory, probe, variables) as served:
        yield served


@contextmanager
def running(
    arguments: list[str], port: int, directory: Path, probe: str, variables: Mapping[str, str]
) -> Iterator[Served]:
    """Run a command that serves on a port, as ``started`` does."""
    log = directory / "server.log"
    environment = {
        **os.environ,
        "PROJKIT_SECRET": SECRET,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]),
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=environment,
        )
    served = Served(process, f"http://127.0.0.1:{port}", log)
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, served.log
            assert time.monotonic() < deadline, served.log
            try:
                httpx2.get(served.url + probe, timeout=5)
                break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
