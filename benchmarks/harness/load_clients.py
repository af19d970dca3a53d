"""Clients that generate load, and the probes of an orchestrator; each a process of its own that prints JSON.

``python harness/load_clients.py``, with a :class:`LoadPlan` as JSON on its standard input. wrk has one distribution of
latencies for all responses; here each status has its own, and clients can obey ``Retry-After``.
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

_CONNECTS_PER_PAUSE = 50
_RECONNECT_SECONDS = 0.1


@dataclass(frozen=True)
class LoadPlan:
    """The requests to send: in a closed loop by each of ``connections`` clients, or on a schedule.

    Attributes:
        obey_retry_after: whether clients wait as ``Retry-After`` says.
        period: the seconds between two requests for the same path; 0 for the closed loop. Each path has a connection
            of its own, and latencies are measured from the scheduled time.
    """

    port: int
    token: str
    paths: list[str]
    connections: int
    seconds: float
    obey_retry_after: bool = True
    period: float = 0.0


@dataclass
class LoadResult:
    """The outcome of a :class:`LoadPlan`.

    Attributes:
        latencies: in seconds, by status in the closed loop, by path on a schedule.
        broken: the number of broken connections; on a schedule, of responses other than 200.
        retry_after: the number of responses by the value of ``Retry-After``.
    """

    latencies: dict[str, list[float]] = field(default_factory=dict)
    broken: int = 0
    retry_after: dict[str, int] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    """One connection, with one request after the other."""

    def __init__(self, clients: _ClosedLoop) -> None:
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._sent_at = 0.0
        self._awaits_response = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
        self._send_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._awaits_response:
            self._clients.record_broken()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        length = int(lowered.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self._received = b""
        self._awaits_response = False
        retry_after = lowered.partition(b"\r\nretry-after: ")[2].partition(b"\r\n")[0].decode()
        self._clients.record_response(head[9:12].decode(), time.perf_counter() - self._sent_at, retry_after)
        if retry_after and self._clients.plan.obey_retry_after:
            self._loop.call_later(float(retry_after), self._send_request)
        else:
            self._send_request()

    def _send_request(self) -> None:
        if self._transport is None or self._transport.is_closing():
            self._clients.open()  # servers close idle connections
            return
        self._awaits_response = True
        self._sent_at = time.perf_counter()
        self._transport.write(self._clients.next_request())


class _ClosedLoop:
    """Clients that send the next request when they have the response to the last one."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        self._requests = cycle([_request(plan, path) for path in plan.paths])
        self._latencies: dict[str, list[float]] = {}
        self._retry_after: Counter[str] = Counter()
        self._broken = 0
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()

    def next_request(self) -> bytes:
        return next(self._requests)

    def record_response(self, status: str, seconds: float, retry_after: str) -> None:
        self._latencies.setdefault(status, []).append(seconds)
        if retry_after:
            self._retry_after[retry_after] += 1

    def record_broken(self) -> None:
        if not self._ended:
            self._broken += 1
            self.open(_RECONNECT_SECONDS)

    def open(self, after: float = 0.0) -> None:
        task = asyncio.get_running_loop().create_task(self._open(after))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> LoadResult:
        for number in range(self.plan.connections):
            await self._open()
            if number % _CONNECTS_PER_PAUSE == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # warm-up
        self._latencies.clear()
        self._retry_after.clear()
        self._broken = 0
        await asyncio.sleep(self.plan.seconds)
        self._ended = True
        return LoadResult(self._latencies, self._broken, dict(self._retry_after))

    async def _open(self, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.plan.port)
        except OSError:
            self.record_broken()


async def _run_schedule(plan: LoadPlan) -> LoadResult:
    result = LoadResult({path: [] for path in plan.paths})

    async def probe(path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", plan.port)
        due = time.perf_counter()
        end = due + plan.seconds
        while due < end:
            await asyncio.sleep(due - time.perf_counter())
            writer.write(_request(plan, path))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]))
            if head[9:12] != b"200":
                result.broken += 1
            result.latencies[path].append(time.perf_counter() - due)
            due += plan.period
        writer.close()

    await asyncio.gather(*map(probe, plan.paths))
    return result


def _request(plan: LoadPlan, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {plan.token}\r\n\r\n".encode()


def percentile_ms(latencies: list[float], share: float) -> float:
    """Return a percentile of ``latencies`` in milliseconds, nan if there are none."""
    if not latencies:
        return float("nan")
    return sorted(latencies)[min(int(len(latencies) * share), len(latencies) - 1)] * 1000


def main() -> None:
    """Read the plan, run it, and print the result."""
    plan = LoadPlan(**json.load(sys.stdin))
    result = uvloop.run(_run_schedule(plan) if plan.period else _ClosedLoop(plan).run())
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
