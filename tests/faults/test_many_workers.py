"""Several workers report common figures, and are replaced without a lost request."""

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from tests.faults.conftest import Server, headers, serve

pytestmark = pytest.mark.anyio
PERFORMANCE = "/api/v1/monitoring/metrics/performance"
LIVE = "/api/v1/health/live"
PATIENCE_SECONDS = 60


async def figures(client: httpx2.AsyncClient) -> dict[str, Any]:
    """Return the figures of all workers, as one of them reports them."""
    performance: dict[str, Any] = (await client.get(PERFORMANCE)).json()
    return performance


async def wait_for_workers(client: httpx2.AsyncClient, number: int) -> set[int]:
    """Wait until so many workers run; return their process ids."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(workers := (await figures(client))["workers"]) != number:
        assert time.monotonic() < deadline, workers
        await asyncio.sleep(0.1)
    return {worker["pid"] for worker in workers}


def live(performance: dict[str, Any]) -> int:
    """Return the number of liveness probes that all workers have answered."""
    return sum(each["count"] for each in performance["endpoints"] if each["route"] == LIVE)


def connected(server: Server) -> httpx2.AsyncClient:
    """Return a client that opens a connection for each request, so that any worker may respond."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    return httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=30)


async def test_four_workers_count_as_one(sqlite_url: str) -> None:
    """Each worker reports the figures of all; those of a killed worker stay, and its successor's are added."""
    with serve(sqlite_url, arguments=("--workers", "4")) as server:
        async with connected(server) as client:
            pids = await wait_for_workers(client, 4)
            start = live(await figures(client))
            await asyncio.gather(*(client.get(LIVE) for _ in range(200)))
            seen = [await figures(client) for _ in range(12)]
            assert {live(performance) for performance in seen} == {start + 200}
            assert {performance["scope"] for performance in seen} == {"all_workers"}
            assert {worker["pid"] for worker in seen[0]["workers"]} == pids
            assert len({performance["pid"] for performance in seen}) > 1, "more than one of them responded"
            os.kill(seen[0]["pid"], signal.SIGKILL)
            deadline = time.monotonic() + PATIENCE_SECONDS
            now: set[int] = set()
            while not (len(now) == 4 and now != pids):
                assert time.monotonic() < deadline, server.log_text
                with suppress(httpx2.TransportError):  # connections to the killed worker
                    performance = await figures(client)
                    now = {worker["pid"] for worker in performance["workers"]}
                    assert live(performance) == start + 200
                await asyncio.sleep(0.1)
            assert len(now & pids) == 3


class Load:
    """Continuous requests over persistent connections."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.outcomes: Counter[str] = Counter()
        self.stopped = False

    async def run(self, number: int) -> None:
        """Write, and read back what was written, as one client."""
        client = httpx2.AsyncClient(
            base_url=self._server.url, headers=headers(f"client {number}"), timeout=30
        )
        async with client:
            while not self.stopped:
                try:
                    made = await client.post("/api/v1/projects", json={"name": "A"})
                    read = await client.get(f"/api/v1/projects/{made.json()['id']}")
                    self.outcomes[f"{made.status_code} {read.status_code}"] += 1
                except httpx2.TransportError as error:
                    self.outcomes[repr(error)] += 1


async def test_rolling_restart(postgres_url: str) -> None:
    """Two workers are replaced one after the other under load, and no request is lost."""
    arguments = ("--workers", "2")
    with serve(postgres_url, arguments=arguments, PROJKIT_DRAIN_SECONDS="1.5") as server:
        load = Load(server)
        async with asyncio.TaskGroup() as clients, connected(server) as client:
            before = await wait_for_workers(client, 2)
            for number in range(6):
                clients.create_task(load.run(number))
            await asyncio.sleep(0.5)
            server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + PATIENCE_SECONDS
            now = before
            while now & before or len(now) != 2:
                assert time.monotonic() < deadline, server.log_text
                await asyncio.sleep(0.2)
                now = {worker["pid"] for worker in (await figures(client))["workers"]}
            await asyncio.sleep(0.5)
            load.stopped = True
    print(f"rolling restart: {load.outcomes.total()} pairs of requests: {dict(load.outcomes)}")  # noqa: T201
    assert load.outcomes.keys() == {"201 200"}
    assert load.outcomes.total() > 50
