"""What Redis does when its memory is full: sessions must not be what it drops."""

import asyncio
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from projkit.errors import UnavailableError
from projkit.redis.connect import RedisClient

_SECONDS: Final = 2.0


async def eviction_policies(client: RedisClient) -> set[str]:
    """Each ``maxmemory-policy`` by which a node drops keys when its memory is full; empty where none ever does.

    A user whom Redis does not allow to ask learns nothing, which is no failure.

    Raises:
        UnavailableError: Redis does not answer.
    """
    asked: Any = client
    try:
        async with asyncio.timeout(_SECONDS):
            await asked.ping()
            of_all = {"target_nodes": RedisCluster.PRIMARIES} if isinstance(client, RedisCluster) else {}
            found = await asked.info("memory", **of_all)
    except ResponseError:
        return set()
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        raise UnavailableError(f"does not answer ({type(error).__name__})") from error
    # A Cluster of several masters answers by node, one of a single master as a server alone does.
    nodes = [found] if "maxmemory" in found else found.values()
    return {each["maxmemory_policy"] for each in nodes if each["maxmemory"]} - {"noeviction"}
