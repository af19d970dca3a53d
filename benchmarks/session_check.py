"""The cost of checking on every request whether a token was revoked: in process, all methods interleaved.

Each method has a kit of its own, called as a server would call it, in one process and on one event loop; PostgreSQL and
Redis are other processes. Every round measures every method, one after the other, so that other load on the machine
affects all of them. Ratios are computed within each round; the tables have medians over the rounds.
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
SECRET = "a secret for the benchmarks only, long enough"
CONCURRENCY = 16
console = Console(width=110)


@dataclass
class Method:
    """A method of authentication, with a kit of its own, to which ``path`` and ``token`` belong."""

    name: str
    settings: Settings
    kind: str  # "none", "plain" or "session"
    kit: ProjKit = field(init=False)
    path: str = ""
    token: str = ""
    p50_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Open the kit, and create a project and a token."""
        alice = Principal("alice")

        async def get_principal(_: object) -> Principal:
            return alice

        self.kit = ProjKit(self.settings, get_principal=get_principal if self.kind == "none" else None)
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
        """Send a request."""
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
            raise RuntimeError(f"a request got {message['status']}")

    async def measure(self, requests: int) -> None:
        """Send the requests one after the other, then again with a concurrency of 16."""
        waits = []
        cpu = time.process_time()
        for _ in range(requests):
            began = time.perf_counter()
            await self.get()
            waits.append(time.perf_counter() - began)
        self.cpu_us.append((time.process_time() - cpu) / requests * 1e6)
        self.p50_us.append(median(waits) * 1e6)

        async def send_requests() -> None:
            for _ in range(requests // CONCURRENCY):
                await self.get()

        began = time.perf_counter()
        await asyncio.gather(*(send_requests() for _ in range(CONCURRENCY)))
        self.per_second.append(requests // CONCURRENCY * CONCURRENCY / (time.perf_counter() - began))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="The number of measurements of each method.")] = 15,
    requests: Annotated[
        int, typer.Option(min=CONCURRENCY, help="The number of requests of each measurement.")
    ] = 800,
) -> None:
    """Measure and print the tables."""
    uvloop.run(_run(rounds, requests))


async def _run(rounds: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sqlite = f"sqlite:///{Path(directory) / 'bench.db'}"
        await migrate.upgrade(sqlite.replace("sqlite://", "sqlite+aiosqlite://"))
        async for postgresql in _database():
            async with AsyncExitStack() as stack:
                groups = [_methods(postgresql), _methods(sqlite, with_redis=False)]
                methods = [method for group in groups for method in group]
                for method in methods:
                    await method.prepare(stack)
                    for _ in range(200):  # warm-up: connections, prepared statements, caches
                        await method.get()
                for number in range(rounds):
                    for method in methods if number % 2 else reversed(methods):
                        await method.measure(requests)
    for title, group in zip(("Projects in PostgreSQL", "Projects in SQLite"), groups, strict=True):
        _show(title, group)


def _methods(url: str, *, with_redis: bool = True) -> list[Method]:
    def settings(**changes: Any) -> Settings:
        return Settings(
            database_url=url, database_pool_size=4, secret=SECRET, redis_prefix="projkit-bench:", **changes
        )

    methods = [
        Method("none (get_principal)", settings(), "none"),
        Method("token without a session", settings(), "plain"),
        Method("session in the database", settings(), "session"),
    ]
    if with_redis:
        methods += [
            Method("token without a session, Redis", settings(redis_url=REDIS), "plain"),
            Method("session in Redis, cached", settings(redis_url=REDIS), "session"),
            Method(
                "session in Redis, no cache", settings(redis_url=REDIS, session_cache_seconds=0), "session"
            ),
        ]
    return methods


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


def _show(title: str, methods: list[Method]) -> None:
    table = Table(
        "method",
        "p50 µs",
        "ratio",
        "CPU µs",
        "ratio",
        f"req/s, {CONCURRENCY} concurrent",
        "ratio",
        title=title,
    )
    first = methods[0]
    for method in methods:
        cells = []
        for name in ("p50_us", "cpu_us", "per_second"):
            own, baseline = getattr(method, name), getattr(first, name)
            cells += [
                f"{median(own):,.0f}",
                f"{median(a / b for a, b in zip(own, baseline, strict=True)):.2f}",
            ]
        table.add_row(method.name, *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
