"""Opening the Redis that ``REDIS_URL`` names, and asking it in bounded time."""

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
from projkit.observers import NULL_OBSERVER, Observer
from projkit.request_stats import current_client_spans

logger: Final = logging.getLogger("projkit.redis")

RedisClient: TypeAlias = Redis | RedisCluster

SOCKET_SECONDS: Final = 0.5
# A Sentinel that does not answer must leave time to ask the next one, and the master after it.
_SENTINEL_SECONDS: Final = 0.2
_COMMAND_SECONDS: Final = 1.0
_CONNECTIONS: Final = 100
_AT_ONCE: Final = 50  # sessions and counts each: together what there are connections for
# A Cluster's connections are also closed under the hands of those who use them, who then find None in place of one.
# A RedisClusterException is no RedisError.
_FAILURES: Final = (RedisError, RedisClusterException, OSError, TimeoutError, UnicodeError, AttributeError)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class RedisCommands:
    """Runs commands on a client, each within a second, and no more at once than it has connections for.

    That holds for a host's own client as well, whatever time-outs and retries it was made with. A command that is
    given up takes its connection with it, so that nobody reads the answer to another's question.
    """

    def __init__(
        self, client: RedisClient, error: type[UnavailableError], observer: Observer = NULL_OBSERVER
    ) -> None:
        """``error`` is what becomes of whatever Redis or the network to it do wrong."""
        self._client: Any = client
        self._is_cluster = isinstance(client, RedisCluster)
        self._error = error
        self._observer = observer
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self, operation: str, *arguments: str | bytes | int) -> Any:
        """The answer to a command, whose keys share a slot of a Cluster.

        Raises:
            UnavailableError: the ``error`` that was given; the cause goes to the log.
        """
        started, failure = perf_counter(), None
        try:
            async with asyncio.timeout(_COMMAND_SECONDS), self._places:
                if self._is_cluster:
                    # Before it knows the Cluster, redis-py asks any node, and closes all connections at every
                    # fifth of the redirections that this earns, whoever is using them.
                    await self._client.initialize()
                return await self._client.execute_command(operation, *arguments)
        except _FAILURES as caught:
            failure = caught
            logger.warning("Redis does not answer: %s: %s", type(caught).__name__, caught)
            raise self._error from caught
        finally:
            ended = perf_counter()
            self._observer.record_command(operation, ended - started, failure)
            if (traced := current_client_spans()) is not None:
                traced.command(operation, started, ended, failure)


def open_redis(url: str) -> RedisClient:
    """A client for what the URL names; connects at its first command.

    Forms: ``redis://``, ``rediss://``, ``redis+sentinel://host:26379,host:26379/master/0`` and
    ``redis+cluster://host:6379,host:6379``. A command waits half a second at most and is tried once more at most:
    redis-py's defaults hang for ten.

    Raises:
        ConfigurationError: the URL cannot be read.
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
            f"PROJKIT_REDIS_URL: {error}; write it as in redis://user:password@host:6379/0"
        ) from None
    return client


async def close_redis(client: RedisClient) -> None:
    """Closes all connections of a client; redis-py leaves a Cluster's where it is about to look at it anew."""
    await client.aclose()
    if isinstance(client, RedisCluster):
        for attribute in ("nodes_cache", "startup_nodes"):
            await client.nodes_manager.aclose(attribute)


class _SentinelPool(SentinelConnectionPool):
    """Connections to the master that the Sentinels name; closes those to the Sentinels as well."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def _sentinel(parts: SplitResult) -> RedisClient:
    name, _, number = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("the master's name is missing: redis+sentinel://host:26379/mymaster/0")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _hosts(parts.netloc, _SENTINEL_PORT),
        sentinel_kwargs={
            "socket_timeout": _SENTINEL_SECONDS,
            "socket_connect_timeout": _SENTINEL_SECONDS,
            "retry": Retry(NoBackoff(), 0),  # the next one is asked instead
        },
    )
    master: Redis = sentinel.master_for(
        name, connection_pool_class=_SentinelPool, db=int(number or 0), **_credentials(parts), **_limits()
    )
    return master


def _limits() -> dict[str, Any]:
    return {
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
        "retry": Retry(NoBackoff(), 1),
        "max_connections": _CONNECTIONS,
        "health_check_interval": 0,
    }


def _credentials(parts: SplitResult) -> dict[str, Any]:
    found = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in found.items() if value}


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for each in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        hosts.append((parts.hostname, parts.port or port))
    return hosts
