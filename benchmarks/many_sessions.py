"""The cost of one subject's sessions, by their number: login, refresh, list and log-out everywhere, and their memory.

The sessions are created by the service itself, in process, with PostgreSQL and with Redis.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer
import uvloop
from rich.console import Console
from rich.table import Table
from session_check import REDIS, SECRET, _database

from projkit import ProjKit, Settings
from projkit.auth.session_service import Client, IssuedTokens
from projkit.auth.sessions.port import Session, sha256_hex, subject_hash
from projkit.auth.sessions.redis import _number, _written
from projkit.identity import DEFAULT_SCOPES, Principal
from projkit.redis.connect import close_redis, open_redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from projkit.auth.wiring import AuthServices

PREFIX = "projkit-bench-many-sessions:"
ALICE = Principal("alice")
REPEATS = 20
console = Console(width=110)


class Lag:
    """The longest delay of the event loop."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.get_running_loop().create_task(self._measure())

    async def _measure(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - began - 0.001)

    def stop(self) -> float:
        """Return the longest delay in milliseconds."""
        self._task.cancel()
        return self.longest * 1e3


async def milliseconds(call: Callable[[], Awaitable[Any]], repeats: int = REPEATS) -> tuple[str, Any]:
    """Return the median duration of a call and the longest delay of the event loop, and the last result."""
    durations, result, lag = [], None, Lag()
    await asyncio.sleep(0.01)
    for _ in range(repeats):
        began = time.perf_counter()
        result = await call()
        durations.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0)
    return f"{sorted(durations)[repeats // 2]:.2f} ({lag.stop():.0f})", result


class PostgreSQL:
    """Adds sessions to the database of ``url``."""

    def __init__(self, kit: ProjKit, url: str) -> None:
        self.kit = kit
        self._url = url

    async def fill(self, session: Session, number: int) -> float:
        """Add copies of ``session``, each a second older; return the bytes of each."""
        connection = await asyncpg.connect(self._url)
        size = "SELECT pg_total_relation_size('projkit_sessions')"
        before = await connection.fetchval(size)
        await connection.execute(_COPIES, session.id_hash, number)
        after = await connection.fetchval(size)
        await connection.execute("ANALYZE projkit_sessions")
        await connection.close()
        return float(after - before) / number

    async def add_users(self, session: Session, users: int) -> None:
        """Add ``users`` users with ten sessions each."""
        connection = await asyncpg.connect(self._url)
        await connection.execute(_USERS, session.id_hash, users)
        await connection.execute("VACUUM ANALYZE projkit_sessions")
        await connection.close()


class Redis:
    """Adds sessions to Redis, without an index, as a version before it did."""

    def __init__(self, kit: ProjKit, client: Any) -> None:
        self.kit = kit
        self._client = client

    async def fill(self, session: Session, number: int) -> float:
        """Add copies of ``session``; return the bytes of each, with the index."""
        name = f"{PREFIX}{{{session.key.subject_hash}}}:sessions"
        for start in range(0, number, 1000):
            hashes = [sha256_hex(str(each)) for each in range(start, min(start + 1000, number))]
            copies = {each: _written(replace(session, id_hash=each)) for each in hashes}
            await self._client.hset(name, mapping=copies)
        await services(self.kit).sessions.list(ALICE, limit=1)
        used = [await self._client.memory_usage(key, samples=0) for key in (name, f"{name}-by-age")]
        return float(sum(used)) / (number + 1)

    async def add_users(self, session: Session, users: int) -> None:
        """Add ``users`` users with ten sessions each."""
        before = (await self._client.info("memory"))["used_memory"]
        for start in range(0, users, 100):
            pipeline = self._client.pipeline(transaction=False)
            for user in range(start, min(start + 100, users)):
                copies = {}
                for number in range(10):
                    hashed = sha256_hex(f"{user} {number}")
                    copies[hashed] = _written(replace(session, subject=f"user {user}", id_hash=hashed))
                name = f"{PREFIX}{{{subject_hash('', f'user {user}')}}}:sessions"
                pipeline.hset(name, mapping=copies)
                pipeline.zadd(
                    f"{name}-by-age", {f"{_number(session.created_at)}{each}": 0 for each in copies}
                )
                pipeline.pexpire(name, 600_000)
                pipeline.pexpire(f"{name}-by-age", 600_000)
            await pipeline.execute()
        used = (await self._client.info("memory"))["used_memory"] - before
        console.print(
            f"Redis: {used / users / 10:.0f} bytes for each of {users * 10:,} sessions of {users:,} users"
        )


_COPIES = """
INSERT INTO projkit_sessions
SELECT (jsonb_populate_record(s, jsonb_build_object(
    'id_hash', encode(sha256(n::text::bytea), 'hex'), 'refresh_hash', encode(sha256(n::text::bytea), 'hex'),
    'created_at', s.created_at - n * interval '1 s'
))).*
FROM projkit_sessions s, generate_series(1, $2::int) n WHERE id_hash = $1
"""


_USERS = """
INSERT INTO projkit_sessions
SELECT (jsonb_populate_record(s, jsonb_build_object(
    'id_hash', encode(sha256(('user' || n)::bytea), 'hex'), 'refresh_hash', encode(sha256(n::text::bytea), 'hex'),
    'subject', 'user ' || n / 10, 'created_at', s.created_at - n * interval '1 s'
))).*
FROM projkit_sessions s, generate_series(1, 10 * $2::int) n WHERE id_hash = $1
"""


def services(kit: ProjKit) -> AuthServices:
    """Return the authentication services of a started kit."""
    return kit._lifecycle.get().auth


async def measure(backend: PostgreSQL | Redis, number: int, users: int) -> list[str]:
    """Measure with ``number`` sessions of one subject, next to ``users`` others, of which 0 adds none."""
    service, store = services(backend.kit).sessions, services(backend.kit).store
    browser = Client("192.0.2.1", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")

    async def log_in() -> IssuedTokens:
        return await service.open("alice", DEFAULT_SCOPES, "", "cookie", browser)

    await log_in()
    [session] = await store.list("", "alice", service.now(), limit=1)
    if users:
        await backend.add_users(session, users)
    size = await backend.fill(session, number)
    login, issued = await milliseconds(log_in)

    async def refresh() -> None:
        nonlocal issued
        issued = await service.refresh(issued.refresh_token)

    refreshed, _ = await milliseconds(refresh)
    first, page = await milliseconds(lambda: service.list(ALICE, limit=20))
    for _ in range(min(number, 1000) // 100 - 1):
        page = await service.list(ALICE, limit=100, cursor=page.next_cursor)
    deep, _ = await milliseconds(lambda: service.list(ALICE, limit=20, cursor=page.next_cursor))
    end, ended = await milliseconds(lambda: service.end_all("", "alice"), 1)
    if ended < number:
        raise RuntimeError(f"only {ended} sessions were ended")
    return [f"{number:,}", f"{size:.0f}", login, refreshed, first, deep, end]


async def _run(numbers: list[int], users: int) -> None:
    async for url in _database():
        async with AsyncExitStack() as stack:
            common = {"secret": SECRET, "database_url": url, "max_sessions_per_subject": 0}
            in_redis = ProjKit(Settings(**common, redis_url=REDIS, redis_prefix=PREFIX))
            in_database = ProjKit(Settings(**common))
            for kit in (in_redis, in_database):
                await stack.enter_async_context(kit.lifespan())
            client = open_redis(REDIS)
            stack.push_async_callback(close_redis, client)
            for backend in (PostgreSQL(in_database, url), Redis(in_redis, client)):
                table = Table("sessions", "bytes each", "login", "refresh", "page", "deep page", "end all")
                for number in numbers:
                    table.add_row(*await measure(backend, number, users if number == numbers[0] else 0))
                console.print(f"\n{type(backend).__name__}: milliseconds (longest delay of the event loop)")
                console.print(table)


def main(
    numbers: Annotated[list[int], typer.Argument(help="The numbers of sessions.")] = [100, 20_000, 100_000],  # noqa: B006
    users: Annotated[int, typer.Option(help="The number of other users, with ten sessions each.")] = 0,
) -> None:
    """Measure and print the tables."""
    uvloop.run(_run(numbers, users))


if __name__ == "__main__":
    typer.run(main)
