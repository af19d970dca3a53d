"""The cleanup: what it removes, when, in what amounts, and what it reads."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa

from projkit import Principal, ProjKit, cleanup
from projkit.cleanup import Cleanup
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.expiry import expiring_rows
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement, bind
from projkit.db.tables import tables_of
from projkit.errors import DatabaseUnavailableError
from projkit.observers import Observer
from projkit.testing.internals import Internals
from tests.conftest import kit_in_mode, settings_for

pytestmark = pytest.mark.anyio

TABLES = tables_of(settings_for("sqlite:///unused.db"))
DAY = timedelta(days=1)
KINDS = expiring_rows(TABLES, keep_deleted=30 * DAY)


class Recorded(Observer):
    """What a cleanup has recorded, by kind."""

    def __init__(self) -> None:
        self.removed: dict[str, list[int]] = {}
        self.backlog: dict[str, list[float]] = {}

    def record_cleanup(self, kind: str, rows: int) -> None:
        """Record the number of rows of a batch."""
        self.removed.setdefault(kind, []).append(rows)

    def record_cleanup_backlog(self, kind: str, seconds: float) -> None:
        """Record the age of the oldest row."""
        self.backlog.setdefault(kind, []).append(seconds)


class Minutes:
    """The clock of a cleanup, for which each run is in another period."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def advance(self) -> None:
        """Begin another period."""
        self.now += timedelta(seconds=cleanup.PERIOD_SECONDS)


@pytest.fixture
def clock() -> Minutes:
    """The clock of all workers."""
    return Minutes()


@pytest.fixture
async def database(any_database_url: str, any_database_mode: str) -> AsyncIterator[Database]:
    """Each database in each mode."""
    settings = settings_for(any_database_url, database_mode=any_database_mode)
    opened = await open_database(settings, TABLES)
    yield opened
    await opened.close()


_numbers: Iterator[int] = count()


async def add(database: Database, table: sa.Table, **values: Any) -> None:
    """Add a row with unique keys and texts."""
    number = f"{next(_numbers):032x}"
    defaults = {
        "tenant_id": "",
        "status": "active",
        "priority": 0,
        "tags": "[]",
        "metadata": "{}",
        "version": 1,
    }
    row: dict[str, Any] = {}
    for column in table.c:
        if isinstance(column.type, sa.Integer | sa.SmallInteger):
            row[column.name] = 0
        elif isinstance(column.type, sa.Uuid):
            row[column.name] = UUID(number)
        elif not column.nullable:
            row[column.name] = utc_now() + 400 * DAY if column.name.endswith("_at") else number
    row |= {name: value for name, value in defaults.items() if name in table.c} | values
    statement = sa.insert(table).values({name: bind(table.c[name]) for name in row})
    await database.write_one(Statement(statement), row)


async def times(database: Database, column: sa.Column[datetime]) -> list[datetime | None]:
    """Return the stored times of a column, in order."""
    rows = await database.fetch_all(Statement(sa.select(column).order_by(column)), {})
    return [row[0] for row in rows]


async def test_what_is_due_is_removed(database: Database, clock: Minutes) -> None:
    """Of each kind the rows that are due are removed, and no other; the backlog is recorded before and after."""
    recorded = Recorded()
    worker = Cleanup(database, TABLES, KINDS, clock=clock, observer=recorded)
    for each in KINDS:
        due = clock() - each.retention
        for time in (due - timedelta(hours=2), due, due + timedelta(seconds=1)):
            await add(database, each.table, **{each.column.name: time})
    await worker.run()
    for each in KINDS:
        left = [
            time for time in await times(database, each.column) if time != clock() + 2 * timedelta(minutes=1)
        ]
        assert left == [clock() - each.retention + timedelta(seconds=1)], each.kind
        assert recorded.removed[each.kind] == [2]
        assert recorded.backlog[each.kind] == [7200.0, 0.0]


async def test_one_worker_per_period(database: Database, clock: Minutes) -> None:
    """Of two workers, one removes what is due in a period; the other does in a later one; none if nothing is due."""
    column = TABLES.counts.c.expires_at
    one, other = Recorded(), Recorded()
    workers = [Cleanup(database, TABLES, KINDS, clock=clock, observer=each) for each in (one, other)]
    await workers[0].run()
    assert one.removed == {}
    for first, second in ((0, 1), (1, 0)):
        await add(database, TABLES.counts, expires_at=clock() - DAY)
        await workers[first].run()
        await add(database, TABLES.counts, expires_at=clock() - DAY)
        await workers[second].run()
        assert await times(database, column) == [clock() - DAY]
        clock.advance()
    await asyncio.gather(*(worker.run() for worker in workers))
    assert await times(database, column) == []
    removed = [sum(each.removed.get("counts", [])) for each in (one, other)]
    assert sum(removed) == 4
    clock.now += 10 * DAY
    await workers[0].run()
    clock.advance()
    await workers[0].run()
    assert (
        len(await times(database, TABLES.one_time_values.c.expires_at)) == 1
    )  # the claim of the last period


async def test_batches_are_bounded(database: Database, clock: Minutes) -> None:
    """No transaction removes more rows than a batch, also of the same time; all are removed by the end."""
    recorded = Recorded()
    worker = Cleanup(database, TABLES, KINDS, clock=clock, observer=recorded, batch_rows=2)
    for hours in (1, 1, 1, 2, 3):
        await add(database, TABLES.counts, expires_at=clock() - timedelta(hours=hours))
    await worker.run()
    assert recorded.removed["counts"] == [2, 2, 1]
    assert recorded.backlog["counts"] == [10800.0, 0.0]
    for _ in range(4):
        await add(database, TABLES.counts, expires_at=clock() - DAY)
    assert (await worker.remove_all())["counts"] == 4


async def test_a_round_ends_with_its_period(
    database: Database, clock: Minutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot remove everything in time stops, and the backlog shows it."""
    recorded = Recorded()
    worker = Cleanup(database, TABLES, KINDS, clock=clock, observer=recorded, batch_rows=1)
    for _ in range(3):
        await add(database, TABLES.counts, expires_at=clock() - DAY)
    monkeypatch.setattr(cleanup, "PERIOD_SECONDS", 0.000_001)
    monkeypatch.setattr(Cleanup, "_acquire", acquired)
    await worker.run()
    assert len(await times(database, TABLES.counts.c.expires_at)) >= 2
    assert recorded.backlog["counts"] == [86400.0, 86400.0]


async def acquired(_: Cleanup) -> bool:
    """Claim any period."""
    return True


async def test_locked_rows_are_skipped(postgres_url: str, clock: Minutes) -> None:
    """A row that another transaction has locked delays nothing, and is removed later."""
    database = await open_database(settings_for(postgres_url), TABLES)
    for hours in (1, 2, 3):
        await add(database, TABLES.counts, expires_at=clock() - timedelta(hours=hours))
    connection = await asyncpg.connect(postgres_url)
    worker = Cleanup(database, TABLES, KINDS, clock=clock)
    async with connection.transaction():
        await connection.fetch(
            "SELECT 1 FROM projkit_counts WHERE expires_at < $1 FOR UPDATE", clock() - timedelta(hours=2.5)
        )
        await asyncio.wait_for(worker.run(), 5)
        assert await times(database, TABLES.counts.c.expires_at) == [clock() - timedelta(hours=3)]
    clock.advance()
    await worker.run()
    assert await times(database, TABLES.counts.c.expires_at) == []
    await connection.close()
    await database.close()


@pytest.mark.parametrize("kind", [each.kind for each in KINDS])
async def test_a_batch_reads_no_more_than_it_removes(postgres_url: str, clock: Minutes, kind: str) -> None:
    """Among 40,000 rows that are not due, a batch and the measurement read only rows that are, by an index."""
    [rows] = [each for each in KINDS if each.kind == kind]
    database = await open_database(settings_for(postgres_url), TABLES)
    due = clock() - rows.retention
    for time in (due - DAY, due + DAY):
        await add(database, rows.table, **{rows.column.name: time})
    connection = await asyncpg.connect(postgres_url)
    key = ["id" if "id" in rows.table.c else rows.table.primary_key.columns.keys()[-1]]
    columns = ", ".join(name for name in rows.table.c.keys() if name not in key)  # noqa: SIM118 - of columns
    new = "gen_random_uuid()" if key == ["id"] else "gen_random_uuid()::text"
    await connection.execute(
        f"INSERT INTO {rows.table.name} ({key[0]}, {columns}) SELECT {new}, {columns} "
        f"FROM {rows.table.name}, generate_series(1, CASE WHEN {rows.column.name} > $1 THEN 40000 ELSE 1000 END)",
        due,
    )
    await connection.execute(f"ANALYZE {rows.table.name}")
    compiled = rows.delete(50).for_postgresql()
    arguments = compiled.arguments({"after": due - DAY, "before": due})
    oldest = Statement(sa.select(rows.oldest())).for_postgresql()
    assert read_by(await explain(connection, compiled.sql, *arguments)) <= 2 * 50  # found, then deleted
    assert read_by(await explain(connection, oldest.sql)) <= 1
    await connection.close()
    await database.close()


async def explain(connection: Any, sql: str, *arguments: Any) -> dict[str, Any]:
    """Run a statement and return its plan."""
    content = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *arguments)
    plan: dict[str, Any] = json.loads(content)[0]["Plan"]
    return plan


def read_by(plan: dict[str, Any]) -> int:
    """Return the number of rows that the scans of a plan have read."""
    below = sum(read_by(each) for each in plan.get("Plans", []))
    if "Scan" not in plan["Node Type"] or plan["Node Type"] == "Subquery Scan":
        return below
    assert plan["Node Type"] != "Seq Scan", plan
    return below + int(plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)))


@asynccontextmanager
async def running(url: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> AsyncIterator[ProjKit]:
    """A kit whose cleanup runs every few milliseconds, each time in another period."""
    monkeypatch.setattr(cleanup, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(Cleanup, "_acquire", acquired)
    async with kit_in_mode("fast", url, **changes) as kit:
        yield kit


async def deleted_project(kit: ProjKit) -> None:
    """Add a deleted project."""
    alice = Principal("alice")
    await kit.projects.delete(alice, (await kit.projects.create(alice, name="gone")).id)


async def wait_until_gone(database: Database, column: sa.Column[datetime]) -> None:
    """Wait until a table has no rows."""
    async with asyncio.timeout(10):
        while await times(database, column):
            await asyncio.sleep(0.01)


async def test_a_kit_cleans_up_by_itself(any_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running kit removes what is due, but deleted projects only after their time, if at all."""
    deleted_at = TABLES.projects.c.deleted_at
    for seconds, remain in ((0, 1), (3600, 1), (1, 0)):
        async with running(any_database_url, monkeypatch, deleted_projects_seconds=seconds) as kit:
            database = Internals(kit).running.database
            if not seconds:
                await deleted_project(kit)
            await add(database, TABLES.counts, expires_at=utc_now() - DAY)
            await wait_until_gone(database, TABLES.counts.c.expires_at)
            assert len(await times(database, deleted_at)) == 1
            if not remain:
                await wait_until_gone(database, deleted_at)


async def test_disabled(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CLEANUP=false, nothing is removed."""
    async with running(sqlite_url, monkeypatch, cleanup=False) as kit:
        database = Internals(kit).running.database
        await add(database, TABLES.counts, expires_at=utc_now() - DAY)
        await asyncio.sleep(0.1)
        assert len(await times(database, TABLES.counts.c.expires_at)) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DatabaseUnavailableError(), "the cleanup was interrupted"),
        (RuntimeError("a bug"), "the cleanup failed"),
    ],
)
async def test_it_continues_after_errors(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    line: str,
) -> None:
    """An error ends one run, is logged, and later runs remove what is due."""
    errors = [error, error]
    run = Cleanup.run

    async def failing(self: Cleanup) -> None:
        if errors:
            raise errors.pop()
        await run(self)

    monkeypatch.setattr(Cleanup, "run", failing)
    async with running(sqlite_url, monkeypatch) as kit:
        database = Internals(kit).running.database
        await add(database, TABLES.counts, expires_at=utc_now() - DAY)
        await wait_until_gone(database, TABLES.counts.c.expires_at)
    messages = [each.getMessage() for each in caplog.records if each.name == "projkit.cleanup"]
    assert [each.startswith(line) for each in messages] == [True, True]


async def test_a_stop_rolls_back(any_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kit that stops during a batch stops at once, and the batch leaves no trace."""
    started = asyncio.Event()

    async def endless(_: Cleanup, transaction: Transaction) -> None:
        started.set()
        await asyncio.Event().wait()

    async with running(any_database_url, monkeypatch) as kit:
        database = Internals(kit).running.database
        await add(database, TABLES.counts, expires_at=utc_now() + timedelta(hours=1))
        monkeypatch.setattr(Cleanup, "_allow", endless)
        await asyncio.wait_for(started.wait(), 10)
        await asyncio.wait_for(kit.shutdown(), 5)
