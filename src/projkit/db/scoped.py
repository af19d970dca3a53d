"""Queries under row-level security (:mod:`projkit.db.row_security`).

The policies compare each row with two settings of the transaction. They are set here from the principal, never from the
parameters of the statement that they guard. A transaction sets them first. A single statement is combined with the
statement that sets them, and so remains one message: with four (BEGIN, set, query, COMMIT) a GET takes three to four
times as long (docs/decisions/storage.md).

The combined statement joins the two by LATERAL: the second cannot begin before the first has returned its row, and
OFFSET 0 keeps the planner from merging them. If they ran in the other order, the settings would be unset, and there
would be no rows.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, cast

import sqlalchemy as sa

from projkit.db.port import Queries, T, Transaction
from projkit.db.statement import Params, Row, Statement

OWNER_SETTING: Final = "projkit.owner_id"
TENANT_SETTING: Final = "projkit.tenant_id"
PURGE_SETTING: Final = "projkit.purge"
MIGRATION_SETTING: Final = "projkit.migration"
_OWNER: Final = "scope_owner_id"
_TENANT: Final = "scope_tenant_id"


def _set(name: str, value: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return the expression that sets a setting until the transaction ends."""
    return sa.func.set_config(
        sa.literal_column(f"'{name}'"), value, sa.literal_column("true"), type_=sa.Text()
    )


def _set_scope() -> sa.Select[str, str]:
    return sa.select(
        _set(TENANT_SETTING, _prefixed(_TENANT)).label("tenant_id"),
        _set(OWNER_SETTING, _prefixed(_OWNER)).label("owner_id"),
    )


def _prefixed(name: str) -> sa.ColumnElement[str]:
    """Return a parameter behind ``=``, by which the policies distinguish an empty text from an unset setting."""
    return sa.literal_column("'='", sa.Text()) + sa.bindparam(name, type_=sa.Text())


_SET_SCOPE: Final = Statement(_set_scope())
_ALLOW_PURGE: Final = Statement(sa.select(_set(PURGE_SETTING, sa.literal_column("'on'")).label("purge")))


class ScopedDatabase:
    """The :class:`~projkit.db.port.Queries` of one owner, which read and write only the rows of that owner."""

    __slots__ = ("_database", "_scope")

    def __init__(self, database: Queries, tenant_id: str, owner_id: str) -> None:
        self._database = database
        self._scope = {_TENANT: tenant_id, _OWNER: owner_id}

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        return await self._database.fetch_one(with_scope(statement), {**params, **self._scope})

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        return await self._database.fetch_all(with_scope(statement), {**params, **self._scope})

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        if _returns_rows(statement.clause):
            return await self._database.write_one(with_scope(statement), {**params, **self._scope})
        return await self.transact(lambda transaction: transaction.fetch_one(statement, params))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async def in_scope(transaction: Transaction) -> T:
            await transaction.fetch_one(_SET_SCOPE, self._scope)
            return await work(transaction)

        return await self._database.transact(in_scope)


async def allow_purge(transaction: Transaction) -> None:
    """Let this transaction read and delete the rows that can be purged, of all owners, and nothing else."""
    await transaction.fetch_one(_ALLOW_PURGE, {})


@lru_cache(maxsize=2048)  # more than there are shapes of lists, each of which has a statement of its own
def with_scope(statement: Statement) -> Statement:
    """Return the statement combined with the one that sets its scope."""
    scope = _set_scope().offset(_zero()).subquery("scope")
    clause, written = statement.clause, None
    if not isinstance(clause, sa.Select):
        # A write must be in a WITH clause, and runs when that is first read.
        written = cast("sa.UpdateBase", clause).cte("written")
        clause = sa.select(written)
    query = clause.where(scope.c.owner_id.is_not(None))
    if query._offset_clause is None:  # noqa: SLF001
        query = query.offset(_zero())
    result = query.lateral("result")
    combined = sa.select(result).select_from(scope.join(result, sa.true()))
    if written is not None:
        combined = combined.add_cte(written)
    return Statement(combined, plan_each_time=statement.plan_each_time)


def _zero() -> sa.ColumnElement[int]:
    return sa.literal_column("0", sa.Integer())


def _returns_rows(clause: sa.Executable) -> bool:
    return isinstance(clause, sa.sql.expression.ReturnsRows) and bool(list(clause.exported_columns))
