"""Redis or Valkey servers for tests: a single one, a master with a replica and Sentinels, a Cluster of three masters.

They listen on free ports of 127.0.0.1 and persist nothing: a test can stop, kill, fill or empty them.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from projkit.testing.servers import free_port
from tests.services import redis_program

MASTER: Final = "mymaster"
_START_SECONDS: Final = 30
_SLOTS: Final = 16_384
# Ends a server also where the tests are killed; macOS has no such program.
_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


class RedisServer:
    """A server process."""

    def __init__(self, directory: Path, options: Sequence[str]) -> None:
        self.port = free_port()
        self._directory = directory / str(self.port)
        self._directory.mkdir()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, empty, and wait until it responds."""
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_WITH_PARENT, redis_program(), *self._options, *place], stdout=log, stderr=log
            )
        wait_until(lambda: bool(self.ask("PING")), "redis-server does not start")

    def ask(self, *command: str | int) -> Any:
        """Run a command on a separate connection."""
        with redis.Redis(port=self.port, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*command)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process with SIGKILL, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def everything(self, prefix: str = "") -> str:
        """Return all keys and values with a prefix, as text."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            return "\n".join(_content(client, key) for key in client.scan_iter(f"{prefix}*", count=1000))


@dataclass(frozen=True)
class Redises:
    """A group of servers, and the URL by which a kit connects to them."""

    url: str
    masters: Sequence[RedisServer]
    replicas: Sequence[RedisServer] = ()
    sentinels: Sequence[RedisServer] = ()

    def everything(self, prefix: str = "") -> str:
        """Return all stored keys and values with a prefix."""
        return "\n".join(master.everything(prefix) for master in self.masters)


Start = Callable[..., RedisServer]


def alone(start: Start) -> Redises:
    """Describe a single server."""
    server = start(*_KEEPS_NOTHING)
    return Redises(server.url, [server])


def with_sentinels(start: Start) -> Redises:
    """Describe a master, a replica and three Sentinels."""
    master = start(*_KEEPS_NOTHING, "--repl-diskless-sync-delay", "0")
    replica = start(*_KEEPS_NOTHING, "--replicaof", f"127.0.0.1 {master.port}")
    wait_until(lambda: replica.ask("ROLE")[3] == "connected", "the replica does not follow its master")
    sentinels = [start(config=_WATCH.format(name=MASTER, port=master.port)) for _ in range(3)]
    for each in sentinels:
        wait_until(lambda each=each: _sees_all(each), "the Sentinels do not see each other")  # type: ignore[misc]
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    return Redises(f"redis+sentinel://{hosts}/{MASTER}/0", [master], [replica], sentinels)


def in_cluster(start: Start) -> Redises:
    """Describe a Cluster of three masters."""
    buses = [free_port() for _ in range(3)]
    nodes = [
        start(
            *_KEEPS_NOTHING,
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-port",
            bus,
        )
        for bus in buses
    ]
    size = -(-_SLOTS // len(nodes))
    for number, node in enumerate(nodes):
        node.ask("CLUSTER", "ADDSLOTSRANGE", number * size, min((number + 1) * size, _SLOTS) - 1)
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
    for node in nodes:
        wait_until(lambda node=node: _is_whole(node), "the Cluster does not come together")  # type: ignore[misc]
    return Redises("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes), nodes)


_KEEPS_NOTHING: Final = ("--save", "", "--appendonly", "no")
_WATCH: Final = """
sentinel monitor {name} 127.0.0.1 {port} 2
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 3000
"""


@contextmanager
def running(kind: Callable[[Start], Redises]) -> Iterator[Redises]:
    """Start servers, and stop them whatever the test has done to them."""
    redis_program()  # or skip
    directory = Path(tempfile.mkdtemp(prefix="projkit-redis-"))
    servers: list[RedisServer] = []

    def start(*options: str | int, config: str | None = None) -> RedisServer:
        if config is not None:
            file = directory / f"{len(servers)}.conf"  # a Sentinel writes into its own
            file.write_text(config)
            options = (str(file), "--sentinel")
        server = RedisServer(directory, [str(option) for option in options])
        servers.append(server)
        server.start()
        return server

    try:
        yield kind(start)
    finally:
        for server in servers:
            server.kill()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_alone() -> Iterator[Redises]:
    """A single Redis server."""
    with running(alone) as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_with_sentinels() -> Iterator[Redises]:
    """A Redis master that is monitored by Sentinels."""
    with running(with_sentinels) as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_in_cluster() -> Iterator[Redises]:
    """A Redis Cluster."""
    with running(in_cluster) as servers:
        yield servers


def wait_until(condition: Callable[[], bool], complaint: str) -> None:
    """Wait until a condition is true; errors of a server that is not available yet are ignored."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        time.sleep(0.02)
    raise AssertionError(complaint)


def _sees_all(sentinel: RedisServer) -> bool:
    state = sentinel.ask("SENTINEL MASTER", MASTER)
    return (state["num-slaves"], state["num-other-sentinels"]) == (1, 2)


def _is_whole(node: RedisServer) -> bool:
    info = node.ask("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


def _content(client: "redis.Redis", key: bytes) -> str:
    read: dict[object, Callable[[bytes], Any]] = {
        b"hash": client.hgetall,
        b"string": client.get,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return f"{key!r} {read[client.type(key)](key)!r}"
