"""PgBouncer in front of the PostgreSQL server of the tests."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from projkit.testing import servers
from tests.services import missing


@contextmanager
def pgbouncer(url: str, **options: str | int) -> Iterator[str]:
    """Run PgBouncer in transaction mode with few connections to the server; yield the URL of the database behind it."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        missing("pgbouncer is not installed")
    parts, port = urlsplit(url), servers.free_port()
    directory = Path(tempfile.mkdtemp(prefix="projkit-pgbouncer-"))
    server = f"host={parts.hostname} port={parts.port or 5432} user={parts.username}"
    settings = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any",
        "pool_mode": "transaction", "default_pool_size": 2, **options,
    }  # fmt: skip
    lines = [
        "[databases]",
        f"* = {server}{f' password={parts.password}' if parts.password else ''}",
        "[pgbouncer]",
    ]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    configuration = directory / "pgbouncer.ini"
    configuration.write_text("\n".join(lines))
    user = servers.unprivileged_user()
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
        os.chown(configuration, user.pw_uid, user.pw_gid)
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [program, configuration],
        stdout=log,
        stderr=log,
        user=None if user is None else user.pw_name,
        cwd=directory,
    )
    try:
        _wait_until_open(port, directory / "log")
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        process.terminate()
        process.wait(20)
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_open(port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(log.read_text())
