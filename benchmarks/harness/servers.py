"""The servers under test: how each is started, pinned to its core, and stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING

from peers.common import API, DATABASE_URL, SECRET, make_token

from harness import wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 15.0


class ServerError(Exception):
    """A server did not start, or gave a wrong response."""


@dataclass(frozen=True)
class Spec:
    """A kind of server."""

    name: str
    title: str
    command: Callable[[int], list[str]]
    token: Callable[[str], str]
    table: str
    is_kit: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """A running server."""

    spec: Spec
    port: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, subject: str) -> str:
        """Return a token of the subject that this server accepts, the same one each time."""
        if subject not in self.tokens:
            self.tokens[subject] = self.spec.token(subject)
        return self.tokens[subject]

    def log_end(self) -> str:
        """Return the end of the log."""
        self.log.seek(0)
        return self.log.read()[-4_000:].decode(errors="replace")

    def cpu_seconds(self) -> float | None:
        """Return the CPU time of the server and its children, None if ``/proc`` does not have it."""
        try:
            return sum(_cpu_seconds(pid) for pid in family(self.process.pid))
        except OSError:
            return None

    def expect_alive(self) -> None:
        """Raise :class:`ServerError` with the end of the log if the server has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"{self.spec.name} ended with {self.process.returncode}:\n{self.log_end()}")


@contextmanager
def running(spec: Spec, environment: Mapping[str, str], *, pinned: bool = True) -> Iterator[Server]:
    """Run a server on a free port, by default pinned to the server core."""
    port = _free_port()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            spec.command(port),
            stdout=log,
            stderr=log,
            env={**environment, **spec.variables},
            cwd=directory,
        )
        server = Server(spec, port, process, log)
        try:
            if pinned:
                wrk.pin(process.pid, wrk.SERVER_CORE)
            _await_start(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def peer(name: str, title: str, module: str) -> Spec:
    """Return a peer with one uvicorn worker, uvloop and httptools, without an access log."""

    def command(port: int) -> list[str]:
        return [
            *[sys.executable, "-m", "uvicorn", "--factory", f"peers.{module}:create_app"],
            *["--app-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)],
            *["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"],
        ]

    return Spec(name, title, command, make_token, table="bench_projects")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a server: this process's, without the kit's settings in it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
    return inherited | {
        "BENCH_DATABASE_URL": DATABASE_URL,
        "BENCH_SECRET": SECRET,
        "PROJKIT_ENV": "development",
        "PROJKIT_DATABASE_URL": DATABASE_URL,
        "PROJKIT_SECRET": SECRET,
        **(extra or {}),
    }


def find_kit() -> str | None:
    """Return the ``projkit`` command of this Python, or on the path."""
    beside = Path(sys.executable).with_name("projkit")
    return str(beside) if beside.exists() else shutil.which("projkit")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_start(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        server.expect_alive()
        connection = HTTPConnection("127.0.0.1", server.port, timeout=1)
        try:
            connection.request("GET", f"{API}/health/{'ready' if server.spec.is_kit else 'live'}")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise ServerError(f"{server.spec.name} did not respond within {START_SECONDS:g} s:\n{server.log_end()}")


def family(pid: int) -> Iterator[int]:
    """Return a process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
