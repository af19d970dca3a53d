"""Taking out rows that have expired, a few at a time, along with the writes that add new ones."""

from typing import Final

import sqlalchemy as sa

from projkit.db.statement import Statement

_AT_ONCE: Final = 200


def forget_expired(table: sa.Table) -> Statement:
    """Deletes some of the rows whose ``expires_at`` is not after ``now``.

    Never more than a few, so that nobody's login waits for a million of them, and none that another transaction is
    at, so that two workers do not wait for each other.
    """
    some = table.alias()
    key = [column.name for column in table.primary_key.columns]
    expired = (
        sa.select(*(some.c[name] for name in key))
        .where(some.c.expires_at <= sa.bindparam("now", type_=table.c.expires_at.type))
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return Statement(sa.delete(table).where(sa.tuple_(*(table.c[name] for name in key)).in_(expired)))
