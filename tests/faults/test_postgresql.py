"""While PostgreSQL is stopped, down or resets connections, requests get a 503 in time; the kit recovers by itself."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from projkit import ProjKit
from tests.conftest import MODES, Client, settings_for
from tests.faults.conftest import Cluster
from tests.host_engines import host_engine

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"
LIMIT = 0.5  # seconds: the limit of each wait
BOUND = 3 * LIMIT + 1.5  # pool, statement, its cancellation, a retry on a slow machine


@pytest.fixture(params=[*MODES, "psycopg"])
async def client(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Client]:
    """A client of a kit on the cluster, in each database mode, and on a host's engine with another driver."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncpg reports each lost connection
    limits = {"database_pool_wait_seconds": LIMIT, "database_statement_seconds": LIMIT}
    async with AsyncExitStack() as stack:
        if request.param in MODES:
            settings = settings_for(
                cluster.url, database_mode=request.param, database_pool_size=4, database_connect_seconds=LIMIT, **limits
            )  # fmt: skip
            kit = ProjKit(settings)
        else:
            pool = {"pool_size": 4, "max_overflow": 0, "pool_timeout": LIMIT}
            engine = await stack.enter_async_context(host_engine(cluster.url, request.param, **pool))
            kit = ProjKit(settings_for("sqlite:///unused.db", **limits), engine=engine)
        await stack.enter_async_context(kit.lifespan())
        yield await stack.enter_async_context(Client(kit, kit.settings, timeout=30))


async def wait_until_recovered(client: Client) -> float:
    """Wait until all connections work again; return the seconds that took."""
    started = time.monotonic()
    while time.monotonic() - started < 10:
        answers = await asyncio.gather(*(client.get(URL) for _ in range(12)))
        if all(answer.status_code == 200 for answer in answers):
            return time.monotonic() - started
        await asyncio.sleep(0.05)
    raise AssertionError([answer.text for answer in answers])


async def test_stopped_and_continued(client: Client, cluster: Cluster) -> None:
    """While PostgreSQL is stopped, requests get a 503 in bounded time, and liveness is 200; afterwards all succeed."""
    kept = await client.project()
    cluster.signal(signal.SIGSTOP)

    async def refused(method: str, path: str) -> float:
        started = time.monotonic()
        answer = await client.request(method, path, json={"name": "B"} if method == "POST" else None)
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"]
        assert answer.json()["code"] == "database_unavailable"
        return time.monotonic() - started

    waits = await asyncio.gather(
        *(refused("GET", f"{URL}/{kept['id']}") for _ in range(8)),
        *(refused("POST", URL) for _ in range(8)),
        *(refused("GET", f"{URL}/stats/summary") for _ in range(8)),
    )
    again = await refused("GET", URL)
    assert (await client.get("/api/v1/health/live")).status_code == 200
    cluster.signal(signal.SIGCONT)
    took = await wait_until_recovered(client)
    print(f"longest 503 {max(*waits, again):.2f} s, recovered {took:.2f} s after SIGCONT")  # noqa: T201
    assert max(*waits, again) < BOUND
    assert (await client.get(f"{URL}/{kept['id']}")).json() == kept


async def test_every_backend_terminated_under_load(client: Client, cluster: Cluster) -> None:
    """While all backends are terminated repeatedly, no acknowledged write is lost, and the worst response is a 503."""
    acknowledged: set[str] = set()
    statuses: set[int] = set()
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            made = await client.post(URL, json={"name": "A"})
            statuses.add(made.status_code)
            if made.status_code == 201:
                acknowledged.add(made.json()["id"])
            statuses.add((await client.get(f"{URL}?limit=1")).status_code)

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    for _ in range(8):
        await asyncio.sleep(0.1)
        await cluster.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    done.set()
    await asyncio.gather(*tasks)
    await wait_until_recovered(client)
    assert statuses <= {200, 201, 503}
    assert acknowledged
    for identifier in acknowledged:
        assert (await client.get(f"{URL}/{identifier}")).status_code == 200


async def test_crashed_and_started_again(client: Client, cluster: Cluster) -> None:
    """While the server is down, every request gets a 503; when it is back, the pool fills again."""
    kept = await client.project()
    await asyncio.to_thread(cluster.crash)
    for _ in range(3):
        assert (await client.get(URL)).status_code == 503
        assert (await client.post(URL, json={"name": "B"})).status_code == 503
    await asyncio.to_thread(cluster.start)
    await wait_until_recovered(client)
    assert (await client.get(f"{URL}/{kept['id']}")).json() == kept
    assert await client.project()


async def test_a_locked_row_is_waited_for_a_bounded_time(client: Client, cluster: Cluster) -> None:
    """A request for a locked row gets a 503 within the statement timeout, and loses no connection."""
    kept = await client.project()
    other = await asyncpg.connect(cluster.url)
    try:
        async with other.transaction():
            await other.execute("SELECT * FROM projkit_projects FOR UPDATE")
            answers = await asyncio.gather(
                *(client.patch(f"{URL}/{kept['id']}", json={"name": "B"}) for _ in range(3))
            )
            assert [answer.status_code for answer in answers] == [503] * 3
    finally:
        await other.close()
    assert (await client.patch(f"{URL}/{kept['id']}", json={"name": "B"})).status_code == 200
