"""The check ``redis``: a write if Redis stores the sessions, because a full or read-only server cannot store them."""

from contextlib import suppress
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from projkit.health.checks import CheckFailedError, HealthCheck
from projkit.redis.connect import RedisClient, close_redis

TIMEOUT_SECONDS: Final = 1.0
_KEY_TTL_MILLISECONDS: Final = 60_000


class RedisProbe:
    """The connection of the check; it closes the client only if it owns it."""

    def __init__(self, client: RedisClient, *, prefix: str, writes: bool, owned: bool) -> None:
        self._client: Any = client
        self._is_cluster = isinstance(client, RedisCluster)
        self._command: tuple[str | int, ...] = (
            ("SET", f"{prefix}health", "1", "PX", _KEY_TTL_MILLISECONDS) if writes else ("PING",)
        )
        self._owned = owned

    async def check(self) -> None:
        """Run the command.

        Raises:
            CheckFailedError: Redis is unavailable or rejects the command.
        """
        try:
            if self._is_cluster:
                await self._client.initialize()
            await self._client.execute_command(*self._command)
        except AuthenticationError as error:
            raise CheckFailedError("credentials rejected") from error
        except ResponseError as error:
            raise CheckFailedError(f"{self._command[0]} rejected ({type(error).__name__})") from error
        except (RedisTimeoutError, TimeoutError) as error:
            raise CheckFailedError("timed out") from error
        except (RedisError, RedisClusterException, OSError, AttributeError) as error:
            raise CheckFailedError(f"unavailable ({type(error).__name__})") from error

    async def close(self) -> None:
        """Close the client, if the probe owns it."""
        if self._owned:
            with suppress(RedisError, RedisClusterException, OSError):
                await close_redis(self._client)

    def abandon(self) -> None:
        """Do nothing: the garbage collector closes the sockets with the client."""


def redis_check(probe: RedisProbe, *, critical: bool) -> HealthCheck:
    """Create the check ``redis``."""
    return HealthCheck("redis", probe.check, critical=critical, timeout=TIMEOUT_SECONDS)
