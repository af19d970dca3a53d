"""The schema of the kit's tables: its name, creation, privileges, and tables that are in another one."""

import re
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings, strategies
from sqlalchemy.ext.asyncio import create_async_engine

from projkit import ConfigurationError, ProjKit, Settings
from projkit.db import migrate, revisions
from projkit.db.connect import open_database
from projkit.db.table_names import quote
from projkit.db.tables import build_tables
from projkit.errors import SchemaOutOfDateError
from tests.auth.users import PASSWORD, add_user
from tests.conftest import MODES, PATIENT, Client, settings_for
from tests.db.conftest import OWN_SCHEMA, RlsDatabase, current_revision, run_as_superuser
from tests.host_engines import host_engine

pytestmark = pytest.mark.anyio
MIGRATIONS = (Path(__file__).parents[2] / "docs/migrations.md").read_text()
NAMES = sorted(build_tables("projkit_").metadata.tables)


async def relations(url: str) -> dict[str, set[str]]:
    """Return the tables and indexes of each schema."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT relnamespace::regnamespace::text AS schema, relname FROM pg_class "
            "WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
        )
    finally:
        await connection.close()
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["schema"].strip('"'), set()).add(row["relname"])
    return found


async def upgrade(url: str, **options: Any) -> str:
    """Run the migrations."""
    return await migrate.upgrade(settings_for(url).database_url, **options)


async def use(url: str, **changes: Any) -> int:
    """Start a kit, create a project and return how many there are."""
    kit = ProjKit(settings_for(url, **PATIENT, **changes))
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        await client.project()
        return len((await client.get("/api/v1/projects")).json()["items"])


@pytest.fixture
def limited(empty_postgres_url: str, role: str) -> RlsDatabase:
    """Return an empty database and a role that may create nothing in it."""
    return RlsDatabase(empty_postgres_url.rpartition("/")[2], role)


@given(strategies.text(max_size=70))
@settings(deadline=None)
def test_names_are_identifiers(name: str) -> None:
    """A name is accepted if and only if it is a lower-case identifier that PostgreSQL neither reserves nor shortens."""
    valid = re.fullmatch("[a-z_][a-z0-9_]{0,62}", name, re.ASCII) and not name.startswith("pg_")
    if valid or not name:
        assert Settings(database_schema=name).database_schema == name
        return
    with pytest.raises(ConfigurationError, match=r"PROJKIT_DATABASE_SCHEMA: .*for example projkit"):
        Settings(database_schema=name)


@pytest.mark.parametrize(
    "name", ["pg_kit", "information_schema", "kit;drop", 'k"it', "Kit", "kit-1", "a" * 64]
)
def test_other_names_are_rejected(name: str) -> None:
    """Reserved names, and those that would have to be quoted or are too long, are rejected."""
    with pytest.raises(ConfigurationError, match=r"PROJKIT_DATABASE_SCHEMA: .*for example projkit"):
        Settings(database_schema=name)


@pytest.mark.parametrize("name", ["kit", "user", "select", "_1", "a" * 63])
async def test_every_relation_is_in_the_schema(empty_postgres_url: str, name: str) -> None:
    """Tables, indexes and the version table are created in the schema, whatever its name, and none elsewhere."""
    for _ in range(2):
        assert await upgrade(empty_postgres_url, database_schema=name) == revisions.head()
    found = await relations(empty_postgres_url)
    assert set(found) == {name}
    assert {*NAMES, "projkit_alembic_version", "uq_projkit_projects_external_id"} <= found[name]
    assert await use(empty_postgres_url, database_schema=name) == 1
    assert await current_revision(empty_postgres_url, name) == revisions.head()
    assert await current_revision(empty_postgres_url) is None


@given(strategies.text(strategies.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=20, deadline=None)
def test_quoted_names(name: str) -> None:
    """Quoting a name leaves no way out of the quotes."""
    quoted = quote(name)
    assert quoted[0] == quoted[-1] == '"'
    assert re.fullmatch('(?:[^"]|"")*', quoted[1:-1])
    assert quoted[1:-1].replace('""', '"') == name


async def test_sqlite_is_rejected(empty_sqlite_url: str) -> None:
    """SQLite has no schemas: a kit, a migration and an engine for SQLite are rejected by name."""
    said = "PROJKIT_DATABASE_SCHEMA requires PostgreSQL"
    for chosen in (Settings(database_schema="kit"), settings_for(empty_sqlite_url, database_schema="kit")):
        with pytest.raises(ConfigurationError, match=said):
            ProjKit(chosen)
    with pytest.raises(ConfigurationError, match=said):
        await open_database(chosen, build_tables("projkit_"))
    engine = create_async_engine(settings_for(empty_sqlite_url).database_url)
    with pytest.raises(ConfigurationError, match=said):
        await ProjKit(chosen, engine=engine).startup()
    await engine.dispose()
    assert not Path("projkit.db").exists()


async def test_a_role_that_may_not_create_the_schema(limited: RlsDatabase) -> None:
    """Without the privilege to create the schema, the error contains the command, which then suffices."""
    with pytest.raises(
        ConfigurationError, match=f"the role {limited.role} may not create the schema kit"
    ) as caught:
        await upgrade(limited.url, database_schema="kit")
    command = caught.value.detail.partition("run: ")[2]
    assert command == f'CREATE SCHEMA "kit" AUTHORIZATION "{limited.role}"'
    await limited.admin(command)
    assert await upgrade(limited.url, database_schema="kit") == revisions.head()
    await limited.admin('DROP SCHEMA "kit" CASCADE')


@pytest.mark.parametrize("schema", ["", "kit"])
async def test_a_role_that_may_not_create_tables(limited: RlsDatabase, schema: str) -> None:
    """Without the privilege to create tables, the error contains the GRANT, which then suffices."""
    await limited.admin("CREATE SCHEMA kit", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    if schema:
        await limited.admin(f'GRANT USAGE ON SCHEMA kit TO "{limited.role}"')
    where = schema or "public"
    with pytest.raises(ConfigurationError, match=f"may not create tables in the schema {where}") as caught:
        await upgrade(limited.url, database_schema=schema)
    assert caught.value.detail.startswith(f"PROJKIT_DATABASE_{'SCHEMA' if schema else 'URL'}: ")
    await limited.admin(caught.value.detail.partition("run: ")[2])
    assert await upgrade(limited.url, database_schema=schema) == revisions.head()
    await limited.admin(f"DROP OWNED BY {limited.role} CASCADE")


async def test_a_role_that_may_not_use_the_schema(limited: RlsDatabase) -> None:
    """A service whose role may not use the schema does not start, and the GRANTs in the error suffice."""
    await upgrade(limited.admin_url, database_schema="kit")
    with pytest.raises(
        ConfigurationError, match=f"the role {limited.role} may not use the schema kit"
    ) as caught:
        await use(limited.url, database_schema="kit")
    await limited.admin(*caught.value.detail.partition("run: ")[2].split("; "))
    assert await use(limited.url, database_schema="kit") == 1
    await limited.admin(f"DROP OWNED BY {limited.role} CASCADE")


async def test_no_schema_on_the_search_path(limited: RlsDatabase) -> None:
    """A search path without an existing schema is named as the reason why no table can be created."""
    await limited.admin(
        f'ALTER ROLE "{limited.role}" IN DATABASE "{limited.name}" SET search_path TO nowhere'
    )
    with pytest.raises(ConfigurationError, match="no schema on the search path"):
        await upgrade(limited.url)


async def test_tables_elsewhere_are_not_replaced_by_empty_ones(empty_postgres_url: str) -> None:
    """If another schema has the tables, neither migrate nor a start creates or accepts empty ones, unless requested."""
    await upgrade(empty_postgres_url)
    for run in (upgrade, use):
        with pytest.raises(
            SchemaOutOfDateError, match=r"the schema public has; move.*SET SCHEMA.*migrate --new"
        ):
            await run(empty_postgres_url, database_schema="kit")
    assert set(await relations(empty_postgres_url)) == {"public"}
    assert await upgrade(empty_postgres_url, database_schema="kit", new=True) == revisions.head()
    assert await use(empty_postgres_url, database_schema="kit") == 1
    await run_as_superuser(empty_postgres_url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    for run in (upgrade, use):
        with pytest.raises(SchemaOutOfDateError, match=r"is not set.*set PROJKIT_DATABASE_SCHEMA=kit"):
            await run(empty_postgres_url)


@pytest.mark.parametrize("row_level_security", [False, True])
async def test_tables_are_moved(rls_database: RlsDatabase, row_level_security: bool) -> None:
    """The script in the documentation moves all tables with their rows and policies, and nothing of the host's."""
    await rls_database.migrate(row_level_security=row_level_security)
    options = {"row_level_security": row_level_security}
    assert await use(rls_database.url, **options) == 1
    await rls_database.admin("CREATE TABLE projkitty (id int)", "CREATE SCHEMA projkit")
    await rls_database.admin(f'GRANT USAGE ON SCHEMA projkit TO "{rls_database.role}"')
    (script,) = re.findall(r"```sql\n(BEGIN;.*?)```", MIGRATIONS, flags=re.DOTALL)
    await rls_database.admin(script)
    found = await relations(rls_database.admin_url)
    assert found["public"] == {"projkitty"}
    assert {*NAMES, "projkit_alembic_version"} <= found["projkit"]
    assert await use(rls_database.url, database_schema="projkit", **options) == 2
    before = await relations(rls_database.admin_url)
    assert await upgrade(rls_database.url, database_schema="projkit", **options) == revisions.head()
    assert await relations(rls_database.admin_url) == before


async def test_row_level_security_in_a_schema(empty_postgres_url: str, role: str) -> None:
    """Policies are created, enforced and dropped in the schema."""
    database = RlsDatabase(empty_postgres_url.rpartition("/")[2], role)
    await database.admin(f'CREATE SCHEMA "{OWN_SCHEMA}" AUTHORIZATION "{role}"')
    options = {"database_schema": OWN_SCHEMA, "row_level_security": True}
    await upgrade(database.url, **options)
    assert await use(database.url, **options) == 1
    await upgrade(database.url, database_schema=OWN_SCHEMA)
    assert await use(database.url, database_schema=OWN_SCHEMA) == 2
    await database.admin(f'DROP SCHEMA "{OWN_SCHEMA}" CASCADE')


async def test_two_schemas_share_a_database(empty_postgres_url: str) -> None:
    """Two kits with the same prefix in different schemas do not see each other's rows."""
    for schema in ("kit_a", "kit_b"):
        await upgrade(empty_postgres_url, database_schema=schema, new=True)
        assert await use(empty_postgres_url, database_schema=schema) == 1


@pytest.mark.parametrize("mode", ["fast", "transactional", "asyncpg", "psycopg"])
async def test_two_schemas_share_a_process(empty_postgres_url: str, mode: str) -> None:
    """Two kits that run at the same time, also on one engine of the host, each use their own schema for everything."""
    schemas = ("kit_a", "kit_b")
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {}
        modes: dict[str, Any] = {"database_mode": mode}
        if mode not in MODES:
            options["engine"] = await stack.enter_async_context(host_engine(empty_postgres_url, mode))
            modes = {}
        clients = []
        for schema in schemas:
            await upgrade(empty_postgres_url, database_schema=schema, new=True)
            changes = {**PATIENT, **modes, "database_schema": schema}
            kit = ProjKit(settings_for(empty_postgres_url, **changes), **options)
            await stack.enter_async_context(kit.lifespan())
            await add_user(kit, schema)
            clients.append(await stack.enter_async_context(Client(kit, kit.settings)))
        for number in range(3):
            made = [
                await client.post(
                    "/api/v1/projects",
                    json={"name": f"{schema} {number}"},
                    headers={"Idempotency-Key": str(number)},
                )
                for client, schema in zip(clients, schemas, strict=True)
            ]
            assert [each.status_code for each in made] == [201, 201]
            for client, other in zip(clients, reversed(made), strict=True):
                assert (await client.get(f"/api/v1/projects/{other.json()['id']}")).status_code == 404
        for client, schema in zip(clients, schemas, strict=True):
            listed = await client.get("/api/v1/projects?sort=name")
            assert [each["name"] for each in listed.json()["items"]] == [
                f"{schema} {each}" for each in range(3)
            ]
            assert (await client.get("/api/v1/projects/stats/summary")).json()["total"] == 3
            assert (await client.get("/api/v1/health/ready")).status_code == 200
            for name in schemas:
                login = {"username": name, "password": PASSWORD}
                entered = await client.post("/api/v1/auth/login", json=login)
                assert entered.status_code == (200 if name == schema else 401)
            validated = await client.get(
                "/api/v1/monitoring/validate/endpoints", headers={"Authorization": ""}
            )
            assert validated.status_code == 200, validated.text


async def test_an_older_revision_in_a_schema(empty_postgres_url: str) -> None:
    """A schema of an older revision is reported, and upgraded where it is."""
    await upgrade(empty_postgres_url, database_schema="kit", revision="0001")
    with pytest.raises(SchemaOutOfDateError, match=r"0001.*projkit migrate"):
        await use(empty_postgres_url, database_schema="kit")
    assert await upgrade(empty_postgres_url, database_schema="kit") == revisions.head()
    assert set(await relations(empty_postgres_url)) == {"kit"}


async def test_names_that_the_host_uses(empty_url: str) -> None:
    """Tables or indexes of the host with the kit's names are reported before anything is created, and kept."""
    postgresql = empty_url.startswith("postgresql")
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE app_users (id int)")
        await connection.exec_driver_sql("CREATE INDEX ix_app_sessions_expires_at ON app_users (id)")
    said = r"PROJKIT_TABLE_PREFIX: the database already has app_users, ix_app_sessions_expires_at"
    with pytest.raises(ConfigurationError, match=said) as caught:
        await upgrade(empty_url, table_prefix="app_")
    assert ("DATABASE_SCHEMA" in caught.value.detail) == postgresql
    if postgresql:
        assert await upgrade(empty_url, table_prefix="app_", database_schema="kit") == revisions.head()
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT id FROM app_users")
    await engine.dispose()


async def test_statistics_are_those_of_the_kits_tables(postgres_url: str, schema_url: str) -> None:
    """Live and dead rows are counted in the kit's tables, not in the host's, in either place."""
    for url, schema in ((postgres_url, ""), (schema_url, OWN_SCHEMA)):
        name = f"host_{secrets.token_hex(4)}"
        await run_as_superuser(
            url,
            f"CREATE TABLE {name} AS SELECT * FROM generate_series(1, 500)",
            f"CREATE TABLE projkitty_{name} AS SELECT * FROM generate_series(1, 500)",
            "SELECT pg_stat_force_next_flush()",
        )
        kit = ProjKit(settings_for(url, database_schema=schema, **PATIENT))
        async with kit.lifespan(), Client(kit, kit.settings) as client:
            for _ in range(3):
                await client.project()
            headers = {"Authorization": ""}
            figures = (await client.get("/api/v1/monitoring/metrics/database", headers=headers)).json()
        assert figures["postgresql"]["live_tuples"] < 100
        await run_as_superuser(url, f"DROP TABLE {name}, projkitty_{name}")


@pytest.mark.parametrize(("prefix", "example"), [("projkit_", "projkit_kit_"), ("app_", "projkit_")])
async def test_the_example_of_another_prefix(empty_url: str, prefix: str, example: str) -> None:
    """The prefix that is suggested is not the one whose names are taken."""
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE TABLE {prefix}users (id int)")
    await engine.dispose()
    with pytest.raises(ConfigurationError, match=rf"{prefix}users, .*PROJKIT_TABLE_PREFIX={example}(,|$)"):
        await upgrade(empty_url, table_prefix=prefix)
