"""Servers to be killed: ``projkit serve``, and a PostgreSQL cluster of the tests' own."""

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import httpx2
import pytest

from projkit.db import migrate
from tests.conftest import SECRET, settings_for, token_for
from tests.services import missing

SERVE = [
    sys.executable,
    "-c",
    "from projkit.cli import main; main()",
    "serve",
    "--port",
    "0",
    "--no-access-log",
]


class Server:
    """A ``projkit serve`` that may be killed."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        """Its log."""
        return self._log.read_text()

    @property
    def projects(self) -> str:
        """The collection's address."""
        return f"{self.url}/api/v1/projects"


def headers(subject: str = "alice") -> dict[str, str]:
    """Credentials."""
    return {"Authorization": f"Bearer {token_for(settings_for('sqlite:///unused.db'), subject)}"}


@contextmanager
def serve(
    database_url: str,
    *,
    prefix: Sequence[str] = (),
    arguments: Sequence[str] = (),
    file_bytes: int | None = None,
    **variables: str,
) -> Iterator[Server]:
    """A server on a free port, ready; whatever has become of it, it is gone afterwards."""
    log = Path(tempfile.mkstemp(suffix=".log")[1])
    environment = {
        **os.environ, "PROJKIT_SECRET": SECRET, "PROJKIT_DRAIN_SECONDS": "0", "PROJKIT_DATABASE_URL": database_url,
        **variables,
    }  # fmt: skip
    limit = [] if file_bytes is None else ["prlimit", f"--fsize={file_bytes}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, *limit, *SERVE, *arguments], stderr=output, env=environment, start_new_session=True
        )
    try:
        yield Server(_address(process, log), process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too: they outlive it
        process.wait()
        log.unlink()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120  # a slow machine
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        found = re.search(r"(http://\S+)/api/v1\n", log.read_text())
        if found:
            with suppress(httpx2.TransportError):
                if httpx2.get(f"{found[1]}/api/v1/health/ready").status_code == 200:
                    return found[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


class Cluster:
    """A PostgreSQL server of one test's own."""

    def __init__(self, directory: Path, binaries: Path, user: str | None) -> None:
        self._directory = directory
        self._binaries = binaries
        self._user = user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        subprocess.run(
            [binaries / "initdb", "-D", directory / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, user=user, cwd=directory,
        )  # fmt: skip
        self.start()
        asyncio.run(migrate.upgrade(self.url.replace("postgresql://", "postgresql+asyncpg://")))

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._directory / "data", "-p", str(self._port),
                 "-k", str(self._directory), "-c", "listen_addresses=127.0.0.1", "-c", "autovacuum=off"],
                stdout=log, stderr=log, user=self._user, cwd=self._directory,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                asyncio.run(self.execute("SELECT 1"))
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self._directory / "log").read_text())

    async def execute(self, statement: str) -> object:
        """Runs a statement on a connection of its own; gives its first value."""
        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def signal(self, number: int) -> None:
        """Signals the server and each of its backends."""
        pids = [self._process.pid]
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            pids += [int(pid) for pid in children.read_text().split()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def crash(self) -> None:
        """Ends it at once, as a power failure of the process would."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(20)

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        self.signal(signal.SIGCONT)
        if self._process.poll() is None:
            self.crash()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A migrated PostgreSQL server that a test may stop and kill."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        missing("no PostgreSQL server program is installed; see scripts/debian-packages")
    directory = Path(tempfile.mkdtemp(prefix="projkit-cluster-"))
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
    try:
        opened = Cluster(directory, found[-1].parent, user)
        yield opened
        opened.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
