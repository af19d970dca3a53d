"""Probes over real HTTP, on a schedule: what each took is counted from when it should have begun."""

import asyncio
import time
from dataclasses import dataclass
from itertools import count
from typing import Final
from urllib.parse import urlsplit

CONNECTIONS: Final = 64
HEALTH: Final = "/api/v1/health"
# What an orchestrator or a load balancer asks, in turn.
PATHS: Final = (HEALTH, f"{HEALTH}/live", f"{HEALTH}/ready", f"{HEALTH}/detailed")
_PER_SECOND: Final = 500


@dataclass(frozen=True)
class Figures:
    """What probes took, in milliseconds, and the statuses of readiness."""

    mean: float
    p99: float
    longest: float
    asked: int
    ready: frozenset[int]

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.2f} ms, p99 {self.p99:.2f} ms, longest {self.longest:.2f} ms of {self.asked} probes, "
            f"ready {sorted(self.ready)}"
        )


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def get(self, path: str) -> int:
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()


async def probe(url: str, *, seconds: float) -> Figures:
    """500 probes a second over 64 connections."""
    parts = urlsplit(url)
    connections = [
        _Connection(*await asyncio.open_connection(parts.hostname, parts.port)) for _ in range(CONNECTIONS)
    ]
    numbers = count()
    took: list[float] = []
    ready: set[int] = set()
    began = time.perf_counter()

    async def work(connection: _Connection) -> None:
        while (due := (number := next(numbers)) / _PER_SECOND) < seconds:
            await asyncio.sleep(began + due - time.perf_counter())
            path = PATHS[number % len(PATHS)]
            status = await connection.get(path)
            took.append((time.perf_counter() - began - due) * 1000)
            if path.endswith("/ready"):
                ready.add(status)

    try:
        await asyncio.gather(*map(work, connections))
    finally:
        for connection in connections:
            connection.close()
    took.sort()
    return Figures(sum(took) / len(took), took[int(len(took) * 0.99)], took[-1], len(took), frozenset(ready))
