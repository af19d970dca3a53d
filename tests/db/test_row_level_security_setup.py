"""Row-level security is put up and taken down by ``projkit migrate``, and no kit starts where it would not hold."""

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
from projkit.db.tables import build_tables
from projkit.errors import ConfigurationError
from tests.cli.conftest import Run, run
from tests.cli.running import serving
from tests.cli.test_commands import write
from tests.conftest import SECRET, Client, settings_for
from tests.db.conftest import OWN_TABLES, Walled

__all__ = ["run"]  # a fixture
pytestmark = pytest.mark.anyio
TABLES = build_tables("projkit_")
STATE = (
    "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, "
    "(SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) FROM pg_class c "
    "WHERE c.relname IN ('projkit_projects', 'projkit_idempotency_keys') ORDER BY 1"
)
UP = [("projkit_idempotency_keys", True, True, 1), ("projkit_projects", True, True, 1)]
DOWN = [("projkit_idempotency_keys", False, False, 0), ("projkit_projects", False, False, 0)]


async def state(walled: Walled) -> list[tuple[Any, ...]]:
    """What the tables have of row-level security."""
    connection = await asyncpg.connect(walled.admin_url)
    rows = await connection.fetch(STATE)
    await connection.close()
    return [tuple(row) for row in rows]


async def refusal(settings: Settings, engine: AsyncEngine | None = None) -> str:
    """What a kit says that does not start."""
    with pytest.raises(ConfigurationError) as caught:
        await ProjKit(settings, engine=engine).startup()
    return caught.value.detail


async def test_it_can_be_turned_off_and_on_again(walled: Walled) -> None:
    """Each migrate leaves the database as its setting says, as often as it runs, and the rows stay."""
    for row_level_security in (True, False, False, True, True):
        await walled.migrate(row_level_security=row_level_security)
        assert await state(walled) == (UP if row_level_security else DOWN)
        kit = ProjKit(walled.settings(row_level_security=row_level_security))
        async with kit.lifespan(), Client(kit, kit.settings) as client:
            await client.project()
            seen = len((await client.get("/api/v1/projects")).json()["items"])
    assert seen == 5


async def test_what_is_as_wanted_is_left_alone(walled: Walled) -> None:
    """A migrate with nothing to do locks no table: it ends while a transaction has them in use."""
    connection = await asyncpg.connect(walled.url)
    async with connection.transaction():
        await connection.execute(
            "LOCK TABLE projkit_projects, projkit_idempotency_keys IN ROW EXCLUSIVE MODE"
        )
        async with asyncio.timeout(20):
            await walled.migrate(row_level_security=True)
    await connection.close()


async def test_several_migrate_at_once(walled: Walled) -> None:
    """Of several at once, whatever they want, each ends well, and the policies are up or down as a whole."""
    await walled.migrate(row_level_security=False)
    for wanted in ([True] * 4, [False] * 4, [True, False] * 2):
        await asyncio.gather(*(walled.migrate(row_level_security=each) for each in wanted))
        if len(set(wanted)) == 1:
            assert await state(walled) == (UP if wanted[0] else DOWN)
        assert await state(walled) in (UP, DOWN)


async def test_a_fresh_database_gets_it_at_once(empty_postgres_url: str) -> None:
    """The first migrate makes the tables and the policies together, for each prefix its own."""
    url = settings_for(empty_postgres_url).database_url
    for prefix in ("a_", "b_"):
        await migrate.upgrade(url, table_prefix=prefix, row_level_security=prefix == "b_")
    for prefix in ("a_", "b_"):
        settings = settings_for(empty_postgres_url, table_prefix=prefix, row_level_security=prefix == "b_")
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            raw = RawConnection.of_engine(connection)
            await row_security.require_policies(raw, prefix, enabled=settings.row_level_security)
        await engine.dispose()


async def test_others_policies_are_left_alone(walled: Walled) -> None:
    """What an administrator has added to the tables stays there."""
    await walled.admin("CREATE POLICY reporting ON projkit_projects FOR SELECT TO postgres USING (true)")
    for _ in range(2):
        await walled.migrate(row_level_security=True)
    assert (await state(walled))[1] == ("projkit_projects", True, True, 2)
    await walled.migrate(row_level_security=False)
    assert (await state(walled))[1][3] == 1


async def test_a_revision_sees_the_rows_of_all(walled: Walled, empty_postgres_url: str, role: str) -> None:
    """While a revision is applied the policies are down, and afterwards they are up again."""
    old = Walled(empty_postgres_url.rpartition("/")[2], role)
    await old.admin(f"GRANT CREATE ON SCHEMA public TO {role}")
    url = settings_for(old.url).database_url
    await migrate.upgrade(url, revision="0002")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await row_security.apply(connection, "projkit_", enabled=True)
    await engine.dispose()
    assert await state(old) == UP
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
    assert set(seen) == {1}
    assert await state(old) == UP


async def test_no_start_without_the_policies(walled: Walled) -> None:
    """With the setting on and the policies absent, half there or of another version, the start is refused."""
    damages = (
        "DROP POLICY projkit_owner ON projkit_projects",
        "ALTER TABLE projkit_idempotency_keys DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE projkit_projects NO FORCE ROW LEVEL SECURITY",
        "COMMENT ON POLICY projkit_owner ON projkit_projects IS 'another version'",
        "COMMENT ON POLICY projkit_owner ON projkit_projects IS NULL",
    )
    for damage in damages:
        await walled.admin(damage)
        said = await refusal(walled.settings())
        assert said.startswith("PROJKIT_ROW_LEVEL_SECURITY is on")
        assert said.endswith("projkit migrate")
        await walled.migrate(row_level_security=True)
        assert await state(walled) == UP
        await (await open_database(walled.settings(), TABLES)).close()
    await walled.migrate(row_level_security=False)
    assert "projkit migrate" in await refusal(walled.settings())


async def test_no_start_with_forgotten_policies(walled: Walled) -> None:
    """With the setting off and policies there, also a part of them, the start is refused: all would look empty."""
    settings = walled.settings(row_level_security=False)
    said = await refusal(settings)
    assert said.startswith("PROJKIT_ROW_LEVEL_SECURITY is off")
    assert said.endswith("projkit migrate")
    assert "PROJKIT_ROW_LEVEL_SECURITY=true" in said
    await walled.admin("DROP POLICY projkit_owner ON projkit_projects")
    assert await refusal(settings) == said
    await walled.migrate(row_level_security=False)
    await (await open_database(settings, TABLES)).close()


@pytest.mark.parametrize("privilege", ["SUPERUSER", "BYPASSRLS"])
@pytest.mark.parametrize("mode", ["fast", "transactional", "host's engine"])
async def test_no_start_as_a_role_that_bypasses_it(walled: Walled, privilege: str, mode: str) -> None:
    """A role for which no policy holds is named, with the command that makes one for which they do."""
    mighty = f"{walled.role}_mighty"
    await walled.admin(f"CREATE ROLE {mighty} LOGIN {privilege} PASSWORD 'wall'")
    try:
        url = walled.url_of(mighty)
        if privilege == "BYPASSRLS":
            await walled.admin(f"GRANT {walled.role} TO {mighty}")
        if mode == "host's engine":
            settings = settings_for(url, row_level_security=True)
            engine = create_async_engine(settings.database_url)
            said = await refusal(settings, engine)
            await engine.dispose()
        else:
            said = await refusal(settings_for(url, row_level_security=True, database_mode=mode))
        assert said.startswith("PROJKIT_ROW_LEVEL_SECURITY")
        assert mighty in said
        assert "NOSUPERUSER NOBYPASSRLS" in said
    finally:
        await walled.admin(f"DROP ROLE {mighty}")


async def test_a_hosts_engine_must_keep_transactions(walled: Walled, empty_sqlite_url: str) -> None:
    """An engine that commits each statement by itself, or is not PostgreSQL's, is refused."""
    settings = walled.settings()
    engine = create_async_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    assert "AUTOCOMMIT" in await refusal(settings, engine)
    await engine.dispose()
    url = settings_for(empty_sqlite_url).database_url
    await migrate.upgrade(url)
    engine = create_async_engine(url)
    assert "PostgreSQL" in await refusal(settings, engine)
    await engine.dispose()


async def test_a_role_that_owns_nothing_is_enough(walled: Walled) -> None:
    """A role with no more than the rights on rows serves the API; the tables' owner migrates."""
    await walled.admin(
        OWN_TABLES.format(role="postgres"),
        f"REVOKE CREATE ON SCHEMA public FROM {walled.role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {walled.role}",
    )
    kit = ProjKit(walled.settings())
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        project = await client.project()
        assert (await client.get(f"/api/v1/projects/{project['id']}")).status_code == 200
        async with Client(kit, kit.settings, "bob") as bob:
            assert (await bob.get(f"/api/v1/projects/{project['id']}")).status_code == 404
        with pytest.raises(sa.exc.ProgrammingError, match="must be owner"):
            await walled.migrate(row_level_security=False)


def test_the_commands_work_behind_it(run: Run, walled: Walled, tmp_path: Path) -> None:
    """migrate, check, import, export, serve --demo and purge do what they do without it."""
    variables: dict[str, Any] = {
        "PROJKIT_DATABASE_URL": walled.url, "PROJKIT_ROW_LEVEL_SECURITY": "true", "PROJKIT_SECRET": SECRET,
    }  # fmt: skip
    off = {**variables, "PROJKIT_ROW_LEVEL_SECURITY": "false"}
    assert "PROJKIT_ROW_LEVEL_SECURITY" in run("migrate", "--check", expect=1, **off).stderr
    found = {each["name"]: each for each in json.loads(run("check", "--json", expect=1, **off).stdout)}
    assert not found["row security"]["ok"]
    run("migrate", **off)
    run("migrate", "--check", **off)
    assert "PROJKIT_ROW_LEVEL_SECURITY" in run("migrate", "--check", expect=1, **variables).stderr
    assert "with row-level security" in run("migrate", **variables).stderr
    run("migrate", "--check", **variables)
    found = {each["name"]: each for each in json.loads(run("check", "--json", **variables).stdout)}
    assert found["row security"]["ok"]
    source = write(tmp_path / "in.ndjson", [{"name": "A", "external_id": "E"}, {"name": "B"}])
    for owner in ("alice", "bob"):
        for created, unchanged in ((2, 0), (0, 2)):
            said = run("import", str(source), "--owner", owner, "--json", **variables).stdout
            report = json.loads(said)
            assert (report["created"], report["unchanged"], report["bad"]) == (created, unchanged, [])
        out = run("export", "-", "--owner", owner, **variables).stdout
        assert [json.loads(line)["owner_id"] for line in out.splitlines()] == [owner, owner]
    asyncio.run(
        walled.admin(
            "UPDATE projkit_projects SET deleted_at = now() - interval '2 days' WHERE external_id = 'E'"
        )
    )
    assert "removed 0 deleted projects" in run("purge", "--deleted-before", "3d", **variables).stderr
    assert "removed 2 deleted projects" in run("purge", "--deleted-before", "1d", **variables).stderr
    with serving("--demo", **variables) as (url, token):
        headers = {"Authorization": f"Bearer {token}"}
        page = httpx2.get(f"{url}/api/v1/projects?archived=any&total=true", headers=headers).json()
        assert page["total"] == 12
