"""The check ``redis``: a write where it holds the sessions, since one that is full or read-only keeps none."""

from contextlib import suppress
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from projkit.health.checks import CheckFailedError, HealthCheck
from projkit.redis.connect import RedisClient, close_redis

TIMEOUT_SECONDS: Final = 1.0
_KEPT_MILLISECONDS: Final = 60_000


class RedisProbe:
    """Asks a client, which it closes only where it is its own."""

    def __init__(self, client: RedisClient, *, prefix: str, writes: bool, owned: bool) -> None:
        self._client: Any = client
        self._is_cluster = isinstance(client, RedisCluster)
        self._command: tuple[str | int, ...] = (
            ("SET", f"{prefix}health", "1", "PX", _KEPT_MILLISECONDS) if writes else ("PING",)
        )
        self._owned = owned

    async def look(self) -> None:
        """Runs the command.

        Raises:
            CheckFailedError: Redis does not answer, or refuses it.
        """
        try:
            if self._is_cluster:
                await self._client.initialize()
            await self._client.execute_command(*self._command)
        except AuthenticationError as error:
            raise CheckFailedError("refuses the credentials") from error
        except ResponseError as error:
            raise CheckFailedError(f"refuses {self._command[0]} ({type(error).__name__})") from error
        except (RedisTimeoutError, TimeoutError) as error:
            raise CheckFailedError("does not answer in time") from error
        except (RedisError, RedisClusterException, OSError, AttributeError) as error:
            raise CheckFailedError(f"does not answer ({type(error).__name__})") from error

    async def close(self) -> None:
        if self._owned:
            with suppress(RedisError, RedisClusterException, OSError):
                await close_redis(self._client)

    def abandon(self) -> None:
        """Its sockets are closed with the client, by the garbage collector."""


def redis_check(probe: RedisProbe, *, critical: bool) -> HealthCheck:
    """The check ``redis``."""
    return HealthCheck("redis", probe.look, critical=critical, timeout=TIMEOUT_SECONDS)
