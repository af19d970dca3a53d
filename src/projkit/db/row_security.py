"""Row-level security on PostgreSQL: a second check of the owner, behind the filter in every statement.

Each table whose rows have an owner gets one policy: a row can be read and written if its tenant and owner are those in
the transaction's settings (:mod:`projkit.db.scoped`). Without these settings there are no rows. FORCE applies the
policy to the tables' owner as well. In a transaction with the purge setting, the policy instead selects the rows that
can be purged, of all owners.

It is one policy with a CASE instead of two policies: PostgreSQL combines several with OR, and the planner then reads
all rows of an owner for one page of them. The settings are read in subqueries, once per statement instead of once per
row.

``projkit migrate`` creates and drops the policies, independently of the schema's revisions, so that the setting can be
turned on and off at any time.
"""

import hashlib
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from projkit.db.port import required_row
from projkit.db.raw_sql import RawConnection
from projkit.db.scoped import MIGRATION_SETTING, OWNER_SETTING, PURGE_SETTING, TENANT_SETTING
from projkit.db.table_names import TableNames
from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_SETTING: Final = "PROJKIT_ROW_LEVEL_SECURITY"
_DOCUMENT: Final = "docs/row-level-security.md"
_POLICY: Final = "projkit_owner"
# Each table with the condition for rows that can be purged, in the order in which a request locks the tables.
_TABLES: Final = (
    ("idempotency_keys", "created_at < now() - interval '24 hours'"),
    ("projects", "deleted_at IS NOT NULL"),
)
# A setting that is not set is NULL, or empty after an earlier transaction. Values begin with "=" (scoped.py), because a
# tenant can be the empty text.
_SCOPE: Final = "(SELECT substr(NULLIF(current_setting('{}', true), ''), 2))"
_OWNER_MATCHES: Final = (
    f"tenant_id = {_SCOPE.format(TENANT_SETTING)} AND owner_id = {_SCOPE.format(OWNER_SETTING)}"
)
_PURGING: Final = f"(SELECT current_setting('{PURGE_SETTING}', true)) = 'on'"
_MIGRATING: Final = f"(SELECT current_setting('{MIGRATION_SETTING}', true)) = 'on'"
_OPEN_TO_MIGRATIONS: Final = (
    f"SELECT count(*) FROM pg_policy WHERE polname = '{_POLICY}' "  # noqa: S608  # constants and validated names
    f"AND polrelid IN ({{}}) AND pg_get_expr(polqual, polrelid) LIKE '%{MIGRATION_SETTING}%'"
)
_STATE: Final = (
    "SELECT c.relrowsecurity AND c.relforcerowsecurity, p.oid IS NOT NULL, obj_description(p.oid, 'pg_policy') "
    "FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = '{}' "
    "WHERE c.oid = to_regclass('{}')"
)
_BYPASSES: Final = "SELECT rolname FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"


class _State(Enum):
    NO_TABLE = auto()
    DISABLED = auto()
    ENABLED = auto()
    OUTDATED = auto()  # incomplete, or of another version


async def apply(connection: "AsyncConnection", names: TableNames, *, enabled: bool) -> None:
    """Create or drop the policies in the connection's transaction, unless they already are as requested."""
    raw = RawConnection.of_engine(connection)
    if not await differs(raw, names, enabled=enabled):
        return
    states = await _states(raw, names)
    present = [(name, purgeable) for name, purgeable in _TABLES if states[name] is not _State.NO_TABLE]
    # One statement locks all tables, in the order of requests, so that it cannot deadlock with one in progress.
    locked = ", ".join(names.qualified(f"{names.prefix}{name}") for name, _ in present)
    await connection.exec_driver_sql(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
    for name, purgeable in present:
        table = names.qualified(f"{names.prefix}{name}")
        await connection.exec_driver_sql(f"DROP POLICY IF EXISTS {_POLICY} ON {table}")
        if enabled:
            await connection.exec_driver_sql(_policy(table, purgeable))
            comment = f"COMMENT ON POLICY {_POLICY} ON {table} IS '{_digest(names, name, purgeable)}'"
            await connection.exec_driver_sql(comment)
        enable, force = ("ENABLE", "FORCE") if enabled else ("DISABLE", "NO FORCE")
        await connection.exec_driver_sql(
            f"ALTER TABLE {table} {enable} ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY"
        )


def tables(names: TableNames) -> tuple[str, ...]:
    """Return the names of the tables with policies."""
    return tuple(f"{names.prefix}{name}" for name, _ in _TABLES)


async def differs(connection: RawConnection, names: TableNames, *, enabled: bool) -> bool:
    """Return whether :func:`apply` would change something."""
    states = await _states(connection, names)
    if any(state not in (_target(enabled), _State.NO_TABLE) for state in states.values()):
        return True
    relations = ", ".join(f"to_regclass('{names.qualified(table)}')" for table in tables(names))
    (left_open,) = required_row(await connection.first_row(_OPEN_TO_MIGRATIONS.format(relations)))
    return bool(left_open)


async def open_to_migrations(connection: "AsyncConnection", names: TableNames, *, opened: bool) -> None:
    """Let transactions with the setting of migrations read and change all rows, or no longer.

    The policies exist throughout, and others are subject to them. The digest in the comment stays, by which servers
    recognize the policies.
    """
    states = await _states(RawConnection.of_engine(connection), names)
    for name, purgeable in _TABLES:
        if states[name] in (_State.NO_TABLE, _State.DISABLED):
            continue
        table = names.qualified(f"{names.prefix}{name}")
        await connection.exec_driver_sql(
            f"ALTER POLICY {_POLICY} ON {table} {_conditions(purgeable, opened=opened)}"
        )


async def require_policies(connection: RawConnection, names: TableNames, *, enabled: bool) -> None:
    """Check that the policies in the database agree with the setting.

    Raises:
        ConfigurationError: the setting is on, but the policies are missing or of another version; or it is off, but the
            tables have policies.
    """
    if connection.dialect != "postgresql":
        if enabled:
            raise ConfigurationError(
                f"{_SETTING} requires PostgreSQL, but the host's engine is for {connection.dialect}; unset it"
            )
        return
    states = await _states(connection, names)
    if all(state is _target(enabled) for state in states.values()):
        return
    if enabled:
        raise ConfigurationError(
            f"{_SETTING} is on, but the tables have no policies, or those of another version; "
            "create them with: projkit migrate"
        )
    raise ConfigurationError(
        f"{_SETTING} is off, but the tables have its policies, which would hide all rows; "
        f"set {_SETTING}=true, or drop the policies with: projkit migrate"
    )


async def require_enforcement(connection: RawConnection) -> None:
    """Check that the role is subject to policies.

    Raises:
        ConfigurationError: the role bypasses them.
    """
    role = await connection.first_row(_BYPASSES)
    if role is not None:
        raise ConfigurationError(
            f"{_SETTING} is on, but the role {role[0]} in PROJKIT_DATABASE_URL bypasses it, as superusers do; "
            f"connect as another role, created with: CREATE ROLE projkit LOGIN NOSUPERUSER NOBYPASSRLS "
            f"(see {_DOCUMENT})"
        )


async def _states(connection: RawConnection, names: TableNames) -> dict[str, _State]:
    states = {}
    for name, purgeable in _TABLES:
        table = names.qualified(f"{names.prefix}{name}")
        row = await connection.first_row(_STATE.format(_POLICY, table))
        if row is None:
            states[name] = _State.NO_TABLE
            continue
        forced, present, digest = row
        if not present:
            states[name] = _State.DISABLED
        else:
            current = forced and digest == _digest(names, name, purgeable)
            states[name] = _State.ENABLED if current else _State.OUTDATED
    return states


def _target(enabled: bool) -> _State:
    return _State.ENABLED if enabled else _State.DISABLED


def _policy(table: str, purgeable: str) -> str:
    return f"CREATE POLICY {_POLICY} ON {table} {_conditions(purgeable)}"


def _conditions(purgeable: str, *, opened: bool = False) -> str:
    using, check = f"CASE WHEN {_PURGING} THEN {purgeable} ELSE {_OWNER_MATCHES} END", _OWNER_MATCHES
    if opened:
        using, check = (f"CASE WHEN {_MIGRATING} THEN true ELSE {each} END" for each in (using, check))
    return f"USING ({using}) WITH CHECK ({check})"


def _digest(names: TableNames, name: str, purgeable: str) -> str:
    """Identify this version of a policy: PostgreSQL returns the text of a policy in a form of its own.

    The schema is no part of it, because a table that is moved to another schema takes its policy along.
    """
    return hashlib.sha256(_policy(f"{names.prefix}{name}", purgeable).encode()).hexdigest()
