"""Row-level security on PostgreSQL: a second wall between owners, behind the filter that every statement brings.

One policy on each table whose rows have an owner: a row is seen, and may be written, where its tenant and owner are
those that the transaction has been set to (:mod:`projkit.db.scoped`); unset, there are no rows. FORCE holds the tables'
own owner to it as well. In a transaction that has been set to purge, what may be purged is seen and removed instead,
whoever's it is.

It is one policy with a CASE, not two policies: PostgreSQL joins several by OR, which the planner takes for two ways
into the table, and then reads all the rows of an owner for one page of them. The settings are read in subqueries, once
a statement instead of once a row.

``projkit migrate`` puts the policies up and takes them down, apart from the revisions of the schema, so that the
setting can be turned on and off at any time.
"""

import hashlib
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from projkit.db.raw_sql import RawConnection
from projkit.db.scoped import OWNER_SETTING, PURGE_SETTING, TENANT_SETTING
from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_SETTING: Final = "PROJKIT_ROW_LEVEL_SECURITY"
_DOCUMENT: Final = "docs/row-level-security.md"
_POLICY: Final = "projkit_owner"
# Each table with what of it may be purged; the order is that in which a request locks them.
_TABLES: Final = (
    ("idempotency_keys", "created_at < now() - interval '24 hours'"),
    ("projects", "deleted_at IS NOT NULL"),
)
# Unset is NULL, or the empty text after an earlier transaction: what was set begins with a mark, since a tenant may
# well be the empty text.
_SCOPE: Final = "(SELECT substr(NULLIF(current_setting('{}', true), ''), 2))"
_OWNED: Final = f"tenant_id = {_SCOPE.format(TENANT_SETTING)} AND owner_id = {_SCOPE.format(OWNER_SETTING)}"
_PURGING: Final = f"(SELECT current_setting('{PURGE_SETTING}', true)) = 'on'"
_STATE: Final = (  # the prefix of the table is checked by the settings
    "SELECT c.relrowsecurity AND c.relforcerowsecurity, p.oid IS NOT NULL, obj_description(p.oid, 'pg_policy') "
    "FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = '{}' "
    "WHERE c.oid = to_regclass('{}')"
)
_BYPASSES: Final = "SELECT rolname FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"
_SET_PROBE: Final = "SELECT set_config('projkit.probe', 'here', true)"
_READ_PROBE: Final = "SELECT current_setting('projkit.probe', true)"


class _State(Enum):
    NO_TABLE = auto()
    DOWN = auto()
    UP = auto()
    OTHER = auto()  # half of it, or another version's


async def apply(connection: "AsyncConnection", table_prefix: str, *, wanted: bool) -> None:
    """Puts the policies up, or takes them down, in the connection's transaction; what is as wanted is left alone."""
    states = await _states(RawConnection.of_engine(connection), table_prefix)
    present = [name for name, _ in _TABLES if states[name] is not _State.NO_TABLE]
    if all(states[name] is _goal(wanted) for name in present):
        return
    # All at once and in this order, so that a request under way is waited for and never met half-way.
    names = ", ".join(f"{table_prefix}{name}" for name in present)
    await connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    for name, purgeable in _TABLES:
        table = f"{table_prefix}{name}"
        if name not in present:
            continue
        await connection.exec_driver_sql(f"DROP POLICY IF EXISTS {_POLICY} ON {table}")
        if wanted:
            await connection.exec_driver_sql(_policy(table, purgeable))
            comment = f"COMMENT ON POLICY {_POLICY} ON {table} IS '{_digest(table, purgeable)}'"
            await connection.exec_driver_sql(comment)
        enable, force = ("ENABLE", "FORCE") if wanted else ("DISABLE", "NO FORCE")
        await connection.exec_driver_sql(
            f"ALTER TABLE {table} {enable} ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY"
        )


async def require_policies(connection: RawConnection, table_prefix: str, *, wanted: bool) -> None:
    """Holds what the database has against what the setting says.

    Raises:
        ConfigurationError: the setting is on, and the policies are not there or are of another version; or it is off,
            and they are there.
    """
    if connection.dialect != "postgresql":
        if wanted:
            raise ConfigurationError(
                f"{_SETTING} needs PostgreSQL, and the engine that was handed in is for {connection.dialect}; "
                "unset it"
            )
        return
    states = await _states(connection, table_prefix)
    if all(state is _goal(wanted) for state in states.values()):
        return
    if wanted:
        raise ConfigurationError(
            f"{_SETTING} is on, and the tables do not have its policies, or those of another version; "
            "bring them up to date with: projkit migrate"
        )
    raise ConfigurationError(
        f"{_SETTING} is off, and the tables have its policies, by which everything would look empty; "
        f"set {_SETTING}=true, or take them down with: projkit migrate"
    )


async def require_obedience(connection: RawConnection) -> None:
    """Holds the role against the policies, and the connection against what they need: a transaction.

    Raises:
        ConfigurationError: no policy holds for the role, or settings do not outlive their statement.
    """
    role = await connection.first_row(_BYPASSES)
    if role is not None:
        raise ConfigurationError(
            f"{_SETTING} is on, and the role {role[0]} in PROJKIT_DATABASE_URL bypasses it, as superusers do; "
            f"connect as a role without it, made with: CREATE ROLE projkit LOGIN NOSUPERUSER NOBYPASSRLS "
            f"(see {_DOCUMENT})"
        )
    await connection.first_row(_SET_PROBE)
    probe = await connection.first_row(_READ_PROBE)
    if probe is None or probe[0] != "here":
        raise ConfigurationError(
            f"{_SETTING} needs transactions, and the engine that was handed in commits each statement by itself; "
            "make it without isolation_level=AUTOCOMMIT"
        )


async def _states(connection: RawConnection, table_prefix: str) -> dict[str, _State]:
    found = {}
    for name, purgeable in _TABLES:
        table = f"{table_prefix}{name}"
        row = await connection.first_row(_STATE.format(_POLICY, table))
        if row is None:
            found[name] = _State.NO_TABLE
            continue
        forced, present, digest = row
        if not present:
            found[name] = _State.DOWN
        else:
            whole = forced and digest == _digest(table, purgeable)
            found[name] = _State.UP if whole else _State.OTHER
    return found


def _goal(wanted: bool) -> _State:
    return _State.UP if wanted else _State.DOWN


def _policy(table: str, purgeable: str) -> str:
    return (
        f"CREATE POLICY {_POLICY} ON {table} "
        f"USING (CASE WHEN {_PURGING} THEN {purgeable} ELSE {_OWNED} END) "
        f"WITH CHECK ({_OWNED})"
    )


def _digest(table: str, purgeable: str) -> str:
    """Tells a policy of this version from one of another: PostgreSQL gives its text back in words of its own."""
    return hashlib.sha256(_policy(table, purgeable).encode()).hexdigest()
