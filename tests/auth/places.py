"""The places where sessions and attempt counters may be kept, each opened as several workers would."""

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
from projkit.db.tables import build_tables
from projkit.redis import connect
from tests.conftest import settings_for
from tests.redis_servers import Redises

DATABASES: Final = ("sqlite", "sqlite transactional", "postgresql", "postgresql transactional")
REDISES: Final = ("redis", "redis sentinel", "redis cluster")
OWN_CLIENT: Final = "redis of the host's"
PLACES: Final = (*DATABASES, *REDISES, OWN_CLIENT, *(f"cached {name}" for name in REDISES))
CACHE_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 60.0
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
    """Lets the slowest machine answer: how long anything may take is for other tests to say."""
    for name in ("SOCKET_TIMEOUT_SECONDS", "_SENTINEL_TIMEOUT_SECONDS", "_COMMAND_TIMEOUT_SECONDS"):
        monkeypatch.setattr(connect, name, _PATIENCE_SECONDS)


class Monotonic:
    """The caches' clock, which a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Place:
    """One place; each store is what another worker has. ``prefix`` is that of its keys in Redis."""

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
        """Another worker's store."""
        sessions, _ = await self._open_worker()
        if self._cached:
            return CachedSessions(sessions, seconds=CACHE_SECONDS, monotonic=self._monotonic)
        return sessions

    async def counter(self) -> AttemptCounter:
        """Another worker's attempt counter."""
        _, counter = await self._open_worker()
        return counter

    def other_workers_learn(self) -> None:
        """Lets the time pass after which a revocation holds everywhere."""
        self._monotonic.now += CACHE_SECONDS

    async def everything(self) -> str:
        """All that is stored there, as text."""
        return await self._everything()


def find(name: str, request: pytest.FixtureRequest) -> Redises | str:
    """The servers, or the database's URL, of a place; started if need be."""
    kind = name.removeprefix("cached ").removesuffix(" of the host's").removesuffix(" transactional")
    found: Redises | str = request.getfixturevalue(_FIXTURES[kind])
    return found


def open_place(name: str, found: Redises | str) -> AbstractAsyncContextManager[Place]:
    """The place of this name; nobody else's sessions are seen from it."""
    if isinstance(found, Redises):
        return _in_redis(found, own_client=name == OWN_CLIENT, cached=name.startswith("cached "))
    return _in_database(found, "transactional" if name.endswith("transactional") else "fast")


@asynccontextmanager
async def _in_redis(servers: Redises, *, own_client: bool, cached: bool) -> AsyncIterator[Place]:
    prefix = f"{uuid4().hex}:"
    async with AsyncExitStack() as stack:

        async def open_worker() -> Worker:
            # A host's own client may answer in bytes, and wait for ever.
            client = (
                Redis.from_url(servers.url, socket_timeout=None)
                if own_client
                else connect.open_redis(servers.url)
            )
            stack.push_async_callback(connect.close_redis, client)
            return RedisSessions(client, prefix=prefix), RedisAttemptCounter(client, prefix=prefix)

        async def everything() -> str:
            return servers.everything(prefix)

        yield Place(open_worker, everything, prefix=prefix, cached=cached)


@asynccontextmanager
async def _in_database(url: str, mode: str) -> AsyncIterator[Place]:
    patience = {
        f"database_{what}_seconds": _PATIENCE_SECONDS for what in ("connect", "pool_wait", "statement")
    }
    settings = settings_for(url, database_mode=mode, **patience)
    tables = build_tables(settings.table_prefix)
    async with AsyncExitStack() as stack:

        async def open_worker() -> Worker:
            database = await open_database(settings, tables)
            stack.push_async_callback(database.close)
            return DatabaseSessions(database, tables), DatabaseAttemptCounter(database, tables, clock=utc_now)

        async def everything() -> str:
            engine = create_single_use_engine(settings.database_url, connect_seconds=10)
            async with engine.connect() as connection:
                found = [
                    await connection.execute(sa.select(table)) for table in tables.metadata.sorted_tables
                ]
            await engine.dispose()
            return "\n".join(repr(row) for rows in found for row in rows)

        yield Place(open_worker, everything)
