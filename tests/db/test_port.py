"""The contract of the database port, for each implementation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import sqlalchemy as sa

from projkit import Principal, Settings
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.engine import EngineDatabase
from projkit.db.port import Database, Transaction, required_row
from projkit.db.statement import Statement
from projkit.db.tables import build_tables
from projkit.errors import DatabaseConstraintError, DatabaseUnavailableError
from projkit.http.cursor import CursorCodec
from projkit.projects.schemas import ProjectInput
from projkit.projects.service import ProjectService
from projkit.projects.statements import project_statements
from projkit.request_stats import REQUEST_STATS, RequestStats
from tests.conftest import MODES, SECRET, settings_for
from tests.db.conftest import OWN_SCHEMA
from tests.host_engines import host_engine

pytestmark = pytest.mark.anyio
TABLES = build_tables("projkit_")
COUNT = Statement(sa.select(sa.func.count()).select_from(TABLES.projects))
INSERT = project_statements(TABLES).insert
INSERT_IMPORTED = project_statements(TABLES).insert_imported
ALICE = Principal("alice")
IMPLEMENTATIONS = [
    ("sqlite", "fast"),
    ("sqlite", "transactional"),
    ("postgres", "fast"),
    ("postgres", "transactional"),
    ("postgres", "psycopg"),
    ("schema", "fast"),
    ("schema", "transactional"),
    ("schema", "psycopg"),
]


@pytest.fixture(params=IMPLEMENTATIONS, ids=" ".join)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return the URL of a database, and the mode or the driver of a host's engine.

    In a schema of their own the tables are others, so that the constants of this module become theirs.
    """
    dialect, mode = request.param
    if dialect == "schema":
        tables = build_tables("projkit_", OWN_SCHEMA)
        statements = project_statements(tables)
        monkeypatch.setitem(globals(), "TABLES", tables)
        monkeypatch.setitem(globals(), "INSERT", statements.insert)
        monkeypatch.setitem(globals(), "INSERT_IMPORTED", statements.insert_imported)
        count = Statement(sa.select(sa.func.count()).select_from(tables.projects))
        monkeypatch.setitem(globals(), "COUNT", count)
    return request.getfixturevalue(f"{dialect}_url"), mode


@pytest.fixture
async def database(implementation: tuple[str, str]) -> AsyncIterator[Database]:
    """Open a database with each implementation, and through a host's engine on another driver."""
    url, mode = implementation
    limits = {"database_pool_wait_seconds": 0.3, "database_statement_seconds": 2.0}
    schema = str(TABLES.metadata.schema or "")
    async with AsyncExitStack() as stack:
        if mode in MODES:
            settings = settings_for(
                url, database_mode=mode, database_pool_size=3, database_schema=schema, **limits
            )
            engine = None
        else:
            settings = Settings(secret=SECRET, database_schema=schema, **limits)
            pool = {"pool_size": 3, "max_overflow": 0, "pool_timeout": 0.3}
            engine = await stack.enter_async_context(host_engine(url, mode, **pool))
        opened = await open_database(settings, TABLES, engine)
        stack.push_async_callback(opened.close)
        yield opened


def row(name: str = "A", **fields: Any) -> dict[str, Any]:
    """Return the parameters of an insert."""
    service = ProjectService(None, TABLES, cursors=CursorCodec(bytes(32)), clock=utc_now)  # type: ignore[arg-type]
    return service.new_row(ALICE, ProjectInput(name=name, **fields))


def imported(*names: str) -> list[dict[str, Any]]:
    """Return the parameters of an import, with a row for each name."""
    return [{**row(name), "archived_at": None} for name in names]


async def count(database: Database) -> int:
    """Count the projects."""
    (projects,) = required_row(await database.fetch_one(COUNT, {}))
    return int(projects)


async def test_reads_return_what_was_written(database: Database) -> None:
    """A read returns what was written, with the same types in each implementation."""
    written = await database.write_one(
        INSERT, row(tags=["x"], metadata={"b": 1, "a": 2}, due_date="2026-01-31")
    )
    assert written is not None
    statements = project_statements(TABLES)
    params = {"tenant_id": "", "owner_id": "alice", "id": written[0]}
    read = await database.fetch_one(statements.get, params)
    assert read is not None
    assert list(read) == list(written)
    assert [type(value).__name__ for value in read] == [type(value).__name__ for value in written]
    assert await database.fetch_one(statements.get, {**params, "owner_id": "bob"}) is None
    await database.ping()


async def test_a_failed_transaction_is_rolled_back(database: Database) -> None:
    """An error in a transaction rolls it back, and is raised unchanged."""

    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one(INSERT, row())
        await transaction.execute_many(INSERT_IMPORTED, imported("B", "C"))
        assert len(await transaction.fetch_all(COUNT, {})) == 1
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await database.transact(work)
    assert await count(database) == 0


async def test_a_committed_transaction(database: Database) -> None:
    """A transaction returns the result of its function, and commits its writes."""

    async def work(transaction: Transaction) -> str:
        await transaction.execute_many(INSERT_IMPORTED, imported("B", "C"))
        return "done"

    assert await database.transact(work) == "done"
    assert await count(database) == 2


async def test_constraints_are_named(database: Database) -> None:
    """The error for a violated unique index has its name, in autocommit and in a transaction."""
    await database.write_one(INSERT, row(external_id="E"))
    with pytest.raises(DatabaseConstraintError) as caught:
        await database.write_one(INSERT, row(external_id="E"))
    assert caught.value.constraint == TABLES.external_id_constraint
    with pytest.raises(DatabaseConstraintError) as caught:
        await database.transact(lambda transaction: transaction.fetch_one(INSERT, row(external_id="E")))
    assert caught.value.constraint == TABLES.external_id_constraint
    same = row()
    await database.write_one(INSERT, same)
    with pytest.raises(DatabaseConstraintError, match="projects"):
        await database.write_one(INSERT, same)
    assert await count(database) == 2


async def test_a_cancelled_transaction_is_rolled_back(database: Database) -> None:
    """Cancellation in a transaction rolls it back, and no connection is lost."""
    for _ in range(5):
        reached = asyncio.Event()

        async def work(transaction: Transaction, reached: asyncio.Event = reached) -> None:
            await transaction.fetch_one(INSERT, row())
            reached.set()
            await asyncio.sleep(30)

        task = asyncio.create_task(database.transact(work))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await count(database) == 0
    await asyncio.gather(*(database.write_one(INSERT, row()) for _ in range(6)))
    assert await count(database) == 6


async def test_cancelled_reads_lose_no_connection(database: Database) -> None:
    """After reads are cancelled at various times, all connections are usable."""
    if isinstance(database, EngineDatabase):  # asyncpg logs a cancelled connect under SQLAlchemy
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for delay in (0, 0, 0.0005, 0.001, 0.002):
        tasks = [asyncio.create_task(database.fetch_all(COUNT, {})) for _ in range(6)]
        await asyncio.sleep(delay)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.gather(*(count(database) for _ in range(6))) == [0] * 6


async def test_waiting_for_a_connection_is_bounded(database: Database) -> None:
    """With all connections in use, a caller fails after the wait limit, and succeeds once one is free."""
    release = asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one(INSERT, row())
        await release.wait()

    async with asyncio.timeout(10):
        holders = [asyncio.create_task(database.transact(work)) for _ in range(3)]
        await asyncio.sleep(0.1)
        if database.dialect == "sqlite":  # there is one writer; readers can go on
            assert await count(database) == 0
        with pytest.raises(DatabaseUnavailableError):
            await database.write_one(INSERT, row())
        release.set()
        await asyncio.gather(*holders, return_exceptions=True)
    assert await database.write_one(INSERT, row()) is not None


async def test_request_stats(database: Database) -> None:
    """Each statement adds its time to the statistics of the request."""
    stats = RequestStats()
    mark = REQUEST_STATS.set(stats)
    try:
        await count(database)
        await database.write_one(INSERT, row())
    finally:
        REQUEST_STATS.reset(mark)
    assert stats.statements == 2
    assert stats.database_seconds > 0
