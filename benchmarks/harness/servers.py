"""The servers under test: how each is started, kept on its core, asked for a token, and ended."""

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
    """A server that did not start, or did not do what it was asked."""


@dataclass(frozen=True)
class Spec:
    """One kind of server."""

    name: str
    title: str
    command: Callable[[int], list[str]]
    token: Callable[[str], str]
    table: str
    is_kit: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """One of them, running."""

    spec: Spec
    port: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, subject: str) -> str:
        """A token this server accepts for the subject, the same one each time."""
        if subject not in self.tokens:
            self.tokens[subject] = self.spec.token(subject)
        return self.tokens[subject]

    def said(self) -> str:
        """The end of what it logged."""
        self.log.seek(0)
        return self.log.read()[-4_000:].decode(errors="replace")

    def cpu_seconds(self) -> float | None:
        """The processor time it and its children have used; None where ``/proc`` cannot tell."""
        try:
            return sum(_cpu_seconds(pid) for pid in family(self.process.pid))
        except OSError:
            return None

    def expect_alive(self) -> None:
        """Complain, with the log's end, if it has died."""
        if self.process.poll() is not None:
            raise ServerError(f"{self.spec.name} ended with {self.process.returncode}:\n{self.said()}")


@contextmanager
def running(spec: Spec, environment: Mapping[str, str]) -> Iterator[Server]:
    """Start a server on a free port and the server core; end it, and only it, afterwards."""
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
    """A peer on one uvicorn worker, on uvloop and httptools, logging no access."""

    def command(port: int) -> list[str]:
        return [
            *[sys.executable, "-m", "uvicorn", "--factory", f"peers.{module}:create_app"],
            *["--app-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)],
            *["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"],
        ]

    return Spec(name, title, command, make_token, table="bench_projects")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every server is started with: this shell's environment, without settings left over for the kit."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROJKIT_")}
    return kept | {
        "BENCH_DATABASE_URL": DATABASE_URL,
        "BENCH_SECRET": SECRET,
        "PROJKIT_ENV": "development",
        "PROJKIT_DATABASE_URL": DATABASE_URL,
        "PROJKIT_SECRET": SECRET,
        **(extra or {}),
    }


def find_kit() -> str | None:
    """The ``projkit`` command of this Python, or of the path."""
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
    raise ServerError(f"{server.spec.name} did not answer in {START_SECONDS:g} s:\n{server.said()}")


def family(pid: int) -> Iterator[int]:
    """A process and all that it has started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
