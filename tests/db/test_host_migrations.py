"""The filters for a host's alembic: its autogenerate sees its own tables, and none of the kit's."""

import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings, strategies
from sqlalchemy.ext.asyncio import create_async_engine

import projkit
import projkit.alembic
from projkit import ConfigurationError, Settings
from projkit.alembic import KitTables
from projkit.db import migrate, revisions
from projkit.db.tables import build_tables
from projkit.settings import TableSettings
from tests.conftest import SECRET

pytestmark = pytest.mark.anyio
# Names that begin like the kit's, but not with its prefix.
SIMILAR = ("projkit", "projkitty", "projkit2_projects", "my_projkit_projects")


def host_metadata(schema: str | None = None) -> sa.MetaData:
    """Return the tables of a host, with indexes and constraints whose names begin like the kit's."""
    metadata = sa.MetaData(schema=schema)
    for name in SIMILAR:
        table = sa.Table(
            name,
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("projkit_id", sa.Integer, nullable=False),
            sa.UniqueConstraint("projkit_id", name=f"projkit_unique_{name}"),
        )
        sa.Index(f"projkit_{name}", table.c.projkit_id, table.c.id)
    return metadata


async def differences(url: str, metadata: sa.MetaData, **options: Any) -> list[str]:
    """Return what autogenerate would do: the operations with the names of their objects."""

    def compare(connection: sa.Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_async_engine(url)
    async with engine.connect() as connection:
        operations = await connection.run_sync(compare)
    await engine.dispose()
    return [f"{each[0]} {each[1].name}" for each in operations]


async def create(url: str, metadata: sa.MetaData) -> None:
    """Create the tables of a host."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


def filters(tables: KitTables) -> dict[str, Any]:
    """Return both filters, as arguments of ``context.configure``."""
    return {"include_name": tables.include_name, "include_object": tables.include_object}


ENVIRONMENT = {"include_name": projkit.alembic.include_name, "include_object": projkit.alembic.include_object}


@pytest.mark.parametrize(("prefix", "include_schemas"), [("projkit_", False), ("x_", True)])
async def test_neither_touches_the_others_tables(
    empty_url: str, prefix: str, include_schemas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the filters a host has nothing to migrate; without, it would drop every table of the kit."""
    monkeypatch.setenv("PROJKIT_TABLE_PREFIX", prefix)
    await migrate.upgrade(empty_url, table_prefix=prefix)
    metadata = host_metadata()
    await create(empty_url, metadata)
    options = {"include_schemas": include_schemas}
    unfiltered = await differences(empty_url, metadata, **options)
    names = [*build_tables(prefix).metadata.tables, f"{prefix}alembic_version"]
    assert {each for each in unfiltered if "remove_table" in each} == {
        f"remove_table {name}" for name in names
    }
    for given_filters in (ENVIRONMENT, filters(KitTables(Settings(table_prefix=prefix, secret=SECRET)))):
        assert await differences(empty_url, metadata, **options, **given_filters) == []
        for name, function in given_filters.items():  # each is sufficient by itself
            assert await differences(empty_url, metadata, **options, **{name: function}) == []
    metadata.remove(metadata.tables["projkitty"])
    changes = await differences(empty_url, metadata, **options, **ENVIRONMENT)
    assert "remove_table projkitty" in changes
    assert all("projkitty" in each for each in changes)
    assert await migrate.upgrade(empty_url, table_prefix=prefix) == revisions.head()


async def test_a_schema_of_the_kits_own(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that migrates all schemas drops nothing in the kit's, but still migrates its own tables in it."""
    url = empty_postgres_url.replace("postgresql://", "postgresql+asyncpg://")
    await migrate.upgrade(url, database_schema="kit")
    metadata = host_metadata()
    await create(url, metadata)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE kit.of_an_extension (id int)")
    await engine.dispose()
    assert await differences(url, metadata) == [], "the host's schema has none of the kit's tables"
    everything = {"include_schemas": True}
    assert "remove_table projkit_projects" in await differences(url, metadata, **everything)
    monkeypatch.setenv("PROJKIT_DATABASE_SCHEMA", "kit")
    assert await differences(url, metadata, **everything, **ENVIRONMENT) == []
    sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True), schema="kit")
    assert await differences(url, metadata, **everything, **ENVIRONMENT) == ["add_table orders"]
    await create(url, metadata)
    assert await differences(url, metadata, **everything, **ENVIRONMENT) == []
    # Without the variable the prefix still protects the kit's tables, in every schema.
    monkeypatch.delenv("PROJKIT_DATABASE_SCHEMA")
    assert await differences(url, metadata, **everything, **ENVIRONMENT) == ["remove_table of_an_extension"]


async def test_a_table_of_the_host_with_the_kits_prefix(empty_url: str) -> None:
    """A table of the host with the kit's prefix is left alone with a warning; a copy of the kit's, without."""
    await migrate.upgrade(empty_url)
    metadata = host_metadata()
    await create(empty_url, metadata)
    build_tables("projkit_").projects.to_metadata(metadata)
    assert await differences(empty_url, metadata, **ENVIRONMENT) == []
    sa.Table("projkit_notes", metadata, sa.Column("id", sa.Integer, primary_key=True))
    with pytest.warns(UserWarning, match="projkit_notes is left out.*PROJKIT_TABLE_PREFIX"):
        assert await differences(empty_url, metadata, **ENVIRONMENT) == []


async def test_two_kits_and_the_hosts_own_filter(empty_url: str) -> None:
    """Filters are combined with ``and``: those of two kits, and the host's own."""
    kits = [KitTables(TableSettings(table_prefix=prefix)) for prefix in ("a_", "b_")]
    for prefix in ("a_", "b_"):
        await migrate.upgrade(empty_url, table_prefix=prefix)
    metadata = host_metadata()
    await create(empty_url, metadata)
    metadata.remove(metadata.tables["projkitty"])

    def include_object(*args: Any) -> bool:
        return all(kit.include_object(*args) for kit in kits) and args[1] != "projkitty"

    assert await differences(empty_url, metadata, include_object=include_object) == []


PREFIXES = strategies.from_regex(r"\A[a-z_][a-z0-9_]{0,29}\Z")
IDENTIFIERS = strategies.from_regex(r"\A[a-z_][a-z0-9_]{0,12}\Z")
TYPES = strategies.sampled_from(("column", "index", "unique_constraint", "foreign_key_constraint"))


@given(PREFIXES, IDENTIFIERS, IDENTIFIERS, TYPES, strategies.sampled_from((None, "kit", "other")))
@settings(max_examples=50, deadline=None)
def test_a_table_decides_for_its_parts(
    prefix: str, suffix: str, part: str, type_: str, schema: str | None
) -> None:
    """Whatever the kit creates with its prefix is left out, and a part of a table belongs to whom the table does."""
    kit = KitTables(TableSettings(table_prefix=prefix))
    for table_name, included in ((prefix + suffix, False), ("0" + prefix + suffix, True)):
        names = {"schema_name": schema, "table_name": table_name}
        table = sa.Table(table_name, sa.MetaData(), schema=schema)
        item = SimpleNamespace(table=table)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for reflected in (True, False):
                assert kit.include_object(table, table_name, "table", reflected, None) is included
                assert kit.include_object(item, prefix + part, type_, reflected, None) is included
        assert kit.include_name(table_name, "table", {"schema_name": schema}) is included
        assert kit.include_name(prefix + part, type_, names) is included
        # A sequence, view or function, as extensions of alembic report them, has no table.
        assert (
            kit.include_object(SimpleNamespace(schema=schema), table_name, "sequence", True, None) is included
        )
    assert kit.include_name(prefix + suffix, "schema", {})
    assert kit.include_name(None, "schema", {})


def test_invalid_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filters read the same variables as the kit, in any case, and reject the same values."""
    monkeypatch.setenv("projkit_table_prefix", "kit_")
    assert not projkit.alembic.include_name("kit_projects", "table", {"schema_name": None})
    monkeypatch.setenv("projkit_table_prefix", "Not a prefix")
    with pytest.raises(ConfigurationError, match="PROJKIT_TABLE_PREFIX"):
        projkit.alembic.include_name("kit_projects", "table", {"schema_name": None})


def test_the_filters_import_no_kit() -> None:
    """A host's migrations import neither a kit nor a driver, and need no other setting."""
    code = (
        "import sys, projkit.alembic; projkit.alembic.include_name('a', 'table', {}); "
        "print(sorted({'starlette', 'asyncpg', 'redis', 'projkit.kit', 'sqlalchemy.orm'} & set(sys.modules)))"
    )
    environment = {"PROJKIT_ENV": "production"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'Projkit'"):
        _ = projkit.Projkit  # type: ignore[attr-defined]
