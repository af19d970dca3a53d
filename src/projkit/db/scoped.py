"""The database as one owner sees it, where row-level security holds (:mod:`projkit.db.row_security`).

The policies compare each row with two settings of the transaction, which are set here from the principal, never from
the parameters of the statement that they guard. A transaction sets them first. A single statement is made one with
the setting of them, and so stays one message: asked in four (BEGIN, set, ask, COMMIT) a GET takes three to four times
as long (docs/decisions/storage.md has the figures).

That one statement joins what sets to what asks by LATERAL: the second cannot begin before the first has given its row,
and OFFSET 0 keeps the planner from merging the two. Were it otherwise, the settings would be unset and no row be seen.
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
_OWNER: Final = "scope_owner_id"
_TENANT: Final = "scope_tenant_id"


def _set(name: str, value: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Sets a setting until the transaction ends."""
    return sa.func.set_config(
        sa.literal_column(f"'{name}'"), value, sa.literal_column("true"), type_=sa.Text()
    )


def _set_scope() -> sa.Select[str, str]:
    return sa.select(
        _set(TENANT_SETTING, _marked(_TENANT)).label("tenant_id"),
        _set(OWNER_SETTING, _marked(_OWNER)).label("owner_id"),
    )


def _marked(name: str) -> sa.ColumnElement[str]:
    """A parameter behind a mark, by which the policies tell an empty text from one that was never set."""
    return sa.literal_column("'='", sa.Text()) + sa.bindparam(name, type_=sa.Text())


_SET_SCOPE: Final = Statement(_set_scope())
_ALLOW_PURGE: Final = Statement(sa.select(_set(PURGE_SETTING, sa.literal_column("'on'")).label("purge")))


class ScopedDatabase:
    """:class:`~projkit.db.port.Queries` that see and change the rows of one owner."""

    __slots__ = ("_database", "_scope")

    def __init__(self, database: Queries, tenant_id: str, owner_id: str) -> None:
        self._database = database
        self._scope = {_TENANT: tenant_id, _OWNER: owner_id}

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        return await self._database.fetch_one(_in_scope(statement), {**params, **self._scope})

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        return await self._database.fetch_all(_in_scope(statement), {**params, **self._scope})

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        if _returns_rows(statement.clause):
            return await self._database.write_one(_in_scope(statement), {**params, **self._scope})
        return await self.transact(lambda transaction: transaction.fetch_one(statement, params))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async def in_scope(transaction: Transaction) -> T:
            await transaction.fetch_one(_SET_SCOPE, self._scope)
            return await work(transaction)

        return await self._database.transact(in_scope)


async def allow_purge(transaction: Transaction) -> None:
    """Lets this transaction see and remove what is to be purged, whoever's it is, and nothing else."""
    await transaction.fetch_one(_ALLOW_PURGE, {})


@lru_cache(maxsize=2048)  # more than there are lists, which keep their own statements
def _in_scope(statement: Statement) -> Statement:
    """The statement made one with the setting of its scope."""
    scope = _set_scope().offset(_nothing()).subquery("scope")
    clause, written = statement.clause, None
    if not isinstance(
        clause, sa.Select
    ):  # a write: it has its place in a WITH, and is run when that is first read
        written = cast("sa.UpdateBase", clause).cte("written")
        clause = sa.select(written)
    asked = clause.where(scope.c.owner_id.is_not(None))
    if asked._offset_clause is None:
        asked = asked.offset(_nothing())
    answer = asked.lateral("answer")
    whole = sa.select(answer).select_from(scope.join(answer, sa.true()))
    return Statement(whole if written is None else whole.add_cte(written))


def _nothing() -> sa.ColumnElement[int]:
    return sa.literal_column("0", sa.Integer())


def _returns_rows(clause: sa.Executable) -> bool:
    return isinstance(clause, sa.sql.expression.ReturnsRows) and bool(list(clause.exported_columns))
