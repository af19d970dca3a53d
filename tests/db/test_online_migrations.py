"""Migrations of a PostgreSQL database in use: one at a time, step by step, resumed after an interruption."""

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter
from types import SimpleNamespace

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import op

from projkit import ProjKit
from projkit.db import migrate, migration_lock, revisions, row_security, step_runner
from projkit.db.migrations import modules
from projkit.db.migrations.steps import (
    Backfill,
    CreateIndex,
    DropIndex,
    Step,
    Transaction,
    add_check,
    replace_index,
)
from projkit.db.table_names import TableNames
from projkit.errors import MigrationFailedError
from tests.conftest import Client, settings_for
from tests.db.conftest import RlsDatabase, current_revision
from tests.services import open_sqlite, shape

pytestmark = pytest.mark.anyio
TABLE = "projkit_projects"
INDEX = f"ix_{TABLE}_created_at"
DEFINITIONS = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
PROJECT = (
    "INSERT INTO projkit_projects (owner_id, id, created_by, name, search_text, status, priority, created_at, "
    "updated_at) VALUES ('a', gen_random_uuid(), 'x', 'x', 'x', 'active', 1, now(), now())"
)
# An index whose rows take time, or fail: the expression calls the function for each row.
SLOW = CreateIndex("ix_slow", TABLE, ("(slow(name))",), dialect="postgresql")
FUNCTION = (
    "CREATE FUNCTION slow(value text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS "
    "$$ BEGIN {} RETURN value; END $$"
)


class Recorder:
    """A receiver of progress that keeps what it is told."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.reasons: list[str] = []
        self.amounts: list[tuple[int, int]] = []

    def begin(self, title: str) -> None:
        """Keep the title."""
        self.titles.append(title)

    def advance(self, done: int, total: int) -> None:
        """Keep the numbers."""
        self.amounts.append((done, total))

    def wait(self, reason: str) -> None:
        """Keep the reason."""
        self.reasons.append(reason)


async def upgrade(url: str, revision: str = "head", progress: Recorder | None = None) -> str:
    """Run the migrations."""
    return await migrate.upgrade(settings_for(url).database_url, revision=revision, progress=progress)


async def fetch(url: str, sql: str) -> list[asyncpg.Record]:
    """Return the rows of a query on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def index_state(url: str, name: str) -> list[tuple[int, bool]]:
    """Return the identity of an index, and whether it is valid; nothing if it does not exist."""
    sql = f"SELECT indexrelid::int, indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')"
    return [tuple(row) for row in await fetch(url, sql)]


def use_steps(monkeypatch: pytest.MonkeyPatch, *steps: Step, **attributes: str) -> None:
    """Let these steps lead to a revision 9000 after the newest one."""
    module_of, known = modules.module_of, [each for each in revisions.known() if each != "9000"]
    module = SimpleNamespace(steps=lambda prefix: list(steps), **attributes)
    monkeypatch.setattr(revisions, "known", lambda: (*known, "9000"))
    monkeypatch.setattr(
        modules, "module_of", lambda revision: module if revision == "9000" else module_of(revision)
    )


async def prepare_index(
    url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """Let the newest revision create an index that calls a function with this body for the one row."""
    use_steps(monkeypatch, SLOW)
    await upgrade(url, revisions.known()[-2])
    await connection.execute(PROJECT)
    await connection.execute(FUNCTION.format(body))


@pytest.fixture
async def holder(empty_postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the database as a session that holds locks."""
    connection = await asyncpg.connect(
        empty_postgres_url, server_settings={"application_name": "nightly report"}
    )
    yield connection
    await connection.close()


async def test_the_result_is_that_of_a_new_database(empty_postgres_url: str, postgres_url: str) -> None:
    """A database that is migrated while it is in use gets the same tables and indexes as a new one."""
    for revision in ("0001", "0002", "0003", "head"):
        await upgrade(empty_postgres_url, revision)
    assert await fetch(empty_postgres_url, DEFINITIONS) == await fetch(postgres_url, DEFINITIONS)
    assert await shape(empty_postgres_url) == await shape(postgres_url)


async def test_a_step_that_is_blocked(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step gives up before others wait for a second, names who is in the way, and the next run continues with it."""
    monkeypatch.setattr(step_runner, "LOCK_ATTEMPTS_SECONDS", 2.0)
    await upgrade(empty_postgres_url, "0003")
    await fetch(empty_postgres_url, PROJECT)
    progress = Recorder()
    async with holder.transaction():
        await holder.execute(f"LOCK TABLE {TABLE} IN ACCESS SHARE MODE")
        failing = asyncio.create_task(upgrade(empty_postgres_url, "0004", progress=progress))
        longest = 0.0
        while not failing.done():
            started = perf_counter()
            await fetch(empty_postgres_url, f"SELECT count(*) FROM {TABLE}")
            await fetch(empty_postgres_url, PROJECT)
            longest = max(longest, perf_counter() - started)
        with pytest.raises(MigrationFailedError, match=r"nightly report, for \d+ s"):
            await failing
    assert longest < 1
    assert any("in use" in reason for reason in progress.reasons)
    ((built, valid),) = await index_state(empty_postgres_url, f"{INDEX}_new")
    assert valid
    assert await current_revision(empty_postgres_url) == "0003"
    progress = Recorder()
    assert await upgrade(empty_postgres_url, "0004", progress=progress) == "0004"
    assert f"create the index {INDEX}_new" not in progress.titles
    assert await index_state(empty_postgres_url, INDEX) == [(built, True)]


async def test_an_invalid_index(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that an interrupted run has left behind is dropped, and built anew."""
    await prepare_index(empty_postgres_url, holder, monkeypatch, "PERFORM pg_sleep(60);")
    interrupted = asyncio.create_task(upgrade(empty_postgres_url))
    while not (state := await index_state(empty_postgres_url, SLOW.name)):
        await asyncio.sleep(0.05)
    interrupted.cancel()
    await asyncio.gather(interrupted, return_exceptions=True)
    assert await index_state(empty_postgres_url, SLOW.name) == state
    assert not state[0][1]
    await holder.execute(FUNCTION.replace("CREATE", "CREATE OR REPLACE", 1).format(""))
    assert await upgrade(empty_postgres_url) == "9000"
    ((rebuilt, valid),) = await index_state(empty_postgres_url, SLOW.name)
    assert valid
    assert rebuilt != state[0][0]


@pytest.mark.parametrize(("code", "succeeds"), [("40P01", True), ("22012", False)])
async def test_an_index_that_fails(
    empty_postgres_url: str,
    holder: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    succeeds: bool,
) -> None:
    """Building an index is repeated after a deadlock; after any other error, nothing is left behind."""
    await holder.execute("CREATE SEQUENCE calls")
    body = f"IF nextval('public.calls') = 1 THEN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END IF;"
    await prepare_index(empty_postgres_url, holder, monkeypatch, body)
    if succeeds:
        progress = Recorder()
        assert await upgrade(empty_postgres_url, progress=progress) == "9000"
        assert progress.reasons == [f"{SLOW.title}: deadlock; trying again"]
    else:
        with pytest.raises(asyncpg.PostgresError, match="x"):
            await upgrade(empty_postgres_url)
        assert await index_state(empty_postgres_url, SLOW.name) == []


async def test_time_limits_of_the_role(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limits of a database for statements and idle transactions do not end a migration."""
    await prepare_index(empty_postgres_url, holder, monkeypatch, "PERFORM pg_sleep(3);")
    name = empty_postgres_url.rpartition("/")[2]
    for setting, value in (
        ("statement_timeout", "'2s'"),
        ("lock_timeout", "'2s'"),
        ("idle_in_transaction_session_timeout", "'500ms'"),
        ("default_transaction_isolation", "'repeatable read'"),
    ):
        await holder.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    assert await upgrade(empty_postgres_url) == "9000"


async def test_a_lost_lock(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration stops if it loses its lock, since another one could have begun."""
    await prepare_index(empty_postgres_url, holder, monkeypatch, "PERFORM pg_sleep(60);")
    losing = asyncio.create_task(upgrade(empty_postgres_url))
    while not await index_state(empty_postgres_url, SLOW.name):
        await asyncio.sleep(0.05)
    await holder.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with asyncio.timeout(20):
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await losing
    statements = "SELECT pid FROM pg_stat_activity WHERE query ~ '^CREATE INDEX' AND state = 'active'"
    async with asyncio.timeout(20):  # the server ends the statement
        while await fetch(empty_postgres_url, f"{statements} AND datname = current_database()"):
            await asyncio.sleep(0.1)


async def test_others_wait(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second migration waits for the first without delaying it, which reports its progress meanwhile."""
    monkeypatch.setattr(migration_lock, "HEARTBEAT_SECONDS", 0.0)  # the index must not wait for any of these
    await prepare_index(empty_postgres_url, holder, monkeypatch, "PERFORM pg_sleep(3);")
    both = [Recorder(), Recorder()]
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*(upgrade(empty_postgres_url, progress=each) for each in both))
    assert ends == ["9000", "9000"]
    first, second = sorted(both, key=lambda each: len(each.reasons))
    assert first.titles == [SLOW.title]
    assert (1, 1) in first.amounts
    assert second.titles == []
    assert set(second.reasons) == {"another migration is running on this database"}


async def test_the_lock_has_no_snapshot(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock's transaction never has a snapshot while an index is built, which would have to wait for its end."""
    monkeypatch.setattr(migration_lock, "HEARTBEAT_SECONDS", 0.0)
    await prepare_index(empty_postgres_url, holder, monkeypatch, "PERFORM pg_sleep(2);")
    migrating = asyncio.create_task(upgrade(empty_postgres_url))
    while not await index_state(empty_postgres_url, SLOW.name):
        await asyncio.sleep(0.05)
    (pid,) = await holder.fetchrow(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    snapshots = []
    while not migrating.done():
        snapshots += await holder.fetch(
            "SELECT backend_xmin FROM pg_stat_activity WHERE pid = $1 AND backend_xmin IS NOT NULL", pid
        )
        await asyncio.sleep(0)
    assert await migrating == "9000"
    assert snapshots == []


async def test_conditions(
    empty_postgres_url: str, empty_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps for another database, and those whose condition is not met, are left out; the others are all run."""

    def add_column() -> None:
        op.add_column(TABLE, sa.Column("added", sa.Text()))

    index = CreateIndex(
        "ix_added", TABLE, ("added",), where="added > ''", unique=True, using="btree", parameters="fillfactor = 90",
        condition="SELECT current_setting('server_version_num')::int > 90000", dialect="postgresql",
    )  # fmt: skip
    use_steps(
        monkeypatch,
        Transaction("add a column", add_column, (TABLE,)),
        index,
        CreateIndex("ix_never", TABLE, ("added",), condition="SELECT false", dialect="postgresql"),
        CreateIndex("ix_on_sqlite", TABLE, ("added",), where="added > ''", dialect="sqlite"),
        DropIndex(f"ix_{TABLE}_priority"),
    )
    await upgrade(empty_sqlite_url, "0004")
    assert await upgrade(empty_sqlite_url, "9000") == "9000"
    engine = sa.create_engine(empty_sqlite_url)
    names = {str(each["name"]) for each in sa.inspect(engine).get_indexes(TABLE)}
    engine.dispose()
    assert "ix_on_sqlite" in names
    assert not names & {"ix_added", "ix_never", f"ix_{TABLE}_priority"}
    for first in ("0004", "9000"):  # with rows, and new
        await upgrade(empty_postgres_url, first)
        assert await upgrade(empty_postgres_url, "9000") == "9000"
        definitions = "\n".join(row[0] for row in await fetch(empty_postgres_url, DEFINITIONS))
        assert (
            "CREATE UNIQUE INDEX ix_added ON public.projkit_projects USING btree (added) WITH (fillfactor='90')"
            in definitions
        )
        assert "ix_never" not in definitions
        assert f"ix_{TABLE}_priority" not in definitions
        tables = await fetch(
            empty_postgres_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        await fetch(empty_postgres_url, f"DROP TABLE {', '.join(row[0] for row in tables)}")


async def test_a_step_that_takes_too_long(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that would lock a table for more than a second is rolled back, and the migration fails."""
    monkeypatch.setattr(step_runner, "LOCK_ATTEMPTS_SECONDS", 2.0)

    def lock() -> None:
        op.execute(f"LOCK TABLE {TABLE}")
        op.execute("SELECT pg_sleep(60)")

    use_steps(monkeypatch, Transaction("lock the table", lock, (TABLE,)))
    await upgrade(empty_postgres_url, revisions.known()[-2])
    migrating = asyncio.create_task(upgrade(empty_postgres_url))
    longest = 0.0
    while not migrating.done():
        started = perf_counter()
        await fetch(empty_postgres_url, f"SELECT count(*) FROM {TABLE}")
        longest = max(longest, perf_counter() - started)
    with pytest.raises(MigrationFailedError, match=r"lock the table: no lock for 2 s.*; end"):
        await migrating
    assert longest < 1.2  # of which connecting takes a part


def test_replacing_an_index_on_another_database() -> None:
    """Both steps that replace an index run where the index exists."""
    steps = replace_index(CreateIndex("ix", TABLE, ("name",), dialect="postgresql", condition="SELECT true"))
    assert {(step.dialect, step.condition) for step in steps} == {("postgresql", "SELECT true")}


BACKFILL = Backfill(TABLE, ("tenant_id", "id"), "description = 'filled by ' || id", "description = ''")
MANY = """
    INSERT INTO projkit_projects
        (tenant_id, owner_id, id, created_by, name, search_text, status, priority, created_at, updated_at)
    SELECT (ARRAY['', 'O''Brien', 'a\\b'])[n % 3 + 1], 'owner', gen_random_uuid(), 'x', 'x', 'x', 'active', 1,
        now(), now()
    FROM generate_series(1, 3000) n
"""
REMAINING = f"SELECT count(*) FROM {TABLE} WHERE description = ''"
POLICIES = (
    "SELECT pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy ORDER BY 1"
)


async def test_a_backfill_behind_policies(rls_database: RlsDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backfill changes the rows of all owners, continues after an interruption, and shows them to nobody else."""
    monkeypatch.setattr(step_runner, "_MOST_BATCH_ROWS", 100)
    monkeypatch.setattr(step_runner, "_FIRST_BATCH_ROWS", 100)
    use_steps(monkeypatch, BACKFILL)
    await rls_database.admin(MANY)
    policies = await fetch(rls_database.admin_url, POLICIES)
    interrupted = asyncio.create_task(rls_database.migrate(row_level_security=True))
    connection = await asyncpg.connect(rls_database.url)
    while (await fetch(rls_database.admin_url, REMAINING))[0][0] > 2500:
        assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 0
    interrupted.cancel()
    await asyncio.gather(interrupted, return_exceptions=True)
    ((remaining,),) = await fetch(rls_database.admin_url, REMAINING)
    assert 0 < remaining <= 2500
    assert await fetch(rls_database.admin_url, POLICIES) != policies
    ((read,),) = await fetch(
        rls_database.admin_url, "SELECT progress::json ->> 'rows' FROM projkit_alembic_version"
    )
    assert int(read) == 3000 - remaining
    progress = Recorder()
    url = settings_for(rls_database.url).database_url
    await migrate.upgrade(url, row_level_security=True, progress=progress)
    assert progress.amounts[0][0] <= int(read) + 100
    assert progress.amounts[-1][0] == 3000
    assert await fetch(rls_database.admin_url, REMAINING) == [(0,)]
    assert await fetch(rls_database.admin_url, POLICIES) == policies
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 0
    await connection.close()
    kit = ProjKit(rls_database.settings())
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        await client.project()


async def test_policies_that_an_interrupted_backfill_has_left(
    rls_database: RlsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers start while a backfill is under way, and each migration restores policies that one has left open."""
    policies = await fetch(rls_database.admin_url, POLICIES)
    async with (
        migrate.single_use(settings_for(rls_database.url).database_url) as engine,
        engine.begin() as connection,
    ):
        await row_security.open_to_migrations(connection, TableNames(), opened=True)
    assert await fetch(rls_database.admin_url, POLICIES) != policies
    kit = ProjKit(rls_database.settings())
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        await client.project()
    await rls_database.migrate(row_level_security=True)
    assert await fetch(rls_database.admin_url, POLICIES) == policies


async def test_a_backfill_of_rows_in_use(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch gives up when another transaction has changed one of its rows, and is tried again with fewer rows."""
    use_steps(monkeypatch, BACKFILL)
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(MANY)
    progress = Recorder()
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(
        f"UPDATE {TABLE} SET name = 'y' WHERE (tenant_id, id) = (SELECT tenant_id, id FROM {TABLE} "
        "ORDER BY tenant_id DESC, id DESC LIMIT 1)"
    )
    filling = asyncio.create_task(upgrade(empty_postgres_url, progress=progress))
    while not progress.reasons:
        await asyncio.sleep(0.05)
    assert 0 < progress.amounts[-1][0] < 3000
    await transaction.commit()
    assert await filling == "9000"
    assert await fetch(empty_postgres_url, REMAINING) == [(0,)]
    assert await fetch(empty_postgres_url, f"SELECT count(*) FROM {TABLE} WHERE name = 'y'") == [(1,)]


async def test_a_constraint(
    empty_postgres_url: str, holder: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constraint applies to new rows at once; existing rows that violate it stop the migration, which continues."""
    use_steps(monkeypatch, *add_check(TABLE, "ck_named", "name <> 'bad'"))
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(PROJECT)
    await holder.execute(f"UPDATE {TABLE} SET name = 'bad'")
    with pytest.raises(asyncpg.CheckViolationError):
        await upgrade(empty_postgres_url)
    with pytest.raises(asyncpg.CheckViolationError):
        await holder.execute(f"UPDATE {TABLE} SET name = 'bad'")
    await holder.execute(f"UPDATE {TABLE} SET name = 'good'")
    progress = Recorder()
    assert await upgrade(empty_postgres_url, progress=progress) == "9000"
    assert progress.titles == ["validate the constraint ck_named"]
    assert await fetch(
        empty_postgres_url, "SELECT convalidated FROM pg_constraint WHERE conname = 'ck_named'"
    ) == [(True,)]


async def test_new_databases_have_constraints(
    empty_postgres_url: str, empty_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new database runs the steps of constraints and backfills in its transaction, and so does SQLite with rows."""
    use_steps(monkeypatch, *add_check(TABLE, "ck_named", "name <> 'bad'"), BACKFILL)
    assert await upgrade(empty_postgres_url) == "9000"
    assert await fetch(
        empty_postgres_url, "SELECT convalidated FROM pg_constraint WHERE conname = 'ck_named'"
    ) == [(True,)]
    await upgrade(empty_sqlite_url, revisions.known()[-2])
    with open_sqlite(empty_sqlite_url) as file:
        file.execute(PROJECT.replace("gen_random_uuid()", "'1'").replace("now()", "'2026-01-01'"))
    assert await upgrade(empty_sqlite_url) == "9000"
    with open_sqlite(empty_sqlite_url) as file:
        assert file.execute(f"SELECT description FROM {TABLE}").fetchall() == [("filled by 1",)]
