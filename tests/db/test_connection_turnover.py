"""Connections that are replaced: at their maximum age, on a read-only server, and on one that accepts no more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy as sa

from projkit.cli.check import _run_checks
from projkit.db.connect import open_database, open_probe
from projkit.db.engine import EngineDatabase
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement
from projkit.db.tables import tables_of
from projkit.errors import DatabaseUnavailableError
from projkit.health.checks import CheckFailedError
from projkit.health.database import database_checks
from tests.conftest import MODES, SECRET, settings_for
from tests.db.test_lost_connections import opened
from tests.db.test_port import COUNT, INSERT, count, row
from tests.host_engines import host_engine
from tests.services import administer, default_of_database, postgres_server_url

pytestmark = pytest.mark.anyio
PID = Statement(sa.select(sa.func.pg_backend_pid()))
Open = Callable[..., AbstractAsyncContextManager[Database]]


@pytest.fixture(params=[*MODES, "psycopg"])
def open_mode(request: pytest.FixtureRequest) -> Open:
    """Open a database in each mode, and on a host's engine."""

    @asynccontextmanager
    async def opening(url: str, **changes: Any) -> AsyncIterator[Database]:
        async with AsyncExitStack() as stack:
            mode = request.param if request.param in MODES else "fast"
            settings = settings_for(url, database_mode=mode, database_pool_size=4, **changes)
            engine = None
            if request.param not in MODES:
                engine = await stack.enter_async_context(
                    host_engine(url, request.param, pool_size=4, max_overflow=0)
                )
            database = await open_database(settings, tables_of(settings), engine)
            yield await stack.enter_async_context(closing_database(database))

    return opening


@asynccontextmanager
async def closing_database(database: Database) -> AsyncIterator[Database]:
    """Close a database afterwards."""
    try:
        yield database
    finally:
        await database.close()


def read_only(url: str) -> AbstractAsyncContextManager[None]:
    """Let new connections to a database reject writes."""
    return default_of_database(url, "default_transaction_read_only", "on")


async def hold(database: Database, number: int, release: asyncio.Event) -> None:
    """Hold so many connections until ``release``."""
    holding = asyncio.Semaphore(0)

    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one(COUNT, {})
        holding.release()
        await release.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(database.transact(work))
        for _ in range(number):
            await holding.acquire()
        group.create_task(release.wait())


async def test_read_only_server(postgres_url: str, open_mode: Open) -> None:
    """Connections to a server that rejects a write are replaced, so the next write reaches the one that accepts it."""
    async with AsyncExitStack() as stack:
        async with read_only(postgres_url):
            database = await stack.enter_async_context(open_mode(postgres_url))
            await asyncio.gather(*(count(database) for _ in range(8)))
            for _ in range(2):
                with pytest.raises(DatabaseUnavailableError):
                    await database.write_one(INSERT, row())
                with pytest.raises(DatabaseUnavailableError):
                    await database.transact(lambda transaction: transaction.fetch_one(INSERT, row()))
        await asyncio.gather(*(database.write_one(INSERT, row()) for _ in range(8)))
        assert await count(database) == 8


async def test_busy_connections_are_replaced_too(postgres_url: str) -> None:
    """A connection that was busy when the server rejected a write is closed when it is returned."""
    async with read_only(postgres_url):
        database = opened(postgres_url)
        release = asyncio.Event()
        holding = asyncio.create_task(hold(database, 1, release))
        await asyncio.sleep(0.1)
        with pytest.raises(DatabaseUnavailableError):
            await database.write_one(INSERT, row())
    release.set()
    await holding
    await database.write_one(INSERT, row())
    await database.close()


@pytest.mark.parametrize("kind", ["ours", "host's"])
async def test_health_of_a_read_only_server(postgres_url: str, kind: str) -> None:
    """The check of the database fails on a server that rejects writes, and recovers by itself."""
    async with AsyncExitStack() as stack:
        engine = None
        if kind == "host's":
            engine = await stack.enter_async_context(host_engine(postgres_url, "asyncpg"))
        probe = open_probe(settings_for(postgres_url), engine, seconds=5.0)
        check: Any = database_checks(probe)[0].function
        async with read_only(postgres_url):
            for _ in range(2):
                with pytest.raises(CheckFailedError, match="read-only: the server rejects writes"):
                    await check()
        await check()
        await probe.close()


async def test_check_of_a_read_only_server(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reports a server that rejects writes, with the fix."""
    monkeypatch.setenv("PROJKIT_SECRET", SECRET)
    monkeypatch.setenv("PROJKIT_DATABASE_URL", postgres_url)
    async with read_only(postgres_url):
        finding = (await _run_checks())[-1]
    assert (finding.name, finding.ok) == ("database", False)
    assert "the server rejects writes" in finding.detail
    assert all(finding.ok for finding in await _run_checks())


async def backends(database: Database) -> set[int]:
    """Return the process ids of the connections, all of which are used at the same time."""
    pids: set[int] = set()
    used = asyncio.Semaphore(0)

    async def work(transaction: Transaction) -> None:
        found = await transaction.fetch_one(PID, {})
        assert found is not None
        pids.add(found[0])
        used.release()
        await asyncio.sleep(0.1)

    await asyncio.gather(*(database.transact(work) for _ in range(2)))
    return pids


async def test_maximum_age(postgres_url: str) -> None:
    """A connection that reaches its maximum age is closed, whether it is idle or busy."""
    database = opened(postgres_url, maximum_age_seconds=0.6)
    first = await backends(database)
    assert await backends(database) == first
    release = asyncio.Event()
    holding = asyncio.create_task(hold(database, 1, release))
    await asyncio.sleep(1.2)
    assert database.pool.size == 1  # the busy one
    release.set()
    await holding
    assert not first & await backends(database)
    await database.close()


async def test_maximum_age_of_an_engine(postgres_url: str) -> None:
    """The setting also applies in the transactional mode, and 0 is no limit."""
    for seconds, same in ((0.3, False), (0, True)):
        settings = settings_for(
            postgres_url, database_mode="transactional", database_connection_max_seconds=seconds
        )
        database = await open_database(settings, tables_of(settings))
        first = await backends(database)
        await asyncio.sleep(0.5)
        assert (await backends(database) == first) == same
        await database.close()


@pytest.fixture
def limited_url(postgres_url: str) -> Iterator[str]:
    """The URL of a database with a role that may have two connections."""
    parts = urlsplit(postgres_url)
    name = parts.path.lstrip("/")
    role = f"limited_{name}"

    async def create() -> None:
        await administer(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'limited' CONNECTION LIMIT 2")
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"')
        await connection.close()

    async def drop() -> None:
        await administer(
            f"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = '{role}'"
        )
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f'DROP OWNED BY "{role}"')
        await connection.close()
        await administer(f'DROP ROLE "{role}"')

    asyncio.run(create())
    yield parts._replace(netloc=f"{role}:limited@{parts.hostname}:{parts.port or 5432}").geturl()
    asyncio.run(drop())


@pytest.mark.parametrize("mode", MODES)  # psycopg gives no SQLSTATE for a connection that is rejected
async def test_full_server(limited_url: str, mode: str) -> None:
    """If the server accepts no more connections, requests wait for those that are open."""
    settings = settings_for(limited_url, database_mode=mode, database_pool_size=4)
    async with closing_database(await open_database(settings, tables_of(settings))) as database:
        await until_disconnected(limited_url)
        for _ in range(3):
            await asyncio.gather(*(database.write_one(INSERT, row()) for _ in range(12)))
        assert await count(database) == 36
        assert database.connections()["open"] <= 2


async def until_disconnected(url: str) -> None:
    """Wait until the server has ended all connections of the URL's role, which takes a moment."""
    role = urlsplit(url).username
    connection = await asyncpg.connect(postgres_server_url())
    while await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role):
        await asyncio.sleep(0.02)
    await connection.close()


async def test_full_server_and_no_connection(limited_url: str, open_mode: Open) -> None:
    """If the pool has no connection for which a request could wait, it fails at once, and later ones recover."""
    async with open_mode(limited_url) as database:
        if isinstance(
            database, EngineDatabase
        ):  # a host's pool has kept the connection of the checks at startup
            await database.engine.dispose()
        await until_disconnected(limited_url)
        others = [await asyncpg.connect(limited_url) for _ in range(2)]
        async with asyncio.timeout(3):
            with pytest.raises(DatabaseUnavailableError):
                await count(database)
        for other in others:
            await other.close()
        await until_disconnected(limited_url)
        assert await count(database) == 0


async def test_waiting_on_a_full_server_is_bounded(limited_url: str) -> None:
    """A caller waits no longer than for a full pool, and the next one gets the connection that becomes idle."""
    database = opened(limited_url, pool_size=4)
    release = asyncio.Event()
    holding = asyncio.create_task(hold(database, 2, release))
    await asyncio.sleep(0.2)
    waits = await asyncio.gather(*(count(database) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(each, DatabaseUnavailableError) for each in waits)
    waiting = [asyncio.create_task(count(database)) for _ in range(4)]
    await asyncio.sleep(0.05)
    release.set()
    assert await asyncio.gather(*waiting) == [0] * 4
    await holding
    await database.close()


async def test_slots_after_a_full_server(limited_url: str) -> None:
    """Callers that wait open further connections once the server accepts them, though none is returned."""
    database = opened(limited_url, pool_size=4, pool_wait_seconds=5.0)
    other = await asyncpg.connect(limited_url)
    release = asyncio.Event()
    holding = asyncio.create_task(hold(database, 1, release))
    await asyncio.sleep(0.2)
    waiting = asyncio.create_task(count(database))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await other.close()
    assert await waiting == 0
    release.set()
    await holding
    await database.close()
