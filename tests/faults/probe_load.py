"""Health probes over HTTP on a schedule; latencies are measured from the scheduled time."""

import asyncio
import time
from dataclasses import dataclass
from itertools import count
from typing import Final
from urllib.parse import urlsplit

CONNECTIONS: Final = 64
HEALTH: Final = "/api/v1/health"
# The probes of orchestrators and load balancers, requested in turn.
PATHS: Final = (HEALTH, f"{HEALTH}/live", f"{HEALTH}/ready", f"{HEALTH}/detailed")
_PER_SECOND: Final = 500


@dataclass(frozen=True)
class ProbeLatencies:
    """The latencies of probes in milliseconds, and the statuses of readiness."""

    mean: float
    p99: float
    longest: float
    count: int
    ready: frozenset[int]

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.2f} ms, p99 {self.p99:.2f} ms, longest {self.longest:.2f} ms of {self.count} probes, "
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


async def probe(*urls: str, seconds: float) -> list[ProbeLatencies]:
    """Send 500 probes a second over 64 connections to each server.

    The servers get them in turn, so that other load on the machine affects all of them alike.
    """
    opened = [
        [
            _Connection(*await asyncio.open_connection(parts.hostname, parts.port))
            for parts in map(urlsplit, urls)
        ]
        for _ in range(CONNECTIONS)
    ]
    numbers = count()
    took: list[list[float]] = [[] for _ in urls]
    ready: list[set[int]] = [set() for _ in urls]
    began = time.perf_counter()

    async def work(connections: list[_Connection]) -> None:
        while (due := (number := next(numbers)) / (_PER_SECOND * len(urls))) < seconds:
            await asyncio.sleep(began + due - time.perf_counter())
            turn, server = divmod(number, len(urls))
            path = PATHS[turn % len(PATHS)]
            status = await connections[server].get(path)
            took[server].append((time.perf_counter() - began - due) * 1000)
            if path.endswith("/ready"):
                ready[server].add(status)

    try:
        await asyncio.gather(*map(work, opened))
    finally:
        for connections in opened:
            for connection in connections:
                connection.close()
    return [_latencies(sorted(each), statuses) for each, statuses in zip(took, ready, strict=True)]


def _latencies(took: list[float], ready: set[int]) -> ProbeLatencies:
    return ProbeLatencies(
        sum(took) / len(took), took[int(len(took) * 0.99)], took[-1], len(took), frozenset(ready)
    )
