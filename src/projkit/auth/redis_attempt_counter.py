"""Counters of login attempts in Redis."""

from typing import Final

from projkit.auth.sessions.port import sha256_hex
from projkit.errors import SessionStoreUnavailableError
from projkit.observers import NULL_OBSERVER, Observer
from projkit.redis.connect import RedisClient, RedisCommands

# One script sets the count and its expiry, since a count without an expiry would never be reset. What is subtracted
# after the window has ended is subtracted from zero.
_ADD: Final = """
local amount = tonumber(ARGV[1])
if amount < 0 and tonumber(redis.call('GET', KEYS[1]) or 0) + amount < 0 then
    return {0, math.max(redis.call('PTTL', KEYS[1]), 0)}
end
local count = redis.call('INCRBY', KEYS[1], amount)
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    left = tonumber(ARGV[2])
end
return {count, left}
"""


class RedisAttemptCounter:
    """:class:`~projkit.auth.attempt_counter.AttemptCounter` in Redis."""

    def __init__(self, client: RedisClient, *, prefix: str, observer: Observer = NULL_OBSERVER) -> None:
        self._redis = RedisCommands(client, SessionStoreUnavailableError, observer)
        self._prefix = prefix

    async def add(self, name: str, amount: int, seconds: int) -> tuple[int, float]:
        key = f"{self._prefix}count:{sha256_hex(name)}"
        count, left = await self._redis.run("EVAL", _ADD, 1, key, amount, seconds * 1000)
        return int(count), int(left) / 1000
