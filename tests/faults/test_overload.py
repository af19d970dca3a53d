"""Far more clients than can be served cost limited time and memory, delay no probes, and leave no effect behind."""

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
SLOTS, QUEUE, QUEUE_SECONDS = 20, 100, 1.0
LIMITS: Final[dict[str, Any]] = {
    "PROJKIT_MAX_CONCURRENT_REQUESTS": str(SLOTS),
    "PROJKIT_MAX_QUEUED_REQUESTS": str(QUEUE),
    "PROJKIT_QUEUE_SECONDS": str(QUEUE_SECONDS),
}
IMPATIENT: Final[dict[str, Any]] = {
    "PROJKIT_DATABASE_POOL_WAIT_SECONDS": "1",
    "PROJKIT_DATABASE_STATEMENT_SECONDS": "1",
}
# A rejection may be delayed for a second.
REJECTION_DELAY: Final = 1
# Queue, rejection, connection, statement and its cancellation; and a busy machine.
BOUND_SECONDS: Final = QUEUE_SECONDS + REJECTION_DELAY + 1 + 1 + 3
# For a client in the same process as 400 others, on a machine that also runs the server.
PROBE_MEAN_MS, PROBE_P99_MS = 250, 1500
MAX_GROWTH_MIB: Final = 40


class Crowd:
    """Clients that send the next request as soon as they have a response, and ignore Retry-After.

    Attributes:
        responses: the number of responses by status and code.
        retry_after: the values of Retry-After.
        longest: the longest wait for a response, in seconds.
        without_retry_after: the number of rejections without Retry-After.
    """

    def __init__(self, server: Server) -> None:
        self._url = urlsplit(server.projects)
        lines = [
            f"GET {self._url.path} HTTP/1.1",
            "Host: x",
            *(f"{key}: {each}" for key, each in headers().items()),
        ]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self.responses: Counter[tuple[int, str]] = Counter()
        self.retry_after: set[int] = set()
        self.longest = 0.0
        self.without_retry_after = 0

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send requests while the context is open."""
        tasks = [asyncio.create_task(self._send_requests()) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(each) for each in ended} == {asyncio.CancelledError}, "no connection broke"

    async def _send_requests(self) -> None:
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            while True:
                sent = time.monotonic()
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(_value(head, b"content-length")))
                self.longest = max(self.longest, time.monotonic() - sent)
                self._record(int(head[9:12]), head, body)
        finally:
            writer.close()

    def _record(self, status: int, head: bytes, body: bytes) -> None:
        code = body.partition(b'"code":"')[2].partition(b'"')[0].decode() if status != 200 else ""
        self.responses[status, code] += 1
        if status == 503:
            retry_after = _value(head, b"retry-after")
            self.without_retry_after += not retry_after
            self.retry_after.add(int(retry_after or 0))

    @property
    def statuses(self) -> set[int]:
        """The statuses of all responses."""
        return {status for status, _ in self.responses}


def _value(head: bytes, name: bytes) -> str:
    return head.partition(b"\r\n%s: " % name)[2].partition(b"\r\n")[0].decode()


def resident(server: Server) -> float:
    """Return the server's resident memory in MiB."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def scraped(server: Server, name: str) -> float:
    """Return the value of a series, summed over its labels."""
    async with httpx2.AsyncClient(timeout=10) as client:
        answer = await client.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    lines = [line.split() for line in answer.text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert lines, name
    return sum(float(line[-1]) for line in lines)


async def wait_until_recovered(server: Server) -> float:
    """Wait until more concurrent requests than there are slots succeed; return the seconds that took."""
    began = time.monotonic()
    async with httpx2.AsyncClient(headers=headers(), timeout=10) as client:
        while time.monotonic() - began < 20:
            answers = await asyncio.gather(*(client.get(server.projects) for _ in range(2 * SLOTS)))
            if all(answer.status_code == 200 for answer in answers):
                return time.monotonic() - began
    raise AssertionError([answer.text for answer in answers])


async def test_a_database_that_stands_still(cluster: Cluster) -> None:
    """With PostgreSQL stopped and 400 clients, every response is a 503 with Retry-After, in time; probes are fast."""
    with serve(cluster.url, **LIMITS, **IMPATIENT) as server:
        crowd = Crowd(server)
        before = resident(server)
        async with crowd.sending():
            await asyncio.sleep(1)
            assert crowd.responses[200, ""] > 0
            cluster.signal(signal.SIGSTOP)
            await asyncio.sleep(1.5)  # until all earlier requests have their responses
            crowd.responses.clear()
            [latencies] = await probe(server.url, seconds=4)
            assert 0 < await scraped(server, "projkit_http_server_waiting_requests") <= QUEUE
            during = resident(server)
        growth = f"{before:.0f} to {during:.0f} MiB"
        print(f"{dict(crowd.responses)}, longest {crowd.longest:.2f} s, {latencies}, {growth}")  # noqa: T201
        assert crowd.statuses == {503}, crowd.responses
        assert crowd.responses[503, "overloaded"] > CLIENTS
        assert crowd.without_retry_after == 0
        assert min(crowd.retry_after) >= 1
        assert crowd.longest < BOUND_SECONDS
        assert latencies.mean < PROBE_MEAN_MS
        assert latencies.p99 < PROBE_P99_MS
        assert during - before < MAX_GROWTH_MIB
        cluster.signal(signal.SIGCONT)
        print(f"recovered {await wait_until_recovered(server):.2f} s after SIGCONT")  # noqa: T201
        assert await scraped(server, "projkit_http_server_waiting_requests") == 0
        assert (
            await scraped(server, "projkit_http_server_refused_requests_total")
            >= crowd.responses[503, "overloaded"]
        )
        assert "Traceback" not in server.log_text, server.log_text


async def test_more_clients_than_can_be_served(any_database_url: str) -> None:
    """With a healthy database and 400 clients, the server serves as many as it can, and rejects the others."""
    with serve(any_database_url, **LIMITS) as server:
        crowd = Crowd(server)
        async with crowd.sending():
            await asyncio.sleep(1)
            crowd.responses.clear()
            [latencies] = await probe(server.url, seconds=3)
            overloaded = crowd.responses[503, "overloaded"]
        print(f"{dict(crowd.responses)}, longest {crowd.longest:.2f} s, {latencies}")  # noqa: T201
        assert set(crowd.responses) == {(200, ""), (503, "overloaded")}, crowd.responses
        assert overloaded > CLIENTS
        assert crowd.responses[200, ""] > CLIENTS / 2
        assert crowd.without_retry_after == 0
        assert crowd.longest < BOUND_SECONDS
        assert latencies.mean < PROBE_MEAN_MS
        assert latencies.p99 < PROBE_P99_MS
        assert latencies.ready == {200}, "an overloaded server is still ready"
        print(f"recovered in {await wait_until_recovered(server):.2f} s")  # noqa: T201
        assert await scraped(server, "projkit_http_server_waiting_requests") == 0
