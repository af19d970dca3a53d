"""A crowd of clients, and the probes of an orchestrator beside it; each a process of its own that prints JSON.

``python harness/crowd.py``, with :class:`Orders` as JSON on its standard input. wrk has one distribution for all
answers; here each status has its own, and a client may wait as ``Retry-After`` asks it to.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import cast

import uvloop

_OPENED_AT_ONCE = 50
_RECONNECT_SECONDS = 0.1


@dataclass(frozen=True)
class Orders:
    """What to ask and how: closed-loop by ``connections`` clients, or, with a ``period``, on a schedule."""

    port: int
    token: str
    paths: list[str]
    connections: int
    seconds: float
    polite: bool = True  # waits as Retry-After says
    period: float = (
        0.0  # each path once in so many seconds, on a connection of its own, counted from when it was due
    )


@dataclass
class Told:
    """What became of it: seconds by status (by path, for a schedule), and what broke."""

    took: dict[str, list[float]] = field(default_factory=dict)
    broken: int = 0
    retry_after: dict[str, int] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    """One request after the other on one connection."""

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd = crowd
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._asked = 0.0
        self._waits = False  # for an answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waits:
            self._crowd.lost()

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        length = int(lowered.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self._read = b""
        self._waits = False
        retry_after = lowered.partition(b"\r\nretry-after: ")[2].partition(b"\r\n")[0].decode()
        self._crowd.heard(head[9:12].decode(), time.perf_counter() - self._asked, retry_after)
        if retry_after and self._crowd.orders.polite:
            self._loop.call_later(float(retry_after), self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        if self._transport is None or self._transport.is_closing():
            self._crowd.open()  # servers close what has been idle for a while
            return
        self._waits = True
        self._asked = time.perf_counter()
        self._transport.write(self._crowd.next())


class _Crowd:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self._requests = cycle([_request(orders, path) for path in orders.paths])
        self._took: dict[str, list[float]] = {}
        self._retry_after: Counter[str] = Counter()
        self._broken = 0
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()

    def next(self) -> bytes:
        return next(self._requests)

    def heard(self, status: str, seconds: float, retry_after: str) -> None:
        self._took.setdefault(status, []).append(seconds)
        if retry_after:
            self._retry_after[retry_after] += 1

    def lost(self) -> None:
        if not self._ended:
            self._broken += 1
            self.open(_RECONNECT_SECONDS)

    def open(self, after: float = 0.0) -> None:
        task = asyncio.get_running_loop().create_task(self._open(after))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> Told:
        for opened in range(self.orders.connections):
            await self._open()
            if opened % _OPENED_AT_ONCE == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # until it goes round
        self._took.clear()
        self._retry_after.clear()
        self._broken = 0
        await asyncio.sleep(self.orders.seconds)
        self._ended = True
        return Told(self._took, self._broken, dict(self._retry_after))

    async def _open(self, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.orders.port)
        except OSError:
            self.lost()


async def _probe(orders: Orders) -> Told:
    told = Told({path: [] for path in orders.paths})

    async def ask(path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", orders.port)
        due = time.perf_counter()
        ends = due + orders.seconds
        while due < ends:
            await asyncio.sleep(due - time.perf_counter())
            writer.write(_request(orders, path))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]))
            if head[9:12] != b"200":
                told.broken += 1
            told.took[path].append(time.perf_counter() - due)
            due += orders.period
        writer.close()

    await asyncio.gather(*map(ask, orders.paths))
    return told


def _request(orders: Orders, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {orders.token}\r\n\r\n".encode()


def percentile(took: list[float], share: float) -> float:
    """In milliseconds; nan of nothing."""
    return sorted(took)[min(int(len(took) * share), len(took) - 1)] * 1000 if took else float("nan")


def main() -> None:
    """Does what it is told, and tells."""
    orders = Orders(**json.load(sys.stdin))
    told = uvloop.run(_probe(orders) if orders.period else _Crowd(orders).run())
    json.dump(asdict(told), sys.stdout)


if __name__ == "__main__":
    main()
