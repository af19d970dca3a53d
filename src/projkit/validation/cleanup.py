"""Removing for good what a validation has made, and nothing else.

A validation works as :data:`~projkit.identity.VALIDATION_SUBJECT`, and gives each project an ``external_id`` and an
``Idempotency-Key`` that are the mark of its run: the subject, a colon, and something of its own. Both the owner and the
mark must be right before a row goes.
"""

from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from projkit.clock import Clock
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement
from projkit.db.tables import Tables
from projkit.identity import VALIDATION_SUBJECT, Principal
from projkit.projects.scoping import owned, rows_of, scope_params

_PREFIX: Final = f"{VALIDATION_SUBJECT}:"
_AFTER: Final = f"{VALIDATION_SUBJECT};"  # the first text after all that begin with the prefix, by code point
# A run takes seconds: what is older belongs to one that was killed.
_LEFT_BEHIND: Final = timedelta(minutes=10)
_OWNER: Final = Principal(VALIDATION_SUBJECT)
_NO_PROJECT: Final = UUID(int=0)
_CLAIMED: Final = ("tenant_id", "owner_id", "key", "project_id", "created_at")


class ProbeRows:
    """The rows that validations make."""

    def __init__(self, database: Database, tables: Tables, *, clock: Clock) -> None:
        self._dialect = database.dialect
        self._database = rows_of(database, _OWNER)
        self._statements = probe_statements(tables)
        self._clock = clock

    async def clear(self, mark: str) -> None:
        """Removes what the run of this mark has made, and what runs left behind that were killed.

        Raises:
            UnavailableError: the database does not answer.
        """
        now = self._clock()
        params = {**scope_params(_OWNER), "mark": mark, "before": now - _LEFT_BEHIND}
        claim = {**scope_params(_OWNER), "key": mark, "project_id": _NO_PROJECT, "created_at": now}

        async def work(transaction: Transaction) -> None:
            if self._dialect == "postgresql":
                # A creation that was cancelled may be committing still: who wants its key waits until it has.
                await transaction.fetch_one(self._statements.claim, claim)
            # A project and its key are stored together, so that the keys name every project, deleted ones too.
            made = await transaction.fetch_all(self._statements.made, params)
            for project_id, key in made:
                named = {**params, "id": project_id, "key": key}
                await transaction.fetch_one(self._statements.remove, named)
                await transaction.fetch_one(self._statements.forget, named)
            # Where `projkit purge` has taken the key of a run that was killed, the mark is all there is.
            await transaction.fetch_one(self._statements.remove_left, params)

        await self._database.transact(work)


class ProbeStatements:
    """The statements for one set of tables; each finds its rows by an index, however many others there are."""

    def __init__(self, tables: Tables) -> None:
        projects, keys = tables.projects, tables.idempotency_keys
        self.claim = Statement(
            insert(keys)
            .values(
                {
                    **{keys.c[name]: _bind(keys.c[name]) for name in _CLAIMED},
                    **{keys.c[name]: sa.literal_column("''") for name in ("fingerprint", "etag", "body")},
                }
            )
            .on_conflict_do_nothing()
        )
        self.made = Statement(
            sa.select(keys.c.project_id, keys.c.key).where(owned(keys), _ours(keys, keys.c.key))
        )
        self.remove = Statement(
            sa.delete(projects).where(
                owned(projects),
                projects.c.id == _bind(projects.c.id),
                projects.c.external_id == sa.bindparam("key", type_=projects.c.external_id.type),
            )
        )
        self.forget = Statement(sa.delete(keys).where(owned(keys), keys.c.key == _bind(keys.c.key)))
        self.remove_left = Statement(
            sa.delete(projects).where(
                owned(projects), projects.c.deleted_at.is_(None), _ours(projects, projects.c.external_id)
            )
        )


def _bind(column: sa.Column[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(column.name, type_=column.type)


def _ours(table: sa.Table, mark: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """Marked by this run, or by an earlier one that cannot be under way any more."""
    return sa.or_(
        mark == sa.bindparam("mark", type_=mark.type),
        sa.and_(
            mark >= sa.bindparam(None, _PREFIX, type_=mark.type),
            mark < sa.bindparam(None, _AFTER, type_=mark.type),
            table.c.created_at < sa.bindparam("before", type_=table.c.created_at.type),
        ),
    )


@lru_cache(maxsize=32)
def probe_statements(tables: Tables) -> ProbeStatements:
    """The statements for ``tables``, each time the same, compiled ones included."""
    return ProbeStatements(tables)
