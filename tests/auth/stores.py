"""The stores of sessions and attempt counters, each opened as several workers would open it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final
from uuid import uuid4

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from projkit.auth.attempt_counter import AttemptCounter, DatabaseAttemptCounter
from projkit.auth.redis_attempt_counter import RedisAttemptCounter
from projkit.auth.sessions.cached import CachedSessions
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.sessions.port import SessionStore
from projkit.auth.sessions.redis import RedisSessions
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.engine import create_single_use_engine
from projkit.db.tables import tables_of
from projkit.redis import connect
from tests.conftest import MODES, settings_for
from tests.host_engines import HOST_DRIVER, host_engine
from tests.redis_servers import Redises

DATABASES: Final = (
    (f"postgresql {HOST_DRIVER}",)
    if HOST_DRIVER
    else ("sqlite", "sqlite transactional", "postgresql", "postgresql transactional")
)
REDISES: Final = () if HOST_DRIVER else ("redis", "redis sentinel", "redis cluster")
OWN_CLIENT: Final = "redis of the host's"
STORES: Final = (
    DATABASES if HOST_DRIVER else (*DATABASES, *REDISES, OWN_CLIENT, *(f"cached {name}" for name in REDISES))
)
CACHE_SECONDS: Final = 0.5
_TIMEOUT_SECONDS: Final = 60.0
_FIXTURES: Final = {
    "sqlite": "sqlite_url",
    "postgresql": "postgres_url",
    "redis": "redis_alone",
    "redis sentinel": "redis_with_sentinels",
    "redis cluster": "redis_in_cluster",
}


Worker = tuple[SessionStore, AttemptCounter]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the timeouts of Redis, so that these tests pass on slow machines; other tests check the timeouts."""
    for name in ("SOCKET_TIMEOUT_SECONDS", "_SENTINEL_TIMEOUT_SECONDS", "_COMMAND_TIMEOUT_SECONDS"):
        monkeypatch.setattr(connect, name, _TIMEOUT_SECONDS)


class Monotonic:
    """The clock of caches, set by a test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class StoreUnderTest:
    """A store that several workers open; ``prefix`` is the prefix of its keys in Redis."""

    def __init__(
        self,
        open_worker: Callable[[], Awaitable[Worker]],
        everything: Callable[[], Awaitable[str]],
        *,
        prefix: str = "",
        cached: bool = False,
    ) -> None:
        self.prefix = prefix
        self._cached = cached
        self._monotonic = Monotonic()
        self._open_worker = open_worker
        self._everything = everything

    async def worker(self) -> SessionStore:
        """Return the session store of another worker."""
        sessions, _ = await self._open_worker()
        if self._cached:
            return CachedSessions(sessions, seconds=CACHE_SECONDS, monotonic=self._monotonic)
        return sessions

    async def counter(self) -> AttemptCounter:
        """Return the attempt counter of another worker."""
        _, counter = await self._open_worker()
        return counter

    def other_workers_learn(self) -> None:
        """Advance the clock until a revocation takes effect on every worker."""
        self._monotonic.now += CACHE_SECONDS

    async def everything(self) -> str:
        """Return everything that is stored, as text."""
        return await self._everything()


def servers_of(name: str, request: pytest.FixtureRequest) -> Redises | str:
    """Return the Redis servers or the database URL of a store, starting them if necessary."""
    kind = name.removeprefix("cached ").removesuffix(" of the host's").removesuffix(" transactional")
    kind = kind.removesuffix(f" {HOST_DRIVER}")
    servers: Redises | str = request.getfixturevalue(_FIXTURES[kind])
    return servers


def open_store(name: str, servers: Redises | str) -> AbstractAsyncContextManager[StoreUnderTest]:
    """Open the store of this name, isolated from the data of other tests."""
    if isinstance(servers, Redises):
        return _in_redis(servers, own_client=name == OWN_CLIENT, cached=name.startswith("cached "))
    return _in_database(servers, name.partition(" ")[2] or "fast")


@asynccontextmanager
async def _in_redis(servers: Redises, *, own_client: bool, cached: bool) -> AsyncIterator[StoreUnderTest]:
    prefix = f"{uuid4().hex}:"
    async with AsyncExitStack() as stack:

        async def open_worker() -> Worker:
            # A host's own client may return bytes, and may have no timeout.
            client = (
                Redis.from_url(servers.url, socket_timeout=None)
                if own_client
                else connect.open_redis(servers.url)
            )
            stack.push_async_callback(connect.close_redis, client)
            return RedisSessions(client, prefix=prefix), RedisAttemptCounter(client, prefix=prefix)

        async def everything() -> str:
            return servers.everything(prefix)

        yield StoreUnderTest(open_worker, everything, prefix=prefix, cached=cached)


@asynccontextmanager
async def _in_database(url: str, mode: str) -> AsyncIterator[StoreUnderTest]:
    timeouts = {
        f"database_{operation}_seconds": _TIMEOUT_SECONDS
        for operation in ("connect", "pool_wait", "statement")
    }
    settings = settings_for(url, **({"database_mode": mode} if mode in MODES else {}), **timeouts)
    tables = tables_of(settings)
    async with AsyncExitStack() as stack:

        async def open_worker() -> Worker:
            engine = None
            if mode not in MODES:
                engine = await stack.enter_async_context(host_engine(url, mode))
            database = await open_database(settings, tables, engine)
            stack.push_async_callback(database.close)
            return DatabaseSessions(database, tables), DatabaseAttemptCounter(database, tables, clock=utc_now)

        async def everything() -> str:
            engine = create_single_use_engine(settings.database_url, connect_seconds=10)
            async with engine.connect() as connection:
                results = [
                    await connection.execute(sa.select(table)) for table in tables.metadata.sorted_tables
                ]
            await engine.dispose()
            return "\n".join(repr(row) for rows in results for row in rows)

        yield StoreUnderTest(open_worker, everything)
