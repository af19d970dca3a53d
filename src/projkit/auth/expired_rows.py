"""Deletion of expired rows, a few at a time, along with the writes that add new ones."""

from typing import Final

import sqlalchemy as sa

from projkit.db.statement import Statement, bind

_MAX_ROWS: Final = 200


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
