"""What it costs to ask, on every request, whether a token still holds: in process, all ways in turn.

Each way is a kit of its own, driven as a server would drive it, in one process and on one event loop; PostgreSQL and
Redis are others. Every round measures every way, one after the other, so that what else the machine does falls on all
of them; a ratio is taken within a round, and the tables have medians over the rounds.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from projkit import Principal, ProjKit, Settings
from projkit.auth.keys import load_keys
from projkit.auth.session_service import Client
from projkit.auth.tokens import TokenIssuer
from projkit.db import migrate
from projkit.identity import DEFAULT_SCOPES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVER = os.environ.get("BENCH_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432")
REDIS = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
DATABASE = "projkit_bench_sessions"
SECRET = "a secret of the benchmarks, long enough to be taken"
AT_ONCE = 16
console = Console(width=110)


@dataclass
class Way:
    """One way to tell who is asking; ``path`` and ``token`` are of its own kit."""

    name: str
    settings: Settings
    kind: str  # "nobody", "plain" or "session"
    kit: ProjKit = field(init=False)
    path: str = ""
    token: str = ""
    p50_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Opens the kit, with a project to get and a token to get it with."""
        alice = Principal("alice")
        self.kit = ProjKit(self.settings, get_principal=(lambda _: alice) if self.kind == "nobody" else None)
        await stack.enter_async_context(self.kit.lifespan())
        project = await self.kit.projects.create(alice, name="Move the data centre", tags=["infrastructure"])
        self.path = f"/api/v1/projects/{project.id}"
        if self.kind == "session":
            sessions = self.kit._lifecycle.get().auth.sessions
            issued = await sessions.open("alice", DEFAULT_SCOPES, "", "body", Client("192.0.2.1", "bench"))
            self.token = issued.access_token
        else:
            self.token = TokenIssuer(load_keys(self.settings), self.settings).issue("alice", DEFAULT_SCOPES)

    async def get(self) -> None:
        """One request."""
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"host", b"testserver"), (b"authorization", b"Bearer " + self.token.encode())],
            "client": ("127.0.0.1", 40_000), "server": ("127.0.0.1", 8000), "extensions": {},
        }  # fmt: skip
        await self.kit(scope, _receive, self._send)

    @staticmethod
    async def _send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"a request came to {message['status']}")

    async def measure(self, requests: int) -> None:
        """So many one after the other, then as many, sixteen at once."""
        waits = []
        cpu = time.process_time()
        for _ in range(requests):
            began = time.perf_counter()
            await self.get()
            waits.append(time.perf_counter() - began)
        self.cpu_us.append((time.process_time() - cpu) / requests * 1e6)
        self.p50_us.append(median(waits) * 1e6)

        async def some() -> None:
            for _ in range(requests // AT_ONCE):
                await self.get()

        began = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        self.per_second.append(requests // AT_ONCE * AT_ONCE / (time.perf_counter() - began))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 15,
    requests: Annotated[int, typer.Option(min=AT_ONCE, help="Requests of each measurement.")] = 800,
) -> None:
    """Measure and print the tables."""
    uvloop.run(_run(rounds, requests))


async def _run(rounds: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sqlite = f"sqlite:///{Path(directory) / 'bench.db'}"
        await migrate.upgrade(sqlite.replace("sqlite://", "sqlite+aiosqlite://"))
        async for postgresql in _database():
            async with AsyncExitStack() as stack:
                groups = [_ways(postgresql), _ways(sqlite, with_redis=False)]
                ways = [way for group in groups for way in group]
                for way in ways:
                    await way.prepare(stack)
                    for _ in range(200):  # connections, prepared statements, caches
                        await way.get()
                for number in range(rounds):
                    for way in ways if number % 2 else reversed(ways):
                        await way.measure(requests)
    for title, group in zip(("Projects in PostgreSQL", "Projects in SQLite"), groups, strict=True):
        _show(title, group)


def _ways(url: str, *, with_redis: bool = True) -> list[Way]:
    def settings(**changes: Any) -> Settings:
        return Settings(
            database_url=url, database_pool_size=4, secret=SECRET, redis_prefix="projkit-bench:", **changes
        )

    ways = [
        Way("nobody asks (get_principal)", settings(), "nobody"),
        Way("token without a session", settings(), "plain"),
        Way("session in the database", settings(), "session"),
    ]
    if with_redis:
        ways += [
            Way("token without a session, Redis", settings(redis_url=REDIS), "plain"),
            Way("session in Redis, remembered", settings(redis_url=REDIS), "session"),
            Way("session in Redis, each time", settings(redis_url=REDIS, session_cache_seconds=0), "session"),
        ]
    return ways


async def _database() -> AsyncIterator[str]:
    administrator = await asyncpg.connect(f"{SERVER}/postgres")
    try:
        await administrator.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        await administrator.execute(f"CREATE DATABASE {DATABASE}")
        url = f"{SERVER}/{DATABASE}"
        await migrate.upgrade(url.replace("postgresql://", "postgresql+asyncpg://"))
        yield url
        await administrator.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    finally:
        await administrator.close()


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def _show(title: str, ways: list[Way]) -> None:
    table = Table(
        "way", "p50 µs", "ratio", "CPU µs", "ratio", f"req/s, {AT_ONCE} at once", "ratio", title=title
    )
    first = ways[0]
    for way in ways:
        cells = []
        for name in ("p50_us", "cpu_us", "per_second"):
            mine, others = getattr(way, name), getattr(first, name)
            cells += [
                f"{median(mine):,.0f}",
                f"{median(a / b for a, b in zip(mine, others, strict=True)):.2f}",
            ]
        table.add_row(way.name, *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
