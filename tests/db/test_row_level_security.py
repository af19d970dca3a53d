"""Row-level security: without the application's filter, the database still hides the rows of other owners."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from projkit import Principal
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.errors import StatementFailedError
from projkit.db.expiry import IDEMPOTENCY_WINDOW
from projkit.db.port import Database, Queries, Transaction
from projkit.db.scoped import allow_purge, with_scope
from projkit.db.statement import Row, Statement
from projkit.db.tables import build_tables
from projkit.http.cursor import CursorCodec
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.listing import Shape, count_statement, page_statement
from projkit.projects.query import SORT_KEYS, ProjectQuery
from projkit.projects.schemas import ProjectInput
from projkit.projects.service import ProjectService
from projkit.projects.statements import idempotency_statements, project_statements
from tests.db.conftest import RlsDatabase

pytestmark = pytest.mark.anyio
TABLES = build_tables("projkit_")
PROJECTS, KEYS = TABLES.projects, TABLES.idempotency_keys
STORED = (
    "tenant_id", "owner_id", "id", "created_by", "name", "search_text", "status", "priority", "created_at",
    "updated_at",
)  # fmt: skip
# Statements without the filter for the owner.
OWNERS = Statement(sa.select(PROJECTS.c.owner_id).order_by(PROJECTS.c.owner_id))
KEY_OWNERS = Statement(sa.select(KEYS.c.owner_id))
COUNT = Statement(sa.select(sa.func.count().label("n")).select_from(PROJECTS))
RENAME = Statement(sa.update(PROJECTS).values(name="taken").returning(PROJECTS.c.owner_id))
REMOVE = Statement(sa.delete(PROJECTS).returning(PROJECTS.c.owner_id))
TOUCH = Statement(sa.update(PROJECTS).values(name="touched"))
INSERT = project_statements(TABLES).insert
BARE_INSERT = Statement(
    sa.insert(PROJECTS).values({each: sa.bindparam(each, type_=PROJECTS.c[each].type) for each in STORED})
)
BARE_CHANGE_OWNER = Statement(
    sa.update(PROJECTS).values(
        owner_id=sa.bindparam("to_owner", type_=sa.Text()),
        tenant_id=sa.bindparam("to_tenant", type_=sa.Text()),
    )
)
CHANGE_OWNER = Statement(cast("sa.Update", BARE_CHANGE_OWNER.clause).returning(PROJECTS.c.id))
UNUSUAL_NAMES = [
    "o'Brien", "\\", "'; DROP TABLE projkit_projects; --", "$1 %s {} :x", "ünï😀", " ", "a\nb\tc", "x" * 255, "=", "on",
]  # fmt: skip


@pytest.fixture
def rls_database(emptied_rls_database: RlsDatabase) -> RlsDatabase:
    """Return a database with row-level security."""
    return emptied_rls_database


@pytest.fixture(params=["fast", "transactional", "host's engine"])
async def database(request: pytest.FixtureRequest, rls_database: RlsDatabase) -> AsyncIterator[Database]:
    """Open a database with row-level security, in each mode."""
    if request.param != "host's engine":
        opened = await open_database(
            rls_database.settings(database_mode=request.param, database_pool_size=2), TABLES
        )
        yield opened
        await opened.close()
        return
    settings = rls_database.settings()
    engine = create_async_engine(settings.database_url, pool_size=2, max_overflow=0)
    yield await open_database(settings, TABLES, engine)
    await engine.dispose()


def service_of(database: Database) -> ProjectService:
    """Return the service for a database."""
    return ProjectService(database, TABLES, cursors=CursorCodec.throwaway(), clock=utc_now)


async def add(database: Database, *owners: str, tenant: str = "") -> list[UUID]:
    """Create a project for each owner."""
    service = service_of(database)
    return [
        (await service.create(Principal(each, tenant_id=tenant), ProjectInput(name="A")))[0]
        for each in owners
    ]


def new_row(owner: str, tenant: str = "") -> dict[str, Any]:
    """Return the parameters of an insert."""
    row = service_of(None).new_row(Principal("x"), ProjectInput(name="A"))  # type: ignore[arg-type]
    return {**row, "owner_id": owner, "tenant_id": tenant}


async def owners(queries: Queries, statement: Statement = OWNERS) -> list[str]:
    """Return the owners of the visible rows, after comparing a single statement with a transaction."""
    alone = [row[0] for row in await queries.fetch_all(statement, {})]

    async def work(transaction: Transaction) -> list[str]:
        return [row[0] for row in await transaction.fetch_all(statement, {})]

    assert await queries.transact(work) == alone
    return alone


async def counted(queries: Queries) -> int:
    """Count the visible rows."""
    row = await queries.fetch_one(COUNT, {})
    assert row is not None
    return int(row[0])


async def test_reads_without_the_filter(database: Database) -> None:
    """A SELECT without a filter returns only the rows of its owner and tenant; without a scope, none."""
    await add(database, "alice", "alice", "bob")
    await add(database, "alice", tenant="acme")
    assert await owners(database.scoped("", "alice")) == ["alice", "alice"]
    assert await owners(database.scoped("acme", "alice")) == ["alice"]
    assert await owners(database.scoped("", "bob")) == ["bob"]
    assert await counted(database.scoped("", "alice")) == 2
    for tenant, owner in (
        ("", "mallory"),
        ("acme", "bob"),
        ("", ""),
        ("acme", ""),
        ("", "Alice"),
        ("", "=alice"),
    ):
        assert await owners(database.scoped(tenant, owner)) == []
        assert await counted(database.scoped(tenant, owner)) == 0
    assert await owners(database) == []
    assert await counted(database) == 0


async def test_the_scope_overrides_the_parameters(database: Database) -> None:
    """A statement of the application with another owner as its parameter returns nothing."""
    (identifier,) = await add(database, "bob")
    params = {"tenant_id": "", "owner_id": "bob", "id": identifier}
    get = project_statements(TABLES).get
    assert await database.scoped("", "bob").fetch_one(get, params) is not None
    assert await database.scoped("", "alice").fetch_one(get, params) is None
    assert await database.fetch_one(get, params) is None


async def test_idempotency_keys(database: Database) -> None:
    """A stored response is visible only to its owner."""
    creation = IdempotentCreation(database, TABLES, service_of(database), clock=utc_now)
    await creation.create(Principal("alice"), "k", ProjectInput(name="A"), {"name": "A"})
    assert await owners(database.scoped("", "alice"), KEY_OWNERS) == ["alice"]
    assert await owners(database.scoped("", "bob"), KEY_OWNERS) == []
    assert await owners(database, KEY_OWNERS) == []
    insert_key = idempotency_statements(TABLES).insert
    params = {
        "tenant_id": "", "owner_id": "alice", "key": "k2", "fingerprint": "", "project_id": uuid7(), "etag": "",
        "body": "", "created_at": utc_now(),
    }  # fmt: skip
    with pytest.raises(StatementFailedError, match="row-level security"):
        await database.scoped("", "bob").write_one(insert_key, params)
    assert await database.scoped("", "alice").write_one(insert_key, params) is None
    assert await owners(database.scoped("", "alice"), KEY_OWNERS) == ["alice", "alice"]


async def test_writes_without_the_filter(database: Database) -> None:
    """UPDATE and DELETE without a filter do not change the rows of other owners."""
    await add(database, "alice", "bob")
    bob = database.scoped("", "bob")
    for queries in (database, database.scoped("", "mallory")):
        for statement in (RENAME, REMOVE, TOUCH):
            assert await queries.write_one(statement, {}) is None
            assert await queries.transact(lambda it, this=statement: it.fetch_one(this, {})) is None  # type: ignore[misc]
    assert await bob.fetch_all(Statement(sa.select(PROJECTS.c.name)), {}) == [("A",)]
    assert await owners(bob, RENAME) == ["bob"]
    await bob.write_one(TOUCH, {})
    assert await bob.fetch_all(Statement(sa.select(PROJECTS.c.name)), {}) == [("touched",)]
    assert await database.scoped("", "alice").fetch_all(Statement(sa.select(PROJECTS.c.name)), {}) == [("A",)]
    assert list(await bob.write_one(REMOVE, {}) or ()) == ["bob"]
    assert await owners(database.scoped("", "alice")) == ["alice"]


@pytest.mark.parametrize(("tenant", "owner"), [("", "bob"), ("acme", "alice"), ("", ""), ("", "=alice")])
async def test_writes_for_another_owner(database: Database, tenant: str, owner: str) -> None:
    """The database rejects an INSERT for another owner, and an UPDATE that changes the owner."""
    await add(database, "alice")
    alice = database.scoped("", "alice")
    new_owner = {"to_tenant": tenant, "to_owner": owner}
    row = new_row(owner, tenant)
    attempts: list[Callable[[Queries], Awaitable[Any]]] = [
        # Without RETURNING only WITH CHECK rejects it; with it the row must also be visible.
        lambda queries: queries.write_one(BARE_INSERT, row),
        lambda queries: queries.write_one(BARE_CHANGE_OWNER, new_owner),
        lambda queries: queries.write_one(INSERT, row),
        lambda queries: queries.transact(lambda it: it.execute_many(INSERT, [row])),
        lambda queries: queries.write_one(CHANGE_OWNER, new_owner),
        lambda queries: queries.transact(lambda it: it.fetch_one(CHANGE_OWNER, new_owner)),
    ]
    for attempt in attempts:
        with pytest.raises(StatementFailedError, match="row-level security"):
            await attempt(alice)
    with pytest.raises(StatementFailedError, match="row-level security"):
        await database.write_one(INSERT, new_row("alice"))
    assert await owners(alice) == ["alice"]
    assert await owners(database.scoped(tenant, owner)) == []


async def test_the_scope_does_not_outlive_its_use(database: Database) -> None:
    """After a read, a write, an error or a cancellation, the next use of a connection has no scope."""
    alice, reached = database.scoped("", "alice"), asyncio.Event()
    await add(database, "alice", "alice")

    async def read(transaction: Transaction) -> int:
        return len(await transaction.fetch_all(OWNERS, {}))

    async def fail(transaction: Transaction) -> None:
        raise ValueError(str(await read(transaction)))

    async def stay(transaction: Transaction) -> None:
        await read(transaction)
        reached.set()
        await asyncio.sleep(30)

    async def cancel() -> None:
        staying = asyncio.create_task(alice.transact(stay))
        await reached.wait()
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    async def roll_back() -> None:
        with pytest.raises(ValueError, match="2"):
            await alice.transact(fail)

    uses: list[Callable[[], Awaitable[Any]]] = [
        lambda: alice.fetch_all(OWNERS, {}), lambda: alice.fetch_one(OWNERS, {}), lambda: alice.write_one(RENAME, {}),
        lambda: alice.write_one(TOUCH, {}), lambda: alice.transact(read), roll_back, cancel,
    ]  # fmt: skip
    for use in uses:
        await asyncio.gather(use(), use())  # both connections have been alice's
        seen = await asyncio.gather(*(database.fetch_all(OWNERS, {}) for _ in range(2)))
        assert [len(rows) for rows in seen] == [0, 0]
        assert await database.transact(read) == 0
        assert await owners(database.scoped("", "bob")) == []
        assert await owners(alice) == ["alice", "alice"]


async def test_concurrent_owners(database: Database) -> None:
    """With more owners than connections, concurrent queries return only the rows of their owner."""
    names = [f"owner {number}" for number in range(8)]
    await add(database, *names)

    async def query_repeatedly(name: str) -> None:
        for _ in range(10):
            assert await owners(database.scoped("", name)) == [name]

    await asyncio.gather(*map(query_repeatedly, names))


async def test_unusual_names(database: Database) -> None:
    """Owners and tenants with any characters see only their own rows."""
    service = service_of(database)
    ids = {}
    for text in UNUSUAL_NAMES:
        for principal in (
            Principal(text),
            Principal("alice", tenant_id=text),
            Principal(text, tenant_id=text),
        ):
            ids[principal] = (await service.create(principal, ProjectInput(name="A")))[0]
    for principal, identifier in ids.items():
        assert (await service.get(principal, identifier))[0] == identifier
        assert [row[0] for row in (await service.list(principal, ProjectQuery())).rows] == [identifier]
        assert await counted(database.scoped(principal.tenant_id, principal.subject)) == 1


async def test_purge(database: Database, rls_database: RlsDatabase) -> None:
    """With the purge setting, a transaction without a filter reaches only deleted projects and expired keys."""
    service = service_of(database)
    gone = await add(database, "alice", "bob")
    await add(database, "alice", "bob")
    for owner, identifier in zip(("alice", "bob"), gone, strict=True):
        await service.delete(Principal(owner), identifier)
    old = IDEMPOTENCY_WINDOW + timedelta(minutes=1)
    for owner, age in (("alice", old), ("bob", IDEMPOTENCY_WINDOW - timedelta(minutes=1))):
        creation = IdempotentCreation(database, TABLES, service, clock=lambda age=age: utc_now() - age)  # type: ignore[misc]
        await creation.create(Principal(owner), "k", ProjectInput(name="B"), {})

    async def purging(transaction: Transaction) -> tuple[Sequence[Row], Sequence[Row]]:
        await allow_purge(transaction)
        assert [row[0] for row in await transaction.fetch_all(OWNERS, {})] == ["alice", "bob"]
        removed = await transaction.fetch_all(REMOVE, {})
        return removed, await transaction.fetch_all(Statement(sa.delete(KEYS).returning(KEYS.c.owner_id)), {})

    async def changing(transaction: Transaction) -> None:
        await allow_purge(transaction)
        await transaction.fetch_all(RENAME, {})

    async def adding(transaction: Transaction) -> None:
        await allow_purge(transaction)
        await transaction.fetch_one(INSERT, new_row("alice"))

    for work in (changing, adding):
        with pytest.raises(StatementFailedError, match="row-level security"):
            await database.transact(work)
    removed, expired = await database.transact(purging)
    assert sorted(row[0] for row in removed) == ["alice", "bob"]
    assert [row[0] for row in expired] == ["alice"]
    assert await owners(database) == []
    for owner in ("alice", "bob"):
        assert await owners(database.scoped("", owner)) == [owner, owner]


async def test_the_policies_of_the_tables_owner(rls_database: RlsDatabase) -> None:
    """On a plain connection of the tables' owner, no row is visible or writable until both settings are set."""
    connection = await asyncpg.connect(rls_database.url)
    insert = (
        "INSERT INTO projkit_projects (tenant_id, owner_id, id, created_by, name, search_text, status, priority, "
        "created_at, updated_at) VALUES ('', $1, gen_random_uuid(), 'x', 'x', 'x', 'active', 1, now(), now())"
    )
    count = "SELECT count(*) FROM projkit_projects"
    await rls_database.admin(insert.replace("$1", "'alice'"), insert.replace("$1", "''"))
    setting = "SELECT set_config('projkit.{}_id', '{}', true)"
    owner, tenant = setting.format("owner", "=alice"), setting.format("tenant", "=")
    for _ in range(2):  # the second time the settings have been set before, and are empty instead of NULL
        assert await connection.fetchval(count) == 0
        assert await connection.execute("UPDATE projkit_projects SET name = 'y'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM projkit_projects") == "DELETE 0"
        for name in ("alice", ""):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(insert, name)
        for settings, seen in (([owner], 0), ([tenant], 0), ([owner, tenant], 1)):
            async with connection.transaction():
                for each in settings:
                    await connection.execute(each)
                assert await connection.fetchval(count) == seen
    await connection.close()


async def test_pages_and_counts_are_read_from_their_index(rls_database: RlsDatabase) -> None:
    """With policies, a page is still read from its place in the index, and a list is counted from its index alone."""
    await rls_database.admin(
        "INSERT INTO projkit_projects (owner_id, id, created_by, name, search_text, status, priority, created_at, "
        "updated_at) SELECT 'owner ' || n % 200, gen_random_uuid(), 'x', 'x', 'x', 'active', 1, "
        "now() - n * interval '1 minute', now() FROM generate_series(1, 20000) AS n",
        "VACUUM ANALYZE projkit_projects",
    )
    connection = await asyncpg.connect(rls_database.url)

    async def plan_of(statement: Statement, **params: Any) -> str:
        compiled = with_scope(statement).for_postgresql()
        scope = {"tenant_id": "", "owner_id": "owner 3", "scope_tenant_id": "", "scope_owner_id": "owner 3"}
        arguments = compiled.arguments({**scope, **params})
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {compiled.sql}", *arguments))

    plan = await plan_of(count_statement(TABLES, Shape(), capped=True))
    assert "Index Only Scan using ix_projkit_projects_unarchived_created_at on" in plan, plan
    for sort_key in SORT_KEYS:
        if sort_key == "due_date":  # two segments, sorted together
            continue
        key: Any = {"name": "x", "priority": 1}.get(sort_key, utc_now())
        page = page_statement(TABLES, Shape(sort_key=sort_key, after="key"))
        plan = await plan_of(page, rows=21, after_key=key, after_id=uuid7())
        assert f"Index Scan Backward using ix_projkit_projects_unarchived_{sort_key} on" in plan, plan
        assert "Sort" not in plan, plan
        assert "ROW(" in next(line for line in plan.splitlines() if "Index Cond" in line), plan
    await connection.close()
