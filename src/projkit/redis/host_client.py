"""The Redis client that a host passes to the kit."""

import inspect
from typing import TYPE_CHECKING, Final

import redis as synchronous
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline

from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from projkit.redis.connect import RedisClient

_EXAMPLE: Final = 'redis.asyncio.Redis.from_url("redis://127.0.0.1:6379/0")'


def resolve_redis(redis: "RedisClient | Callable[[], RedisClient]") -> "RedisClient":
    """Return the asynchronous client that the host's argument stands for.

    Raises:
        ConfigurationError: the argument is of another type.
    """
    resolved: object = redis
    if callable(resolved) and not isinstance(resolved, type):
        resolved = resolved()
    if isinstance(resolved, Redis | RedisCluster) and not isinstance(resolved, Pipeline):
        return resolved
    raise ConfigurationError(f"redis must be a redis.asyncio.Redis or RedisCluster, {_explain(resolved)}")


def _explain(value: object) -> str:
    function = "or a function that returns one"
    if inspect.iscoroutine(value):
        value.close()  # which will not be awaited
        return f"{function}, not a coroutine function; create the client in a plain function"
    if isinstance(value, synchronous.Redis | synchronous.RedisCluster):
        name = type(value).__name__
        return f"{function}, not a synchronous {name}; create another client for the kit: {_EXAMPLE}"
    if isinstance(value, str):
        return f"{function}, not a URL; set PROJKIT_REDIS_URL instead, or pass {_EXAMPLE}"
    kind = value if isinstance(value, type) else type(value)
    return f"{function}, not {kind.__module__}.{kind.__qualname__}; create one with: {_EXAMPLE}"
