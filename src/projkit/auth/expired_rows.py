"""Deletion of expired rows, a few at a time, along with the writes that add new ones."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from projkit.db.port import Database
from projkit.db.statement import Statement, bind

_MAX_ROWS: Final = 200
_DELETE_EVERY: Final = 100


class ExpiredRows:
    """The expired rows of tables to which one row is added at a time; every hundredth addition deletes some."""

    def __init__(self, database: Database, *tables: sa.Table) -> None:
        self._database = database
        self._statements = [delete_expired(table) for table in tables]
        self._added = 0

    async def count_added(self, now: datetime) -> None:
        """Count an added row, and delete expired rows if it is time to."""
        self._added += 1
        if self._added % _DELETE_EVERY == 1:
            for statement in self._statements:
                await self._database.write_one(statement, {"now": now})


def delete_expired(table: sa.Table) -> Statement:
    """Return a statement that deletes up to 200 rows whose ``expires_at`` is not after the parameter ``now``.

    The limit keeps a login from waiting for the deletion of a million rows. Rows that another transaction has locked
    are skipped, so two workers never wait for each other.
    """
    some = table.alias()
    key = [column.name for column in table.primary_key.columns]
    expired = (
        sa.select(*(some.c[name] for name in key))
        .where(some.c.expires_at <= bind(table.c.expires_at, "now"))
        .limit(_MAX_ROWS)
        .with_for_update(skip_locked=True)
    )
    return Statement(sa.delete(table).where(sa.tuple_(*(table.c[name] for name in key)).in_(expired)))
