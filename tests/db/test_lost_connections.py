"""The connection pool of PostgreSQL after lost connections, cancelled callers and server failures."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import sqlalchemy as sa

from projkit.db.port import Transaction
from projkit.db.postgresql import PostgresqlDatabase
from projkit.db.statement import Statement
from projkit.errors import DatabaseUnavailableError
from tests.db.test_port import COUNT, INSERT, count, row

pytestmark = pytest.mark.anyio
SLEEP = sa.select(sa.func.count(sa.func.pg_sleep(sa.literal_column("1.5"))))


def opened(url: str, **changes: float) -> PostgresqlDatabase:
    """Return a database with at most two connections and short timeouts."""
    limits = {
        "pool_size": 2,
        "connect_seconds": 2.0,
        "pool_wait_seconds": 0.3,
        "statement_seconds": 2.0,
        **changes,
    }
    return PostgresqlDatabase.open(url, **limits)  # type: ignore[arg-type]


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresqlDatabase]:
    """Open such a database."""
    database = opened(postgres_url)
    yield database
    await database.close()


async def terminate(url: str) -> None:
    """Terminate all other connections to the database."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def open_both(database: PostgresqlDatabase) -> None:
    """Open both connections."""
    await asyncio.gather(*(count(database) for _ in range(4)))


@pytest.mark.parametrize("pause", [0, 0.1])
async def test_terminated_idle_connections(
    database: PostgresqlDatabase, postgres_url: str, pause: float
) -> None:
    """A read succeeds after all idle connections were terminated, and they are removed from the pool."""
    await open_both(database)
    await terminate(postgres_url)
    await asyncio.sleep(pause)
    assert await count(database) == 0
    await open_both(database)
    assert (database.pool.checked_out, database.pool.waiting) == (0, 0)
    assert database.pool.size <= 2


async def test_a_terminated_transaction(database: PostgresqlDatabase, postgres_url: str) -> None:
    """A transaction whose connection is terminated fails as unavailable, is rolled back, and frees its slot."""

    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one(INSERT, row())
        await terminate(postgres_url)
        await transaction.fetch_one(INSERT, row())

    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError):
            await database.transact(work)
    assert await count(database) == 0


async def test_an_unreachable_server(postgres_url: str) -> None:
    """If no server listens, each call fails immediately as unavailable, and no slot is lost."""
    parts = urlsplit(postgres_url)
    closed_port = urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] + ":1"))
    database = opened(closed_port, connect_seconds=0.5)
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()
        with pytest.raises(DatabaseUnavailableError):
            await database.write_one(INSERT, row())
    assert database.pool.size == 0
    await database.close()


async def test_statement_timeout(postgres_url: str) -> None:
    """The server cancels a statement after the timeout, and its connection remains usable."""
    database = opened(postgres_url, statement_seconds=0.3)
    connection = await asyncpg.connect(postgres_url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE projkit_projects")
        with pytest.raises(DatabaseUnavailableError):
            await count(database)
    assert await count(database) == 0
    await connection.close()
    await database.close()


async def test_callers_that_are_cancelled_while_waiting(database: PostgresqlDatabase) -> None:
    """Callers that are cancelled while they wait, even just as they get a connection, lose no connection."""
    release = asyncio.Event()

    async def hold(transaction: Transaction) -> None:
        await transaction.fetch_one(COUNT, {})
        await release.wait()

    holders = [asyncio.create_task(database.transact(hold)) for _ in range(2)]
    await asyncio.sleep(0.1)
    waiting = [asyncio.create_task(count(database)) for _ in range(4)]
    await asyncio.sleep(0.01)
    assert database.pool.waiting == 4
    waiting[0].cancel()
    release.set()
    await asyncio.gather(*holders)
    waiting[1].cancel()
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    assert await asyncio.gather(*waiting[2:]) == [0, 0]
    await open_both(database)
    assert (database.pool.checked_out, database.pool.waiting) == (0, 0)


async def test_a_closed_pool(postgres_url: str) -> None:
    """Closing the pool ends running commands, and fails waiting and later callers."""
    database = opened(postgres_url, pool_size=1, pool_wait_seconds=5.0)
    started = asyncio.Event()

    async def hold(transaction: Transaction) -> None:
        started.set()
        await transaction.fetch_one(Statement(SLEEP), {})

    holder = asyncio.create_task(database.transact(hold))
    await started.wait()
    waiting = asyncio.create_task(count(database))
    await asyncio.sleep(0.05)
    await database.close()
    for task in (holder, waiting):
        with pytest.raises(DatabaseUnavailableError):
            await task
    with pytest.raises(DatabaseUnavailableError, match="shut down"):
        await count(database)
    assert database.pool.checked_out == 0
