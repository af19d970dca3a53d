"""Permanent removal of the rows that validation runs create.

A run works as :data:`~projkit.identity.VALIDATION_SUBJECT` and gives each project an ``external_id`` and an
``Idempotency-Key`` equal to its run id: that subject, a colon and a UUID. A row is removed only if both its owner and
its run id match.
"""

from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from projkit.clock import Clock
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement, bind, equals
from projkit.db.tables import Tables
from projkit.identity import VALIDATION_SUBJECT, Principal
from projkit.projects.scoping import owned, scope_params, scoped_queries

_RUN_IDS_FROM: Final = f"{VALIDATION_SUBJECT}:"
_RUN_IDS_BEFORE: Final = f"{VALIDATION_SUBJECT};"  # by code point, the first text after all run ids
# A run takes seconds, so that older rows belong to a run that was killed.
_ABANDONED_AFTER: Final = timedelta(minutes=10)
_OWNER: Final = Principal(VALIDATION_SUBJECT)
_NO_PROJECT: Final = UUID(int=0)
_CLAIM_COLUMNS: Final = ("tenant_id", "owner_id", "key", "project_id", "created_at")


class ValidationRows:
    """The rows that validation runs create in one database."""

    def __init__(self, database: Database, tables: Tables, *, clock: Clock) -> None:
        self._dialect = database.dialect
        self._database = scoped_queries(database, _OWNER)
        self._statements = cleanup_statements(tables)
        self._clock = clock

    async def remove(self, run_id: str) -> None:
        """Remove the rows of this run, and those of runs that were killed at least ten minutes ago.

        Raises:
            UnavailableError: the database does not respond.
        """
        now = self._clock()
        params = {**scope_params(_OWNER), "run_id": run_id, "before": now - _ABANDONED_AFTER}
        claim = {**scope_params(_OWNER), "key": run_id, "project_id": _NO_PROJECT, "created_at": now}

        async def work(transaction: Transaction) -> None:
            if self._dialect == "postgresql":
                # A cancelled creation may still be committing: inserting its key waits until it has finished.
                await transaction.fetch_one(self._statements.claim, claim)
            # A project and its key are stored together, so that the keys lead to every project, deleted ones too.
            rows = await transaction.fetch_all(self._statements.list_keys, params)
            for project_id, key in rows:
                names = {**params, "id": project_id, "key": key}
                await transaction.fetch_one(self._statements.remove_project, names)
                await transaction.fetch_one(self._statements.remove_key, names)
            # If `projkit purge` has removed the key of a killed run, only the external_id is left to find it by.
            await transaction.fetch_one(self._statements.remove_without_key, params)

        await self._database.transact(work)


class CleanupStatements:
    """The statements for one set of tables; each finds its rows through an index."""

    def __init__(self, tables: Tables) -> None:
        projects, keys = tables.projects, tables.idempotency_keys
        self.claim = Statement(
            insert(keys)
            .values(
                {
                    **{keys.c[name]: bind(keys.c[name]) for name in _CLAIM_COLUMNS},
                    **{keys.c[name]: sa.literal_column("''") for name in ("fingerprint", "etag", "body")},
                }
            )
            .on_conflict_do_nothing()
        )
        self.list_keys = Statement(
            sa.select(keys.c.project_id, keys.c.key).where(owned(keys), _is_removable(keys, keys.c.key))
        )
        self.remove_project = Statement(
            sa.delete(projects).where(
                owned(projects),
                equals(projects.c.id),
                equals(projects.c.external_id, "key"),
            )
        )
        self.remove_key = Statement(sa.delete(keys).where(owned(keys), equals(keys.c.key)))
        self.remove_without_key = Statement(
            sa.delete(projects).where(
                owned(projects),
                projects.c.deleted_at.is_(None),
                _is_removable(projects, projects.c.external_id),
            )
        )


def _is_removable(table: sa.Table, run_id: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """Compare ``run_id`` with this run's, or with those of runs that are too old to be still working."""
    return sa.or_(
        equals(run_id, "run_id"),
        sa.and_(
            run_id >= sa.bindparam(None, _RUN_IDS_FROM, type_=run_id.type),
            run_id < sa.bindparam(None, _RUN_IDS_BEFORE, type_=run_id.type),
            table.c.created_at < bind(table.c.created_at, "before"),
        ),
    )


@lru_cache(maxsize=32)
def cleanup_statements(tables: Tables) -> CleanupStatements:
    """Return the statements for ``tables``, cached so that each is compiled once."""
    return CleanupStatements(tables)
