"""Migrations: atomic, safe to run concurrently, and equal to the tables in the code."""

import asyncio
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from projkit import ProjKit
from projkit.db import migrate, revisions
from projkit.db.connect import open_database, require_schema
from projkit.db.migrations import modules
from projkit.db.migrations.steps import DropIndex
from projkit.db.tables import build_tables
from projkit.errors import SchemaOutOfDateError
from tests.conftest import Client, settings_for
from tests.db.conftest import current_revision
from tests.db.test_online_migrations import use_steps

pytestmark = pytest.mark.anyio


def test_the_revisions_are_those_of_alembic() -> None:
    """The revisions in the names of the files are those that Alembic reads in them."""
    scripts = ScriptDirectory(str(files("projkit.db") / "migrations"))
    assert revisions.known() == tuple(sorted(script.revision for script in scripts.walk_revisions()))
    assert revisions.head() == scripts.get_current_head()


@pytest.mark.parametrize("prefix", ["projkit_", "other_"])
async def test_the_migrations_create_the_tables(empty_url: str, prefix: str) -> None:
    """After all migrations the database equals the tables in the code, with any prefix."""
    assert await migrate.upgrade(empty_url, table_prefix=prefix) == revisions.head()
    tables = build_tables(prefix)

    def exists_here(item: Any, _name: object, kind: str, _reflected: object, _other: object) -> bool:
        gin = kind == "index" and item.dialect_options["postgresql"]["using"]
        return not gin or engine.dialect.name == "postgresql"

    def compare(connection: sa.Connection) -> list[Any]:
        options = {
            "compare_type": False,
            "include_name": lambda name, kind, _: kind != "table" or name in tables.metadata.tables,
            "include_object": exists_here,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata))

    engine = create_async_engine(empty_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(compare) == []
    await engine.dispose()


async def test_concurrent_migrations(empty_url: str) -> None:
    """Concurrent migrations all succeed, and create the schema once."""
    assert set(await asyncio.gather(*(migrate.upgrade(empty_url) for _ in range(4)))) == {revisions.head()}
    assert await current_revision(empty_url) == revisions.head()


async def test_two_prefixes_share_a_database(empty_url: str) -> None:
    """Two kits with different prefixes share a database."""
    for prefix in ("a_", "b_"):
        await migrate.upgrade(empty_url, table_prefix=prefix)
        kit = ProjKit(settings_for(empty_url, table_prefix=prefix))
        async with kit.lifespan(), Client(kit, kit.settings) as client:
            await client.project(name=prefix)
            assert len((await client.get("/api/v1/projects")).json()["items"]) == 1


async def test_data_survives_the_next_migration(empty_url: str) -> None:
    """An outdated schema is rejected with its revision, and accepted after migrating."""
    await migrate.upgrade(empty_url, revision="0001")
    settings = settings_for(empty_url)
    if not settings.embedded:
        with pytest.raises(SchemaOutOfDateError, match=r"0001.*projkit migrate"):
            await open_database(settings, build_tables(settings.table_prefix))
        await migrate.upgrade(empty_url)
    database = await open_database(settings, build_tables(settings.table_prefix))
    await database.close()
    assert await current_revision(empty_url) == revisions.head()


def test_the_release_before_runs_on_this_schema() -> None:
    """Servers of the release before can be restarted after the migration: they can use all revisions since."""
    assert modules.required_by(revisions.head()) <= revisions.OLDEST


@pytest.mark.parametrize("change", ["older", "newer", "incompatible"])
async def test_the_schemas_on_which_a_version_runs(
    empty_postgres_url: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kit starts on the schema before its own and on a newer one that is compatible, and on no other."""
    head, known = revisions.head(), revisions.known()
    settings = settings_for(empty_postgres_url)
    compatible = {} if change == "incompatible" else {"compatible_from": head}
    use_steps(monkeypatch, DropIndex("ix_projkit_projects_priority"), **compatible)
    if change == "older":
        monkeypatch.setattr(revisions, "OLDEST", head)
        await migrate.upgrade(settings.database_url, revision=head)
    else:
        await migrate.upgrade(settings.database_url, revision=head)
        await migrate.upgrade(settings.database_url)
        monkeypatch.setattr(revisions, "known", lambda: known)
    if change == "incompatible":
        for use in (require_schema(settings), migrate.upgrade(settings.database_url)):
            with pytest.raises(SchemaOutOfDateError, match="revision 9000, which this version"):
                await use
        return
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        await client.project()
        assert (await client.get("/api/v1/health/ready")).json()["status"] == "ok"
    assert await migrate.upgrade(settings.database_url) == "9000"
    assert await current_revision(empty_postgres_url) == "9000"


async def test_version_0_1_0_can_be_restarted(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column that version 0.1.0 compares with its own revision stays the same as long as it can use the schema."""
    use_steps(monkeypatch, compatible_from="0004")
    await migrate.upgrade(settings_for(empty_postgres_url).database_url)
    connection = await asyncpg.connect(empty_postgres_url)
    row = await connection.fetchrow("SELECT * FROM projkit_alembic_version")
    await connection.close()
    assert row is not None
    assert dict(row) == {"version_num": "0004", "revision": "9000", "progress": None}


async def test_a_newer_schema_is_rejected(empty_url: str) -> None:
    """A database that a newer version has migrated is rejected, and not changed."""
    await migrate.upgrade(empty_url)
    engine = create_async_engine(empty_url)
    async with engine.begin() as connection:
        tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        (version,) = [name for name in tables if "version" in name]
        await connection.exec_driver_sql(f"UPDATE {version} SET version_num = '9999'")
    await engine.dispose()
    with pytest.raises(SchemaOutOfDateError, match="9999"):
        await open_database(settings_for(empty_url), build_tables("projkit_"))
