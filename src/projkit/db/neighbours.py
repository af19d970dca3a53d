"""Detection of other migration tools that have their tables next to the kit's."""

from typing import Final

from projkit.db.port import required_row
from projkit.db.raw_sql import RawConnection
from projkit.db.table_names import TableNames

# The tool of each table, and what it does to tables that it does not know.
_TOOLS: Final = {
    "alembic_version": (
        "alembic, whose autogenerate drops tables that it does not know; pass projkit.alembic.include_name and "
        "include_object to context.configure in its env.py"
    ),
    "django_migrations": "Django, whose inspectdb writes models for all tables; delete those of the kit's tables",
    "flyway_schema_history": "Flyway, whose clean drops all tables; keep it disabled",
    "databasechangelog": "Liquibase, whose drop-all drops all tables",
    "_prisma_migrations": "Prisma, whose migrate dev and migrate reset drop all tables",
}
_LIST: Final = {
    "postgresql": (
        "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relname IN ({names}) AND relnamespace = "
        "(SELECT relnamespace FROM pg_class WHERE oid = to_regclass('{version_table}'))"
    ),
    "sqlite": "SELECT group_concat(name, ',') FROM sqlite_master WHERE type = 'table' AND name IN ({names})",
}


async def describe_neighbours(connection: RawConnection, names: TableNames) -> str:
    """Describe the migration tools in the schema of the kit's tables, and what to do; empty if there are none."""
    sql = _LIST[connection.dialect].format(
        names=", ".join(f"'{name}'" for name in _TOOLS), version_table=names.qualified(names.version_table)
    )
    (present,) = required_row(await connection.first_row(sql))
    if not present:
        return ""
    tools = ". ".join(f"{name} is that of {_TOOLS[name]}" for name in sorted(present.split(",")))
    if names.schema:
        fix = f"PROJKIT_DATABASE_SCHEMA={names.schema} is not the kit's own; choose another"
    elif connection.dialect == "postgresql":
        fix = "Set PROJKIT_DATABASE_SCHEMA to separate the kit's tables"
    else:
        fix = "Set PROJKIT_DATABASE_URL to a file of the kit's own to separate its tables"
    return f"{tools}. {fix} (docs/migrations.md)"
