"""Errors of PostgreSQL on each of its drivers: how they are classified, and that none repeats the values of a row."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import sqlalchemy as sa

from projkit.db.connect import open_database
from projkit.db.errors import StatementFailedError
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement
from projkit.errors import DatabaseConstraintError, DatabaseUnavailableError
from tests.conftest import MODES, Client, kit_in_mode, settings_for
from tests.db.test_port import COUNT, INSERT, TABLES, count, row
from tests.host_engines import host_engine

pytestmark = pytest.mark.anyio
CANARY = "canary-7f3a"
# Raises an error as a server does, with a value in each part of its text.
FAIL = """
    CREATE OR REPLACE FUNCTION fail(code text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'message %', code
        USING ERRCODE = code, DETAIL = 'Key (name)=(canary-7f3a)', HINT = 'canary-7f3a';
    END $$
"""
FAILING = Statement(sa.select(sa.func.fail(sa.bindparam("code", type_=sa.Text()), type_=sa.Integer())))
UNAVAILABLE = ("08006", "25006", "28000", "3D000", "53100", "53300", "55P03", "57014", "57P01", "58030")


@pytest.fixture(params=[*MODES, "psycopg"])
def mode(request: pytest.FixtureRequest) -> str:
    """Return each mode, and the driver of a host's engine."""
    return str(request.param)


@asynccontextmanager
async def opened(url: str, mode: str) -> AsyncIterator[Database]:
    """Open a database in a mode, or through a host's engine with that driver."""
    limits = {"database_connect_seconds": 2.0, "database_statement_seconds": 2.0}
    async with AsyncExitStack() as stack:
        engine = None
        if mode not in MODES:
            engine = await stack.enter_async_context(host_engine(url, mode))
        settings = settings_for(url, database_mode=mode if mode in MODES else "fast", **limits)
        database = await open_database(settings, TABLES, engine)
        stack.push_async_callback(database.close)
        yield database


async def run(url: str, *statements: str) -> None:
    """Run statements on a connection of their own."""
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def test_errors_are_classified_by_their_code(
    postgres_url: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of the server are unavailability, of constraints are conflicts, and all others are bugs without values."""
    await run(postgres_url, FAIL)
    async with opened(postgres_url, mode) as database:
        for code in UNAVAILABLE:
            with pytest.raises(DatabaseUnavailableError) as unavailable:
                await database.fetch_one(FAILING, {"code": code})
            assert unavailable.value.__cause__ is None
            assert f"message {code}" in caplog.records[-1].message
        with pytest.raises(DatabaseConstraintError, match="23514"):
            await database.fetch_one(FAILING, {"code": "23514"})
        for code in ("22001", "42501", "P0001"):
            with pytest.raises(StatementFailedError) as bug:
                await database.fetch_one(FAILING, {"code": code})
            assert (f"message {code}" in str(bug.value)) == (code == "42501")
            assert code == "42501" or code in str(bug.value)
            assert bug.value.__suppress_context__
            assert CANARY not in str(bug.value)
    assert CANARY not in caplog.text


async def test_conflicts_are_retried(postgres_url: str, mode: str) -> None:
    """A serialization failure or deadlock reruns the transaction, which fails as unavailable after three attempts."""
    await run(postgres_url, FAIL)
    async with opened(postgres_url, mode) as database:
        attempts = 0

        async def work(transaction: Transaction) -> int:
            nonlocal attempts
            attempts += 1
            await transaction.fetch_one(INSERT, row())
            if attempts < good_after:
                await transaction.fetch_one(FAILING, {"code": "40001" if attempts == 1 else "40P01"})
            return attempts

        good_after = 3
        assert await database.transact(work) == 3
        assert await count(database) == 1
        attempts, good_after = 0, 10
        with pytest.raises(DatabaseUnavailableError):
            await database.transact(work)
        assert (attempts, await count(database)) == (3, 1)


async def test_columns_that_must_not_be_null(postgres_url: str, mode: str) -> None:
    """A violated NOT NULL, which has no name of its own, is named after its column."""
    async with opened(postgres_url, mode) as database:
        with pytest.raises(DatabaseConstraintError, match="owner_id"):
            await database.write_one(INSERT, {**row(), "owner_id": None})


async def test_a_value_of_the_wrong_type(postgres_url: str, mode: str) -> None:
    """A value that the driver rejects is a bug, and the error does not repeat it."""
    async with opened(postgres_url, mode) as database:
        with pytest.raises(StatementFailedError) as caught:
            await database.write_one(INSERT, {**row(), "version": 1, "priority": CANARY})
        assert CANARY not in str(caught.value)
        assert await count(database) == 0


async def test_lost_connections(postgres_url: str, mode: str) -> None:
    """A transaction whose connection is terminated fails as unavailable, and the next ones succeed."""
    async with opened(postgres_url, mode) as database:

        async def work(transaction: Transaction) -> None:
            await transaction.fetch_one(INSERT, row())
            await run(
                postgres_url,
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            await transaction.fetch_one(COUNT, {})

        with pytest.raises(DatabaseUnavailableError):
            await database.transact(work)
        assert await count(database) == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_servers_that_accept_no_connection(
    postgres_url: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database at its connection limit, or no longer there, is unavailable, and only the log says why."""
    parts = urlsplit(postgres_url)
    name = parts.path.strip("/")
    administration = urlunsplit(parts._replace(path="/postgres"))
    async with opened(postgres_url, mode) as database:
        await run(
            administration,
            f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
            f"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        try:
            for _ in range(3):
                with pytest.raises(DatabaseUnavailableError):
                    await database.write_one(INSERT, row())
        finally:
            await run(administration, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert "not currently accepting connections" in caplog.text
        assert await count(database) == 0


async def test_read_only_databases(postgres_url: str, mode: str) -> None:
    """On a server that has become read-only, reads succeed and writes are a 503."""
    name = urlsplit(postgres_url).path.strip("/")
    await run(postgres_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        async with kit_in_mode(mode, postgres_url) as kit, Client(kit, kit.settings) as client:
            assert (await client.get("/api/v1/projects")).status_code == 200
            answer = await client.post("/api/v1/projects", json={"name": "A"})
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    finally:
        await run(
            postgres_url,
            "SET default_transaction_read_only = off",
            f'ALTER DATABASE "{name}" RESET default_transaction_read_only',
        )


async def test_values_appear_in_no_log_line(
    postgres_url: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a conflict nor an error in a host's trigger writes the row into a log line or a response."""
    caplog.set_level(logging.DEBUG, "projkit")
    trigger = """
        CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'rejected: %', NEW; END $$;
        CREATE TRIGGER reject BEFORE INSERT ON projkit_projects FOR EACH ROW
        WHEN (NEW.description <> '') EXECUTE FUNCTION reject()
    """
    await run(postgres_url, trigger)
    body: dict[str, Any] = {"name": CANARY, "external_id": CANARY}
    async with kit_in_mode(mode, postgres_url) as kit, Client(kit, kit.settings) as client:
        await client.project(**body)
        conflict = await client.post("/api/v1/projects", json=body)
        assert (conflict.status_code, conflict.json()["code"]) == (409, "external_id_taken")
        failed = await client.post("/api/v1/projects", json={**body, "description": CANARY})
        assert (failed.status_code, failed.json()["code"]) == (500, "internal_error")
        assert CANARY not in conflict.text + failed.text
    assert "SQLSTATE P0001" in caplog.text
    assert CANARY not in caplog.text
