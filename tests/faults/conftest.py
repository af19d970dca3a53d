"""Servers that tests kill: ``projkit serve``, and a PostgreSQL cluster of each test's own."""

import asyncio
import os
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
from projkit.testing import servers
from tests.conftest import SECRET, settings_for, token_for
from tests.services import postgres_programs

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
    """A running ``projkit serve``."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.process = process
        self._log = log

    @property
    def log_text(self) -> str:
        """The server's log."""
        return self._log.read_text()

    @property
    def projects(self) -> str:
        """The URL of the projects collection."""
        return f"{self.url}/api/v1/projects"


def headers(subject: str = "alice") -> dict[str, str]:
    """Return the credentials of ``subject``."""
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
    """Run a server on a free port, wait until it is ready, and kill it afterwards."""
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
            os.killpg(process.pid, signal.SIGKILL)  # also its workers, which would outlive it
        process.wait()
        log.unlink()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120  # a slow machine
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        match = re.search(r"(http://[^\s\"]+)/api/v1[\n\"]", log.read_text())
        if match:
            with suppress(httpx2.TransportError):
                if httpx2.get(f"{match[1]}/api/v1/health/ready").status_code == 200:
                    return match[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


class Cluster:
    """A PostgreSQL server for one test."""

    def __init__(
        self, directory: Path, binaries: Path, user: str | None, primary: "Cluster | None" = None
    ) -> None:
        """Create a migrated server, or a hot standby of ``primary``."""
        self._directory = directory
        self._binaries = binaries
        self._user = user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if primary is not None:
            source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
            self._create("pg_basebackup", *source, "--write-recovery-conf", "--checkpoint=fast")
            self.start()
            return
        self._create("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8")
        self.start()
        asyncio.run(migrate.upgrade(self.url.replace("postgresql://", "postgresql+asyncpg://")))

    def _create(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, "-D", self._directory / "data", "--no-sync", *arguments],
            check=True, capture_output=True, user=self._user, cwd=self._directory,
        )  # fmt: skip

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._directory / "data", "-p", str(self.port),
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
        """Run a statement on a new connection; return the first value of its result."""
        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def signal(self, number: int) -> None:
        """Send a signal to the server and its backends."""
        pids = [self._process.pid]
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            pids += [int(pid) for pid in children.read_text().split()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def crash(self) -> None:
        """Stop the server immediately, without a shutdown checkpoint."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(20)

    def close(self) -> None:
        """Stop the server in any state."""
        self.signal(signal.SIGCONT)
        if self._process.poll() is None:
            self.crash()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A migrated PostgreSQL server that the test may stop and kill."""
    with running_cluster() as opened:
        yield opened


@pytest.fixture
def standby(cluster: Cluster) -> Iterator[Cluster]:
    """A hot standby of ``cluster``, without whose confirmation it acknowledges no write."""
    with running_cluster(cluster) as opened:
        for statement in ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"):
            asyncio.run(cluster.execute(statement))
        yield opened


@contextmanager
def running_cluster(primary: Cluster | None = None) -> Iterator[Cluster]:
    """Run a server, or a hot standby of ``primary``, in a directory of its own."""
    programs = postgres_programs()
    directory = Path(tempfile.mkdtemp(prefix="projkit-cluster-"))
    user = servers.unprivileged_user()
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
        programs = servers.reachable_programs(programs, directory)
    try:
        opened = Cluster(directory, programs, None if user is None else user.pw_name, primary)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
