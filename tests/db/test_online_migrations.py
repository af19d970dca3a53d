"""Migrations of a PostgreSQL database in use: one at a time, step by step, resumed after an interruption."""

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter
from types import SimpleNamespace

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import op

from projkit.db import migrate, revisions
from projkit.db.migrations.steps import CreateIndex, DropIndex, Step, Transaction, replace_index
from projkit.errors import MigrationFailedError
from tests.conftest import settings_for
from tests.db.conftest import current_revision
from tests.services import shape

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
    module_of, known = migrate.module_of, revisions.known()
    module = SimpleNamespace(steps=lambda prefix: list(steps), **attributes)
    monkeypatch.setattr(revisions, "known", lambda: (*known, "9000"))
    monkeypatch.setattr(
        migrate, "module_of", lambda revision: module if revision == "9000" else module_of(revision)
    )


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
    monkeypatch.setattr(migrate, "LOCK_ATTEMPTS_SECONDS", 2.0)
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
    use_steps(monkeypatch, SLOW)
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(FUNCTION.format("PERFORM pg_sleep(60);"))
    await holder.execute(PROJECT)
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
    use_steps(monkeypatch, SLOW)
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(PROJECT)
    await holder.execute("CREATE SEQUENCE calls")
    await holder.execute(
        FUNCTION.format(f"IF nextval('calls') = 1 THEN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END IF;")
    )
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
    use_steps(monkeypatch, SLOW)
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(PROJECT)
    await holder.execute(FUNCTION.format("PERFORM pg_sleep(3);"))
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
    use_steps(monkeypatch, SLOW)
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(PROJECT)
    await holder.execute(FUNCTION.format("PERFORM pg_sleep(60);"))
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
    """A second migration waits for the first without delaying it, and reports its progress meanwhile."""
    use_steps(monkeypatch, SLOW)
    await upgrade(empty_postgres_url, revisions.known()[-2])
    await holder.execute(PROJECT)
    await holder.execute(FUNCTION.format("PERFORM pg_sleep(3);"))
    both = [Recorder(), Recorder()]
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*(upgrade(empty_postgres_url, progress=each) for each in both))
    assert ends == ["9000", "9000"]
    first, second = sorted(both, key=lambda each: len(each.reasons))
    assert first.titles == [SLOW.title]
    assert (1, 1) in first.amounts
    assert second.titles == []
    assert set(second.reasons) == {"another migration is running on this database"}


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
    monkeypatch.setattr(migrate, "LOCK_ATTEMPTS_SECONDS", 2.0)

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
