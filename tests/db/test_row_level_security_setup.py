"""``projkit migrate`` creates and drops the policies, and a kit does not start if they are not enforced."""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from projkit import ProjKit, Settings
from projkit.db import migrate, row_security
from projkit.db.connect import open_database
from projkit.db.raw_sql import RawConnection
from projkit.db.table_names import TableNames
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError
from tests.cli.conftest import Run, run
from tests.cli.running import serving
from tests.cli.test_commands import write
from tests.conftest import SECRET, Client, settings_for
from tests.db.conftest import OWN_TABLES, RlsDatabase

__all__ = ["run"]  # a fixture
pytestmark = pytest.mark.anyio
TABLES = build_tables("projkit_")
STATE = (
    "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, "
    "(SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) FROM pg_class c "
    "WHERE c.relname IN ('projkit_projects', 'projkit_idempotency_keys') ORDER BY 1"
)
ENABLED = [("projkit_idempotency_keys", True, True, 1), ("projkit_projects", True, True, 1)]
DISABLED = [("projkit_idempotency_keys", False, False, 0), ("projkit_projects", False, False, 0)]


async def state(rls_database: RlsDatabase) -> list[tuple[Any, ...]]:
    """Return the state of row-level security on the tables."""
    connection = await asyncpg.connect(rls_database.admin_url)
    rows = await connection.fetch(STATE)
    await connection.close()
    return [tuple(row) for row in rows]


async def startup_error(settings: Settings, engine: AsyncEngine | None = None) -> str:
    """Return the error of a kit that does not start."""
    with pytest.raises(ConfigurationError) as caught:
        await ProjKit(settings, engine=engine).startup()
    return caught.value.detail


async def test_it_can_be_turned_off_and_on_again(rls_database: RlsDatabase) -> None:
    """Each migrate enables or disables the policies as its setting says, repeatedly, and keeps the rows."""
    for row_level_security in (True, False, False, True, True):
        await rls_database.migrate(row_level_security=row_level_security)
        assert await state(rls_database) == (ENABLED if row_level_security else DISABLED)
        kit = ProjKit(rls_database.settings(row_level_security=row_level_security))
        async with kit.lifespan(), Client(kit, kit.settings) as client:
            await client.project()
            seen = len((await client.get("/api/v1/projects")).json()["items"])
    assert seen == 5


async def test_a_migration_without_changes_takes_no_locks(rls_database: RlsDatabase) -> None:
    """A migrate with nothing to do does not lock the tables, so it ends while a transaction uses them."""
    connection = await asyncpg.connect(rls_database.url)
    async with connection.transaction():
        await connection.execute(
            "LOCK TABLE projkit_projects, projkit_idempotency_keys IN ROW EXCLUSIVE MODE"
        )
        async with asyncio.timeout(20):
            await rls_database.migrate(row_level_security=True)
    await connection.close()


async def test_concurrent_migrations(rls_database: RlsDatabase) -> None:
    """Concurrent migrations with any setting succeed, and enable or disable all policies."""
    await rls_database.migrate(row_level_security=False)
    for settings in ([True] * 4, [False] * 4, [True, False] * 2):
        await asyncio.gather(*(rls_database.migrate(row_level_security=each) for each in settings))
        if len(set(settings)) == 1:
            assert await state(rls_database) == (ENABLED if settings[0] else DISABLED)
        assert await state(rls_database) in (ENABLED, DISABLED)


async def test_a_new_database(empty_postgres_url: str) -> None:
    """The first migrate creates the tables and the policies, separately for each prefix."""
    url = settings_for(empty_postgres_url).database_url
    for prefix in ("a_", "b_"):
        await migrate.upgrade(url, table_prefix=prefix, row_level_security=prefix == "b_")
    for prefix in ("a_", "b_"):
        settings = settings_for(empty_postgres_url, table_prefix=prefix, row_level_security=prefix == "b_")
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            raw = RawConnection.of_engine(connection)
            await row_security.require_policies(raw, TableNames(prefix), enabled=settings.row_level_security)
        await engine.dispose()


async def test_other_policies_are_kept(rls_database: RlsDatabase) -> None:
    """Policies that an administrator has added to the tables are kept."""
    await rls_database.admin(
        "CREATE POLICY reporting ON projkit_projects FOR SELECT TO postgres USING (true)"
    )
    for _ in range(2):
        await rls_database.migrate(row_level_security=True)
    assert (await state(rls_database))[1] == ("projkit_projects", True, True, 2)
    await rls_database.migrate(row_level_security=False)
    assert (await state(rls_database))[1][3] == 1


async def test_policies_during_a_migration(
    rls_database: RlsDatabase, empty_postgres_url: str, role: str
) -> None:
    """The policies are in force while a revision is applied, so that nobody sees the rows of others meanwhile."""
    old = RlsDatabase(empty_postgres_url.rpartition("/")[2], role)
    await old.admin(f"GRANT CREATE ON SCHEMA public TO {role}")
    url = settings_for(old.url).database_url
    await migrate.upgrade(url, revision="0002")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await row_security.apply(connection, TableNames(), enabled=True)
    await engine.dispose()
    assert await state(old) == ENABLED
    await old.admin(
        "INSERT INTO projkit_projects (owner_id, id, created_by, name, search_text, status, priority, created_at, "
        "updated_at) VALUES ('a', gen_random_uuid(), 'x', 'x', 'x', 'active', 1, now(), now())",
        "CREATE TABLE seen (rows bigint)",
        f"GRANT INSERT, SELECT ON seen TO {role}",
        "CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen SELECT count(*) FROM projkit_projects; END $$",
        "CREATE EVENT TRIGGER look ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION look()",
    )
    await old.migrate(row_level_security=True)
    connection = await asyncpg.connect(old.admin_url)
    seen = [row[0] for row in await connection.fetch("SELECT rows FROM seen")]
    await connection.close()
    assert seen
    assert set(seen) == {0}
    assert await state(old) == ENABLED


async def test_a_table_of_a_later_revision(empty_postgres_url: str) -> None:
    """Policies on the tables of an old revision are applied without those that a later one creates."""
    url = settings_for(empty_postgres_url).database_url
    await migrate.upgrade(url, revision="0001")
    names = TableNames()
    async with migrate.single_use(url) as engine:
        async with engine.begin() as connection:
            await row_security.apply(connection, names, enabled=True)
        assert await migrate.upgrade(url, row_level_security=True)
        async with engine.connect() as connection:
            await row_security.require_policies(RawConnection.of_engine(connection), names, enabled=True)


async def test_missing_policies_prevent_the_start(rls_database: RlsDatabase) -> None:
    """With the setting on, a kit does not start if policies are missing, incomplete or of another version."""
    damages = (
        "DROP POLICY projkit_owner ON projkit_projects",
        "ALTER TABLE projkit_idempotency_keys DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE projkit_projects NO FORCE ROW LEVEL SECURITY",
        "COMMENT ON POLICY projkit_owner ON projkit_projects IS 'another version'",
        "COMMENT ON POLICY projkit_owner ON projkit_projects IS NULL",
    )
    for damage in damages:
        await rls_database.admin(damage)
        message = await startup_error(rls_database.settings())
        assert message.startswith("PROJKIT_ROW_LEVEL_SECURITY is on")
        assert message.endswith("projkit migrate")
        await rls_database.migrate(row_level_security=True)
        assert await state(rls_database) == ENABLED
        await (await open_database(rls_database.settings(), TABLES)).close()
    await rls_database.migrate(row_level_security=False)
    assert "projkit migrate" in await startup_error(rls_database.settings())


async def test_policies_without_the_setting_prevent_the_start(rls_database: RlsDatabase) -> None:
    """With the setting off, a kit does not start if any policy exists, which would hide all rows."""
    settings = rls_database.settings(row_level_security=False)
    message = await startup_error(settings)
    assert message.startswith("PROJKIT_ROW_LEVEL_SECURITY is off")
    assert message.endswith("projkit migrate")
    assert "PROJKIT_ROW_LEVEL_SECURITY=true" in message
    await rls_database.admin("DROP POLICY projkit_owner ON projkit_projects")
    assert await startup_error(settings) == message
    await rls_database.migrate(row_level_security=False)
    await (await open_database(settings, TABLES)).close()


@pytest.mark.parametrize("privilege", ["SUPERUSER", "BYPASSRLS"])
@pytest.mark.parametrize("mode", ["fast", "transactional", "host's engine"])
async def test_roles_that_bypass_policies_prevent_the_start(
    rls_database: RlsDatabase, privilege: str, mode: str
) -> None:
    """The error names a role that bypasses policies, and the command that creates another one."""
    bypassing = f"{rls_database.role}_bypassing"
    await rls_database.admin(f"CREATE ROLE {bypassing} LOGIN {privilege} PASSWORD 'rls'")
    try:
        url = rls_database.url_of(bypassing)
        if privilege == "BYPASSRLS":
            await rls_database.admin(f"GRANT {rls_database.role} TO {bypassing}")
        if mode == "host's engine":
            settings = settings_for(url, row_level_security=True)
            engine = create_async_engine(settings.database_url)
            message = await startup_error(settings, engine)
            await engine.dispose()
        else:
            message = await startup_error(settings_for(url, row_level_security=True, database_mode=mode))
        assert message.startswith("PROJKIT_ROW_LEVEL_SECURITY")
        assert bypassing in message
        assert "NOSUPERUSER NOBYPASSRLS" in message
    finally:
        await rls_database.admin(f"DROP ROLE {bypassing}")


async def test_host_engines_that_commit_each_statement(rls_database: RlsDatabase) -> None:
    """The kit has transactions, in which the policies' settings last, also on an engine with AUTOCOMMIT."""
    settings = rls_database.settings()
    engine = create_async_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    kit = ProjKit(settings, engine=engine)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        project = await client.project()
        assert (await client.get(f"/api/v1/projects/{project['id']}")).json() == project
    await engine.dispose()


async def test_host_engines_for_another_database(rls_database: RlsDatabase, empty_sqlite_url: str) -> None:
    """With row-level security, an engine that is not for PostgreSQL is rejected."""
    settings = rls_database.settings()
    url = settings_for(empty_sqlite_url).database_url
    await migrate.upgrade(url)
    engine = create_async_engine(url)
    assert "PostgreSQL" in await startup_error(settings, engine)
    await engine.dispose()


async def test_a_role_with_row_privileges_is_enough(rls_database: RlsDatabase) -> None:
    """A role with privileges on rows only can serve the API, but not migrate."""
    await rls_database.admin(
        OWN_TABLES.format(role="postgres"),
        f"REVOKE CREATE ON SCHEMA public FROM {rls_database.role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {rls_database.role}",
    )
    kit = ProjKit(rls_database.settings())
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        project = await client.project()
        assert (await client.get(f"/api/v1/projects/{project['id']}")).status_code == 200
        async with Client(kit, kit.settings, "bob") as bob:
            assert (await bob.get(f"/api/v1/projects/{project['id']}")).status_code == 404
        with pytest.raises(sa.exc.ProgrammingError, match="must be owner"):
            await rls_database.migrate(row_level_security=False)


def test_commands(run: Run, rls_database: RlsDatabase, tmp_path: Path) -> None:
    """migrate, check, import, export, serve --demo and purge work with row-level security."""
    variables: dict[str, Any] = {
        "PROJKIT_DATABASE_URL": rls_database.url, "PROJKIT_ROW_LEVEL_SECURITY": "true", "PROJKIT_SECRET": SECRET,
    }  # fmt: skip
    off = {**variables, "PROJKIT_ROW_LEVEL_SECURITY": "false"}
    assert "PROJKIT_ROW_LEVEL_SECURITY" in run("migrate", "--check", expect=1, **off).stderr
    checks = {each["name"]: each for each in json.loads(run("check", "--json", expect=1, **off).stdout)}
    assert not checks["row security"]["ok"]
    run("migrate", **off)
    run("migrate", "--check", **off)
    assert "PROJKIT_ROW_LEVEL_SECURITY" in run("migrate", "--check", expect=1, **variables).stderr
    assert "with row-level security" in run("migrate", **variables).stderr
    run("migrate", "--check", **variables)
    checks = {each["name"]: each for each in json.loads(run("check", "--json", **variables).stdout)}
    assert checks["row security"]["ok"]
    source = write(tmp_path / "in.ndjson", [{"name": "A", "external_id": "E"}, {"name": "B"}])
    for owner in ("alice", "bob"):
        for created, unchanged in ((2, 0), (0, 2)):
            message = run("import", str(source), "--owner", owner, "--json", **variables).stdout
            report = json.loads(message)
            assert (report["created"], report["unchanged"], report["bad"]) == (created, unchanged, [])
        out = run("export", "-", "--owner", owner, **variables).stdout
        assert [json.loads(line)["owner_id"] for line in out.splitlines()] == [owner, owner]
    asyncio.run(
        rls_database.admin(
            "UPDATE projkit_projects SET deleted_at = now() - interval '2 days' WHERE external_id = 'E'"
        )
    )
    assert "removed 0 deleted projects" in run("purge", "--deleted-before", "3d", **variables).stderr
    assert "removed 2 deleted projects" in run("purge", "--deleted-before", "1d", **variables).stderr
    with serving("--demo", **variables) as (url, token):
        headers = {"Authorization": f"Bearer {token}"}
        page = httpx2.get(f"{url}/api/v1/projects?archived=any&total=true", headers=headers).json()
        assert page["total"] == 12
