"""The schema of the kit's tables on PostgreSQL: its creation, the role's privileges, and tables in another schema.

With ``DATABASE_SCHEMA`` the tables are in that schema. Without it, SQL finds and creates them by the search path of the
connection, which usually begins with ``public``. Everything here reads PostgreSQL's catalogs, which need no privileges.
"""

from typing import TYPE_CHECKING, Final

from projkit.db.port import required_row
from projkit.db.raw_sql import RawConnection
from projkit.db.table_names import TableNames, quote
from projkit.errors import ConfigurationError, SchemaOutOfDateError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_SETTING: Final = "PROJKIT_DATABASE_SCHEMA"
_DOCUMENT: Final = "docs/migrations.md"
_PRIVILEGE: Final = (
    "SELECT has_schema_privilege(oid, '{privilege}'), current_user FROM pg_namespace WHERE nspname = {schema}"
)
_MAY_CREATE_SCHEMA: Final = (
    "SELECT has_database_privilege(current_database(), 'CREATE'), current_user, current_database()"
)
_CURRENT_SCHEMA: Final = "SELECT current_schema()"
_OTHER_SCHEMA: Final = (
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relname = '{table}' AND c.relkind IN ('r', 'p') AND n.nspname <> '{schema}' "
    "AND n.nspname !~ '^pg_' ORDER BY n.nspname LIMIT 1"
)
_EXISTING: Final = {
    "postgresql": (
        "SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {schema} AND c.relname IN ({names})"
    ),
    "sqlite": "SELECT group_concat(name, ', ') FROM sqlite_master WHERE name IN ({names})",
}


async def require_usage(connection: RawConnection, names: TableNames) -> None:
    """Check that the role may use the schema, if one is set and it exists.

    Raises:
        ConfigurationError: it may not; the message contains the GRANT.
    """
    names.require_dialect(connection.dialect)
    if not names.schema:
        return
    row = await connection.first_row(_PRIVILEGE.format(privilege="USAGE", schema=f"'{names.schema}'"))
    if row is not None and not row[0]:
        schema, role = quote(names.schema), quote(row[1])
        raise ConfigurationError(
            f"{_SETTING}: the role {row[1]} may not use the schema {names.schema}; as its owner, run: "
            f"GRANT USAGE ON SCHEMA {schema} TO {role}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
        )


async def prepare(connection: "AsyncConnection", names: TableNames) -> None:
    """Create the schema if it does not exist, and make it the only one in which this transaction creates tables.

    Raises:
        ConfigurationError: the role may not create it; the message contains the command for an administrator.
    """
    raw, schema = RawConnection.of_engine(connection), quote(names.schema)
    if await raw.first_row(_PRIVILEGE.format(privilege="USAGE", schema=f"'{names.schema}'")) is None:
        may_create, role, database = required_row(await raw.first_row(_MAY_CREATE_SCHEMA))
        if not may_create:
            raise ConfigurationError(
                f"{_SETTING}: the role {role} may not create the schema {names.schema} in the database {database}; "
                f"as an administrator, run: CREATE SCHEMA {schema} AUTHORIZATION {quote(role)}"
            )
        await connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    await connection.exec_driver_sql(f"SET LOCAL search_path TO {schema}")


async def require_create(connection: RawConnection, names: TableNames) -> None:
    """Check that the role may create tables where the kit's tables are.

    Raises:
        ConfigurationError: it may not; the message contains the GRANT.
    """
    (schema,) = required_row(await connection.first_row(_CURRENT_SCHEMA))
    if schema is None:
        raise ConfigurationError(
            "PROJKIT_DATABASE_URL: no schema on the search path of the connection exists, or the role may not use any; "
            f"set {_SETTING}, for example to projkit, or ALTER ROLE … SET search_path"
        )
    sql = _PRIVILEGE.format(privilege="CREATE", schema="current_schema()")
    may_create, role = required_row(await connection.first_row(sql))
    if not may_create:
        setting = _SETTING if names.schema else "PROJKIT_DATABASE_URL"
        raise ConfigurationError(
            f"{setting}: the role {role} may not create tables in the schema {schema}; as its owner, run: "
            f"GRANT USAGE, CREATE ON SCHEMA {quote(schema)} TO {quote(role)}"
        )


async def require_no_other(connection: RawConnection, names: TableNames) -> None:
    """Check that no other schema has the kit's tables, for a database that has none where they are expected.

    Raises:
        SchemaOutOfDateError: another schema has them, so that creating tables would seem to lose all data.
    """
    if connection.dialect != "postgresql":
        return
    row = await connection.first_row(_OTHER_SCHEMA.format(table=names.version_table, schema=names.schema))
    if row is None:
        return
    other = row[0]
    new = "for separate, empty tables, run: projkit migrate --new"
    if not names.schema:
        raise SchemaOutOfDateError(
            f"{_SETTING} is not set, but the tables {names.prefix}* are in the schema {other}, which is not on the "
            f"search path of this connection; set {_SETTING}={other}, or, {new}"
        )
    raise SchemaOutOfDateError(
        f"{_SETTING}: the schema {names.schema} has no tables {names.prefix}*, but the schema {other} has; move each "
        f"with: ALTER TABLE {quote(other)}.{quote(names.prefix + 'projects')} SET SCHEMA {quote(names.schema)} "
        f"({_DOCUMENT} has a script for all), or, {new}"
    )


async def require_unused_names(connection: RawConnection, names: TableNames, relations: list[str]) -> None:
    """Check that the host has no tables or indexes with the names that the first migration creates.

    Raises:
        ConfigurationError: it has some.
    """
    quoted = ", ".join(f"'{relation}'" for relation in relations)
    sql = _EXISTING[connection.dialect].format(schema="current_schema()", names=quoted)
    (present,) = required_row(await connection.first_row(sql))
    if present:
        other_schema = (
            f", or set {_SETTING}" if connection.dialect == "postgresql" and not names.schema else ""
        )
        example = "projkit_" if names.prefix != "projkit_" else "projkit_kit_"
        raise ConfigurationError(
            f"PROJKIT_TABLE_PREFIX: the database already has {present}, but projkit has not created them; "
            f"choose a prefix that no other table has, for example PROJKIT_TABLE_PREFIX={example}{other_schema}"
        )
