"""Whatever a dependency does, probes over real HTTP are answered at once, and tell of it in time."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator

import httpx2
import psutil
import pytest

from tests.faults.conftest import Cluster, Server, serve
from tests.faults.probing import CONNECTIONS, HEALTH, Figures, probe
from tests.health.conftest import silent_server
from tests.redis_servers import Redises, alone, running

pytestmark = pytest.mark.anyio
SECONDS = 4.0
BOUND = 10.0  # milliseconds, on a machine that has nothing else to do
PERIOD, TIMEOUT = 5.0, 1.0
HEAD_ROOM = 4.0  # seconds


@pytest.fixture
def redis_server() -> Iterator[Redises]:
    """A Redis of one test's own."""
    with running(alone) as opened:
        yield opened


async def turned(server: Server, status: int) -> float:
    """Waits until readiness has a status; tells how long that took."""
    began = time.monotonic()
    async with httpx2.AsyncClient(timeout=30) as client:
        while (await client.get(f"{server.url}{HEALTH}/ready")).status_code != status:
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.02)
    return time.monotonic() - began


def require_quick(figures: Figures, well: Figures) -> None:
    """Within the bound, or where the machine is busy within three times of what it is while all is well."""
    assert figures.mean < max(BOUND, 3 * well.mean)
    assert figures.p99 < max(BOUND, 3 * well.p99)


async def test_a_server_that_is_stopped(cluster: Cluster, redis_server: Redises) -> None:
    """While PostgreSQL or Redis is under SIGSTOP no probe waits for it; readiness turns in time, there and back."""
    stops: dict[str, Callable[[int], None]] = {
        "PostgreSQL": cluster.signal,
        "Redis": redis_server.masters[0].signal,
    }
    with serve(cluster.url, PROJKIT_REDIS_URL=redis_server.url) as server:
        await probe(server.url, seconds=1.0)
        well = await probe(server.url, seconds=SECONDS)
        print(f"\n{CONNECTIONS} connections, all well: {well}")  # noqa: T201
        assert well.ready == {200}
        assert well.mean < BOUND
        for name, stop in stops.items():
            stop(signal.SIGSTOP)
            try:
                turning = await probe(server.url, seconds=SECONDS)  # before it is noticed, and while it is
                noticed = SECONDS + await turned(server, 503)
                stopped = await probe(server.url, seconds=SECONDS)
            finally:
                stop(signal.SIGCONT)
            back = await turned(server, 200)
            print(f"{name} just stopped: {turning}\n{name} stopped: {stopped}")  # noqa: T201
            print(f"{name}: 503 after {noticed:.1f} s at most, 200 {back:.1f} s after SIGCONT")  # noqa: T201
            require_quick(turning, well)
            require_quick(stopped, well)
            assert stopped.ready == {503}
            assert noticed < PERIOD + TIMEOUT + HEAD_ROOM
            assert back < PERIOD + HEAD_ROOM


async def test_a_broker_that_hangs(sqlite_url: str) -> None:
    """A broker that accepts and never answers delays no probe and turns nothing away: Celery is not critical."""
    async with silent_server() as port:
        with serve(sqlite_url) as server:
            well = await probe(server.url, seconds=SECONDS)
        broker = f"amqp://guest:hidden@127.0.0.1:{port}//"
        with serve(sqlite_url, PROJKIT_CELERY_BROKER_URL=broker) as server:
            hanging = await probe(server.url, seconds=SECONDS)
            content = httpx2.get(f"{server.url}{HEALTH}/detailed").json()
            said = server.said
        print(f"\nno broker: {well}\nhanging broker: {hanging}")  # noqa: T201
        require_quick(hanging, well)
        assert hanging.ready == {200}
        assert (content["status"], content["checks"]["celery"]["status"]) == ("degraded", "error")
        assert "hidden" not in str(content) + said


def test_an_idle_worker_costs_nothing(cluster: Cluster, redis_server: Redises) -> None:
    """Of an idle worker that looks after everything the processor sees less than one per cent."""
    with serve(cluster.url, PROJKIT_REDIS_URL=redis_server.url) as server:
        time.sleep(3)
        process = psutil.Process(server.process.pid)
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(20)
        after, elapsed = process.cpu_times(), time.monotonic() - began
    share = (after.user + after.system - before.user - before.system) / elapsed
    print(f"\nan idle worker takes {share:.2%} of a processor")  # noqa: T201
    assert share < 0.01
