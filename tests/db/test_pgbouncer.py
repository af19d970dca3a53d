"""The kit behind PgBouncer in transaction mode."""

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from projkit import ProjKit, Settings
from projkit.cli.check import _run_checks
from projkit.db import migrate, revisions
from projkit.db.connect import open_probe, require_schema
from projkit.db.errors import describe
from projkit.db.postgresql_connector import PostgresqlConnector
from projkit.errors import DatabaseUnavailableError, MigrationFailedError
from tests.conftest import SECRET, Client, settings_for
from tests.db.conftest import run_as_superuser
from tests.db.test_online_migrations import FUNCTION, PROJECT, SLOW, index_state, use_steps
from tests.pgbouncer import pgbouncer

pytestmark = pytest.mark.anyio
URL = "/api/v1/projects"


@pytest.fixture
def bouncer_url(empty_postgres_url: str) -> Iterator[str]:
    """The URL of an empty database behind PgBouncer, whose connections to the server all clients share."""
    with pgbouncer(empty_postgres_url, default_pool_size=1) as url:
        yield url


@pytest.fixture
def migrated_bouncer_url(empty_postgres_url: str, bouncer_url: str) -> str:
    """The same with tables; a migration by itself needs two connections."""
    asyncio.run(migrate.upgrade(empty_postgres_url))
    return bouncer_url


async def test_commands_again_and_again(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations and checks also work on connections to the server that others have used before."""
    with pgbouncer(empty_postgres_url) as url:
        await _run_commands(url, monkeypatch)


async def _run_commands(bouncer_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(bouncer_url, database_mode="transactional")
    for _ in range(4):
        await migrate.upgrade(bouncer_url)
    await asyncio.gather(*(migrate.upgrade(bouncer_url) for _ in range(4)))
    for _ in range(4):
        await require_schema(settings)
    monkeypatch.setenv("PROJKIT_SECRET", SECRET)
    monkeypatch.setenv("PROJKIT_DATABASE_URL", f"{bouncer_url}?pgbouncer=true")
    for _ in range(4):
        findings = await _run_checks()
        assert all(finding.ok for finding in findings), findings


async def test_health_probe(migrated_bouncer_url: str) -> None:
    """The queries of two probes that share one connection to the server do not disturb each other."""
    settings = settings_for(migrated_bouncer_url, database_mode="transactional")
    probes = [open_probe(settings, None, seconds=5.0) for _ in range(4)]

    async def query(probe: Any) -> None:
        for _ in range(100):
            assert await probe.accepts_writes()
            found = revisions.SchemaRevision.parse(await probe.revision())
            assert found is not None
            assert found.revision == revisions.head()

    await asyncio.gather(*(query(probe) for probe in probes))
    for probe in probes:
        await probe.close()


async def test_requests(migrated_bouncer_url: str) -> None:
    """More clients than there are connections to the server create and read projects."""
    settings = Settings(database_url=f"{migrated_bouncer_url}?pgbouncer=true", secret=SECRET)
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, settings, timeout=30) as client:
        for _ in range(4):
            made = await asyncio.gather(*(client.post(URL, json={"name": "A"}) for _ in range(8)))
            assert {answer.status_code for answer in made} == {201}
            read = await asyncio.gather(*(client.get(f"{URL}/{answer.json()['id']}") for answer in made))
            assert {answer.status_code for answer in read} == {200}


async def test_migrations_of_a_database_in_use(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several migrations of existing tables run one after the other, and so do their concurrent indexes."""
    use_steps(monkeypatch, SLOW)
    await migrate.upgrade(empty_postgres_url, revision="0001")
    await run_as_superuser(empty_postgres_url, PROJECT, FUNCTION.format("PERFORM pg_sleep(1);"))
    with pgbouncer(empty_postgres_url, default_pool_size=3) as url:
        assert await asyncio.gather(*(migrate.upgrade(url) for _ in range(3))) == ["9000"] * 3
    ((_, valid),) = await index_state(empty_postgres_url, SLOW.name)
    assert valid


async def test_an_index_behind_a_time_limit(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind PgBouncer no time limit can be lifted for an index; the error says so, and nothing is left behind."""
    use_steps(monkeypatch, SLOW)
    await migrate.upgrade(empty_postgres_url, revision=revisions.known()[-2])
    await run_as_superuser(
        empty_postgres_url,
        PROJECT,
        FUNCTION.format("PERFORM pg_sleep(2);"),
        f"ALTER DATABASE {empty_postgres_url.rpartition('/')[2]} SET statement_timeout = '1s'",
    )
    with (
        pgbouncer(empty_postgres_url) as url,
        pytest.raises(MigrationFailedError, match="without a statement_timeout"),
    ):
        await migrate.upgrade(url)
    assert await index_state(empty_postgres_url, SLOW.name) == []
    assert await migrate.upgrade(empty_postgres_url) == "9000", "on the server itself, it lifts the limit"


IGNORED = (
    "statement_timeout,lock_timeout,idle_in_transaction_session_timeout,default_transaction_isolation,jit"
)


async def test_fast_mode(migrated_bouncer_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the fast mode, the start and the check name the setting that PgBouncer requires."""
    fix = "PgBouncer in transaction mode requires PROJKIT_DATABASE_MODE=transactional"
    kit = ProjKit(settings_for(migrated_bouncer_url))
    with pytest.raises(DatabaseUnavailableError, match=fix):
        await kit.startup()
    monkeypatch.setenv("PROJKIT_SECRET", SECRET)
    monkeypatch.setenv("PROJKIT_DATABASE_URL", migrated_bouncer_url)
    finding = (await _run_checks())[-1]
    assert not finding.ok
    assert fix in finding.detail


async def test_fast_mode_with_ignored_parameters(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """If PgBouncer drops the timeouts, a warning names the setting; in session mode the fast mode works."""
    with pgbouncer(postgres_url, pool_mode="session", ignore_startup_parameters=IGNORED) as url:
        settings = settings_for(url, database_pool_size=1)
        kit = ProjKit(settings)
        async with kit.lifespan(), Client(kit, settings) as client:
            for _ in range(4):
                made = await client.post(URL, json={"name": "A"})
                assert (await client.get(f"{URL}/{made.json()['id']}")).status_code == 200
    assert "a pooler ignores the timeouts of the kit" in caplog.text
    assert "PROJKIT_DATABASE_MODE=transactional" in caplog.text


async def test_prepared_statements(postgres_url: str) -> None:
    """The error of a prepared statement that PgBouncer has separated from its connection names the setting."""
    with pgbouncer(postgres_url) as url:
        connect = PostgresqlConnector(url, connect_seconds=5.0, prepared=True)
        connections = [await connect() for _ in range(3)]
        first, second, third = connections
        others = [second.transaction(), third.transaction()]
        await others[0].start()
        statement = await first.prepare("SELECT 1")  # on the only other connection to the server
        assert await statement.fetchval() == 1
        await others[1].start()
        await others[0].rollback()
        with pytest.raises(asyncpg.InvalidSQLStatementNameError) as caught:
            await statement.fetchval()
        await others[1].rollback()
        assert "requires PROJKIT_DATABASE_MODE=transactional" in describe(caught.value)
        for connection in connections:
            await connection.close()
