"""`projkit purge`: removes what has expired, and nothing else."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from projkit import Principal, ProjKit
from projkit.auth.attempt_counter import DatabaseAttemptCounter
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.sessions.port import Session
from projkit.cli import purge
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.port import Database
from projkit.db.statement import Statement
from projkit.db.tables import Tables, tables_of
from tests.cli.conftest import Run
from tests.conftest import SECRET, settings_for

NOW = utc_now()
HOUR = timedelta(hours=1)


def session(number: int, *, idle: timedelta, ends: timedelta) -> Session:
    """Create a session that expires after the given time."""
    return Session(
        tenant_id="", id_hash=f"{number}", seed="", subject="alice", scopes=(), transport="body", user_agent="",
        address="", refresh_hash="", parent_hash=None, generation=0, rotated_at=NOW, created_at=NOW, used_at=NOW,
        idle_expires_at=NOW + idle, expires_at=NOW + ends,
    )  # fmt: skip


async def fill(database: Database, tables: Tables) -> None:
    """Add an expired and a current session, one-time value and counter."""
    store = DatabaseSessions(database, tables)
    lasting = session(1, idle=HOUR, ends=2 * HOUR)
    for each in (
        lasting,
        replace(lasting, id_hash="2", idle_expires_at=NOW - HOUR),
        session(3, idle=-HOUR, ends=-HOUR),
    ):
        await store.create(each)
    await store.consume("over", NOW - 2 * HOUR, NOW - HOUR)
    await store.consume("lasting", NOW, NOW + HOUR)

    def clock_at(moment: datetime) -> Callable[[], datetime]:
        return lambda: moment

    await DatabaseAttemptCounter(database, tables, clock=clock_at(NOW)).add("lasting", 1, 3600)
    await DatabaseAttemptCounter(database, tables, clock=clock_at(NOW - 2 * HOUR)).add("over", 1, 3600)


def rows(url: str, work: Callable[[Database, Tables], Any]) -> Any:
    """Run ``work`` on a database and return its result."""

    async def run() -> Any:
        settings = settings_for(url)
        tables = tables_of(settings)
        database = await open_database(settings, tables)
        try:
            return await work(database, tables)
        finally:
            await database.close()

    return asyncio.run(run())


async def numbers(database: Database, tables: Tables) -> tuple[int, ...]:
    """Count the sessions, one-time values and counters."""
    found = []
    for table in (tables.sessions, tables.one_time_values, tables.counts):
        row = await database.fetch_one(Statement(sa.select(sa.func.count()).select_from(table)), {})
        found.append(0 if row is None else row[0])
    return tuple(found)


def test_purge(run: Run, any_database_url: str) -> None:
    """Projects that were deleted long enough ago and expired sessions, one-time values and counters are removed."""

    async def projects() -> None:
        kit = ProjKit(settings_for(any_database_url))
        async with kit.lifespan():
            alice = Principal("alice")
            await kit.projects.create(alice, name="kept")
            await kit.projects.delete(alice, (await kit.projects.create(alice, name="gone")).id)

    asyncio.run(projects())
    rows(any_database_url, fill)
    before = rows(any_database_url, numbers)
    variables = {"PROJKIT_DATABASE_URL": any_database_url, "PROJKIT_SECRET": SECRET}
    said = run("purge", "--deleted-before", "1d", **variables).stderr
    assert said.startswith("removed 0 deleted projects; expired: 0 idempotency keys, ")
    after = rows(any_database_url, numbers)
    assert after == (1, 1, 1)
    removed = [old - new for old, new in zip(before, after, strict=True)]
    assert said.rstrip().endswith(f"{removed[0]} sessions, {removed[1]} one time values, {removed[2]} counts")
    assert sum(removed) >= 3
    asyncio.run(asyncio.sleep(1.1))
    assert "removed 1 deleted projects" in run("purge", "--deleted-before", "1s", **variables).stderr
    assert "removed 0 deleted projects" in run("purge", "--deleted-before", "1s", **variables).stderr


def test_purge_goes_by_batches(run: Run, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement removes more rows than a batch."""
    monkeypatch.setattr(purge, "BATCH_ROWS", 2)

    async def many(database: Database, tables: Tables) -> None:
        store = DatabaseSessions(database, tables)
        for number in range(5):
            await store.consume(f"over {number}", NOW - 2 * HOUR, NOW - HOUR)

    rows(sqlite_url, many)
    said = run(
        "purge", "--deleted-before", "1d", PROJKIT_DATABASE_URL=sqlite_url, PROJKIT_SECRET=SECRET
    ).stderr
    assert "5 one time values" in said


def test_wrong_use(run: Run) -> None:
    """An invalid age is a usage error."""
    run("purge", "--deleted-before", "soon", expect=2)
    run("purge", expect=2)
