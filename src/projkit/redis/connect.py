"""Opening the Redis in ``REDIS_URL``, and running commands with a timeout."""

import asyncio
import logging
from time import perf_counter
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from projkit.errors import ConfigurationError, UnavailableError
from projkit.log_limit import LogLimit
from projkit.observers import NULL_OBSERVER, Observer
from projkit.request_stats import current_client_spans

logger: Final = logging.getLogger("projkit.redis")
log_limit: Final = LogLimit(logger, "Redis is unavailable")

RedisClient: TypeAlias = Redis | RedisCluster

SOCKET_TIMEOUT_SECONDS: Final = 0.5
# After an unavailable Sentinel, time must remain to query the next one and then the master.
_SENTINEL_TIMEOUT_SECONDS: Final = 0.2
_COMMAND_TIMEOUT_SECONDS: Final = 1.0
_MAX_CONNECTIONS: Final = 100
_MAX_CONCURRENT_COMMANDS: Final = 50  # per user of the client: sessions and login counters
# AttributeError: a Cluster client can close a connection in use, which is then None.
# RedisClusterException is not a RedisError.
_FAILURES: Final = (RedisError, RedisClusterException, OSError, TimeoutError, UnicodeError, AttributeError)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class RedisCommands:
    """Execution of commands with a timeout of one second, and no more concurrent commands than connections.

    Both limits also apply to a host's own client, regardless of its timeouts and retries. A command that times out
    closes its connection, so that its reply is never read as the reply to another command.

    Args:
        client: the client to use.
        error: the exception to raise for any failure of Redis or the network.
        observer: records the duration of each command.
    """

    def __init__(
        self, client: RedisClient, error: type[UnavailableError], observer: Observer = NULL_OBSERVER
    ) -> None:
        self._client: Any = client
        self._is_cluster = isinstance(client, RedisCluster)
        self._error = error
        self._observer = observer
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT_COMMANDS)

    async def run(self, operation: str, *arguments: str | bytes | int) -> Any:
        """Run a command and return its reply; all of its keys must be in the same hash slot.

        Raises:
            UnavailableError: the ``error`` of the constructor; the cause is logged.
        """
        started, failure = perf_counter(), None
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_SECONDS), self._slots:
                if self._is_cluster:
                    # Until redis-py has loaded the topology, it sends commands to any node, and at every fifth
                    # redirection it closes all connections, even those in use.
                    await self._client.initialize()
                return await self._client.execute_command(operation, *arguments)
        except _FAILURES as caught:
            failure = caught
            log_limit.warning(
                type(caught).__name__, "Redis is unavailable: %s: %s", type(caught).__name__, caught
            )
            raise self._error from caught
        finally:
            ended = perf_counter()
            self._observer.record_command(operation, ended - started, failure)
            if (traced := current_client_spans()) is not None:
                traced.command(operation, started, ended, failure)


def open_redis(url: str) -> RedisClient:
    """Create a client for a URL; it connects at its first command.

    Supported URLs: ``redis://``, ``rediss://``, ``redis+sentinel://host:26379,host:26379/master/0`` and
    ``redis+cluster://host:6379,host:6379``. A command has a socket timeout of half a second and is retried at
    most once; with redis-py's defaults it can take ten seconds.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    parts = urlsplit(url)
    try:
        if parts.scheme == "redis+sentinel":
            return _sentinel(parts)
        if parts.scheme == "redis+cluster":
            nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, _PORT)]
            cluster: RedisClient = RedisCluster(
                startup_nodes=nodes, reinitialize_steps=0, **_credentials(parts), **_limits()
            )
            return cluster
        client: RedisClient = Redis.from_url(url, **_limits())
    except ValueError as error:
        raise ConfigurationError(
            f"PROJKIT_REDIS_URL: {error}; use a URL such as redis://user:password@host:6379/0"
        ) from None
    return client


async def close_redis(client: RedisClient) -> None:
    """Close all connections of a client, including those to Sentinels or of a topology that is about to be reloaded."""
    await client.aclose()
    if isinstance(client, RedisCluster):
        for attribute in ("nodes_cache", "startup_nodes"):
            await client.nodes_manager.aclose(attribute)
    elif isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _sentinel(parts: SplitResult) -> RedisClient:
    name, _, number = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("the master's name is missing: redis+sentinel://host:26379/mymaster/0")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _hosts(parts.netloc, _SENTINEL_PORT),
        sentinel_kwargs={
            "socket_timeout": _SENTINEL_TIMEOUT_SECONDS,
            "socket_connect_timeout": _SENTINEL_TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 0),  # the next Sentinel is queried instead
        },
    )
    master: Redis = sentinel.master_for(name, db=int(number or 0), **_credentials(parts), **_limits())
    return master


def _limits() -> dict[str, Any]:
    return {
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 1),
        "max_connections": _MAX_CONNECTIONS,
        "health_check_interval": 0,
    }


def _credentials(parts: SplitResult) -> dict[str, Any]:
    credentials = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in credentials.items() if value}


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for each in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        hosts.append((parts.hostname, parts.port or port))
    return hosts
