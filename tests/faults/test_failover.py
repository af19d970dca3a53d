"""When a PostgreSQL primary is lost, its standby takes over, and the kit writes to it by itself."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from projkit import ProjKit
from tests.conftest import MODES, Client, settings_for
from tests.faults.conftest import Cluster
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
READY = "/api/v1/health/ready"
LIMITS = {
    "database_pool_size": 4,
    "database_connect_seconds": 1.0,
    "database_pool_wait_seconds": 1.0,
    "database_statement_seconds": 1.0,
}
WRITES_RESUME_SECONDS = 2.0
READY_AGAIN_SECONDS = 10.0  # the period and the timeout of the check, on a slow machine


class Writer:
    """Clients that create projects without a pause.

    Attributes:
        acknowledged: the ids of the projects.
        statuses: all statuses of responses.
        latest: the time of the latest project.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged: set[str] = set()
        self.statuses: set[int] = set()
        self.latest = 0.0

    async def write(self) -> None:
        """Create projects until cancelled."""
        while True:
            began = time.monotonic()
            answer = await self._client.post(URL, json={"name": "A"})
            self.statuses.add(answer.status_code)
            if answer.status_code == 201:
                self.acknowledged.add(answer.json()["id"])
                self.latest = began
            await asyncio.sleep(0.01)

    async def wait_until_after(self, moment: float) -> float:
        """Wait for a project whose request was sent after ``moment``; return the seconds from then to now."""
        async with asyncio.timeout(30):
            while self.latest <= moment:
                await asyncio.sleep(0.01)
        return time.monotonic() - moment


@asynccontextmanager
async def writing(url: str, mode: str) -> AsyncIterator[tuple[Client, Writer]]:
    """Run a kit on a database, and clients that write to it."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncpg reports each lost connection
    kit = ProjKit(settings_for(url, database_mode=mode, **LIMITS))
    async with kit.lifespan(), Client(kit, kit.settings, timeout=30) as client:
        writer = Writer(client)
        tasks = [asyncio.create_task(writer.write()) for _ in range(4)]
        try:
            await writer.wait_until_after(time.monotonic())
            yield client, writer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def wait_for_readiness(client: Client, code: int) -> dict[str, object]:
    """Wait until readiness has this status; return the check of the database."""
    async with asyncio.timeout(READY_AGAIN_SECONDS):
        while (await client.get(READY)).status_code != code:
            await asyncio.sleep(0.05)
    checks: dict[str, dict[str, object]] = (await client.get("/api/v1/health/detailed")).json()["checks"]
    return checks["database"]


async def promote(standby: Cluster) -> None:
    """Let the standby accept writes, and wait until it does."""
    assert await standby.execute("SELECT pg_promote()")


async def require_all(server: Cluster, writer: Writer) -> None:
    """Check that the worst response was a 503, and that no acknowledged project is lost."""
    assert writer.statuses <= {201, 503}
    ids = ", ".join(f"'{each}'" for each in writer.acknowledged)
    kept = await server.execute(f"SELECT count(*) FROM projkit_projects WHERE id IN ({ids})")
    assert kept == ids.count(",") + 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_standby_of_two_hosts(cluster: Cluster, standby: Cluster, mode: str, number: int) -> None:
    """After the primary was killed or stopped and the standby promoted, writes and readiness resume by themselves."""
    url = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{cluster.port}/postgres"
    async with writing(url, mode) as (client, writer):
        cluster.signal(number)
        await wait_for_readiness(client, 503)
        await promote(standby)
        took = await writer.wait_until_after(time.monotonic())
        await wait_for_readiness(client, 200)
        print(f"{signal.Signals(number).name}, {mode}: writes were back {took:.2f} s after the promotion")  # noqa: T201
        assert took < WRITES_RESUME_SECONDS
        await require_all(standby, writer)


@pytest.mark.parametrize("mode", MODES)
async def test_a_name_with_another_address(cluster: Cluster, standby: Cluster, mode: str) -> None:
    """A primary that becomes read-only is not ready; when its name leads to another, writes resume by themselves."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(cluster.port))
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        client, writer = await stack.enter_async_context(writing(url, mode))
        for statement in ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"):
            await cluster.execute(statement)
        assert "read-only" in str((await wait_for_readiness(client, 503))["detail"])
        assert (await client.get(URL)).status_code == 200
        await promote(standby)
        proxy.upstream = standby.port
        took = await writer.wait_until_after(time.monotonic())
        await wait_for_readiness(client, 200)
        print(f"{mode}: writes were back {took:.2f} s after the change")  # noqa: T201
        assert took < WRITES_RESUME_SECONDS
        await require_all(standby, writer)


async def test_a_unix_socket(cluster: Cluster) -> None:
    """A URL with the directory of a Unix socket works, whose connections need no keepalives."""
    directory = await cluster.execute("SHOW unix_socket_directories")
    url = f"postgresql://postgres@/postgres?host={directory}&port={cluster.port}"
    async with writing(url, "fast") as (_, writer):
        await require_all(cluster, writer)
