"""Far more clients than can be served cost bounded time and memory, never the probes, and nothing afterwards."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.faults.conftest import Cluster, Server, headers, serve
from tests.faults.probe_load import probe

pytestmark = pytest.mark.anyio
CLIENTS: Final = 400
PLACES, QUEUE, QUEUE_SECONDS = 20, 100, 1.0
LIMITS: Final[dict[str, Any]] = {
    "PROJKIT_MAX_CONCURRENT_REQUESTS": str(PLACES),
    "PROJKIT_MAX_QUEUED_REQUESTS": str(QUEUE),
    "PROJKIT_QUEUE_SECONDS": str(QUEUE_SECONDS),
}
IMPATIENT: Final[dict[str, Any]] = {
    "PROJKIT_DATABASE_POOL_WAIT_SECONDS": "1",
    "PROJKIT_DATABASE_STATEMENT_SECONDS": "1",
}
# A refusal may be held back for a second.
HELD_BACK: Final = 1
# In line, for a connection, for a statement and its cancellation; and the busy machine of a test.
BOUND: Final = QUEUE_SECONDS + HELD_BACK + 1 + 1 + 3
# Of a client in the same process as 400 others, on a machine that is busy with the server as well.
PROBE_MEAN_MS, PROBE_P99_MS = 250, 1500
MORE_MIB: Final = 40


class Crowd:
    """Clients that ask again as soon as they have their answer, whatever Retry-After says."""

    def __init__(self, server: Server) -> None:
        self._url = urlsplit(server.projects)
        lines = [
            f"GET {self._url.path} HTTP/1.1",
            "Host: x",
            *(f"{key}: {each}" for key, each in headers().items()),
        ]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self.answers: Counter[tuple[int, str]] = Counter()  # by status and code
        self.retry_after: set[int] = set()
        self.longest = 0.0
        self.mute = 0  # refusals without Retry-After

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """While they do."""
        tasks = [asyncio.create_task(self._ask()) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(each) for each in ended} == {asyncio.CancelledError}, "no connection broke"

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            while True:
                asked = time.monotonic()
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(_value(head, b"content-length")))
                self.longest = max(self.longest, time.monotonic() - asked)
                self._note(int(head[9:12]), head, body)
        finally:
            writer.close()

    def _note(self, status: int, head: bytes, body: bytes) -> None:
        code = body.partition(b'"code":"')[2].partition(b'"')[0].decode() if status != 200 else ""
        self.answers[status, code] += 1
        if status == 503:
            told = _value(head, b"retry-after")
            self.mute += not told
            self.retry_after.add(int(told or 0))

    @property
    def statuses(self) -> set[int]:
        """Those that there were."""
        return {status for status, _ in self.answers}


def _value(head: bytes, name: bytes) -> str:
    return head.partition(b"\r\n%s: " % name)[2].partition(b"\r\n")[0].decode()


def resident(server: Server) -> float:
    """The server's memory in MiB."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def scraped(server: Server, name: str) -> float:
    """A series without labels, or the sum over its labels."""
    async with httpx2.AsyncClient(timeout=10) as client:
        answer = await client.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    lines = [line.split() for line in answer.text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert lines, name
    return sum(float(line[-1]) for line in lines)


async def recovers(server: Server) -> float:
    """Waits until each of more requests than there are places is good again; tells how long that took."""
    began = time.monotonic()
    async with httpx2.AsyncClient(headers=headers(), timeout=10) as client:
        while time.monotonic() - began < 20:
            answers = await asyncio.gather(*(client.get(server.projects) for _ in range(2 * PLACES)))
            if all(answer.status_code == 200 for answer in answers):
                return time.monotonic() - began
    raise AssertionError([answer.text for answer in answers])


async def test_a_database_that_stands_still(cluster: Cluster) -> None:
    """With PostgreSQL stopped and 400 clients every answer is a 503 with Retry-After, in time, and probes are quick."""
    with serve(cluster.url, **LIMITS, **IMPATIENT) as server:
        crowd = Crowd(server)
        before = resident(server)
        async with crowd.asking():
            await asyncio.sleep(1)
            assert crowd.answers[200, ""] > 0
            cluster.signal(signal.SIGSTOP)
            await asyncio.sleep(1.5)  # until nothing is left that was answered before
            crowd.answers.clear()
            [figures] = await probe(server.url, seconds=4)
            assert 0 < await scraped(server, "projkit_http_server_waiting_requests") <= QUEUE
            during = resident(server)
        grown = f"{before:.0f} to {during:.0f} MiB"
        print(f"{dict(crowd.answers)}, longest {crowd.longest:.2f} s, {figures}, {grown}")  # noqa: T201
        assert crowd.statuses == {503}, crowd.answers
        assert crowd.answers[503, "overloaded"] > CLIENTS
        assert crowd.mute == 0
        assert min(crowd.retry_after) >= 1
        assert crowd.longest < BOUND
        assert figures.mean < PROBE_MEAN_MS
        assert figures.p99 < PROBE_P99_MS
        assert during - before < MORE_MIB
        cluster.signal(signal.SIGCONT)
        print(f"recovered {await recovers(server):.2f} s after SIGCONT")  # noqa: T201
        assert await scraped(server, "projkit_http_server_waiting_requests") == 0
        assert (
            await scraped(server, "projkit_http_server_refused_requests_total")
            >= crowd.answers[503, "overloaded"]
        )
        assert "Traceback" not in server.log_text, server.log_text


async def test_more_clients_than_can_be_served(any_database_url: str) -> None:
    """With a good database and 400 clients the server goes on serving as many as it can, and refuses the others."""
    with serve(any_database_url, **LIMITS) as server:
        crowd = Crowd(server)
        async with crowd.asking():
            await asyncio.sleep(1)
            crowd.answers.clear()
            [figures] = await probe(server.url, seconds=3)
            overloaded = crowd.answers[503, "overloaded"]
        print(f"{dict(crowd.answers)}, longest {crowd.longest:.2f} s, {figures}")  # noqa: T201
        assert set(crowd.answers) == {(200, ""), (503, "overloaded")}, crowd.answers
        assert overloaded > CLIENTS
        assert crowd.answers[200, ""] > CLIENTS / 2
        assert crowd.mute == 0
        assert crowd.longest < BOUND
        assert figures.mean < PROBE_MEAN_MS
        assert figures.p99 < PROBE_P99_MS
        assert figures.ready == {200}, "to be busy is not to be ill"
        print(f"recovered in {await recovers(server):.2f} s")  # noqa: T201
        assert await scraped(server, "projkit_http_server_waiting_requests") == 0
