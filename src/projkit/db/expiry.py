"""The rows that are due for removal: which they are, and how a few of them are deleted."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from projkit.db.statement import Statement, bind
from projkit.db.tables import Tables

# The response to a request with an Idempotency-Key is repeated for this long.
IDEMPOTENCY_WINDOW: Final = timedelta(hours=24)
_NOW: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class ExpiringRows:
    """The rows of a table that are due for removal some time after the time in ``column``.

    Attributes:
        kind: their name in metrics and messages.
        column: an index begins with it.
        retention: how long after that time they are kept.
    """

    kind: str
    column: sa.Column[datetime]
    retention: timedelta = _NOW

    @property
    def table(self) -> sa.Table:
        """The table of the rows."""
        table = self.column.table
        assert isinstance(table, sa.Table)  # noqa: S101  # the columns belong to tables
        return table

    def delete(self, rows: int) -> Statement:
        """Return the deletion of the earliest rows between the parameters ``after`` and ``before``, up to ``rows``.

        It returns their times, from the last of which the next deletion continues: PostgreSQL would otherwise read all
        rows that were deleted since the last VACUUM. Rows that another transaction has locked are skipped, so that two
        workers never wait for each other.
        """
        table, some = self.table, self.table.alias()
        key, time = table.primary_key.columns.keys(), some.c[self.column.name]
        due = (
            sa.select(*(some.c[name] for name in key))
            .where(time >= bind(self.column, "after"), time <= bind(self.column, "before"))
            .order_by(time)
            .limit(sa.literal_column(str(rows)))
            .with_for_update(skip_locked=True)
        )
        this = sa.tuple_(*(table.c[name] for name in key))
        return Statement(sa.delete(table).where(this.in_(due)).returning(self.column))

    def oldest(self) -> sa.ScalarSelect[Any]:
        """Return the earliest time in ``column``, as a subquery."""
        return sa.select(sa.func.min(self.column)).where(self.column.is_not(None)).scalar_subquery()


def expiring_rows(tables: Tables, *, keep_deleted: timedelta | None) -> tuple[ExpiringRows, ...]:
    """Return all kinds of rows that are removed; deleted projects after ``keep_deleted``, None for never."""
    projects = ExpiringRows("deleted_projects", tables.projects.c.deleted_at, keep_deleted or _NOW)
    others = (
        ExpiringRows("idempotency_keys", tables.idempotency_keys.c.created_at, IDEMPOTENCY_WINDOW),
        # Never later than the absolute expiry.
        ExpiringRows("sessions", tables.sessions.c.idle_expires_at),
        ExpiringRows("one_time_values", tables.one_time_values.c.expires_at),
        ExpiringRows("counts", tables.counts.c.expires_at),
    )
    return others if keep_deleted is None else (projects, *others)
