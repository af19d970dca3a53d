"""Eviction policies of Redis, which must not evict sessions."""

import asyncio
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from projkit.errors import UnavailableError
from projkit.redis.connect import RedisClient

_TIMEOUT_SECONDS: Final = 2.0


async def eviction_policies(client: RedisClient) -> set[str]:
    """Return the ``maxmemory-policy`` of each node that evicts keys when its memory is full.

    The set is empty if no node evicts keys, or if the Redis user is not permitted to run ``INFO``.

    Raises:
        UnavailableError: Redis is unavailable.
    """
    untyped: Any = client
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await untyped.ping()
            targets = {"target_nodes": RedisCluster.PRIMARIES} if isinstance(client, RedisCluster) else {}
            info = await untyped.info("memory", **targets)
    except ResponseError:
        return set()
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        raise UnavailableError(f"unavailable ({type(error).__name__})") from error
    # A Cluster with several masters returns a reply per node; with a single master, the reply of that node.
    nodes = [info] if "maxmemory" in info else info.values()
    return {each["maxmemory_policy"] for each in nodes if each["maxmemory"]} - {"noeviction"}
