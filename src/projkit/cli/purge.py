"""``projkit purge``."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer

from projkit.cli.colours import err
from projkit.cli.console import app, duration, load_settings, say
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.port import Database, Transaction
from projkit.db.scoped import allow_purge
from projkit.db.statement import Statement, bind
from projkit.db.tables import Tables, build_tables
from projkit.projects.statements import IDEMPOTENCY_WINDOW
from projkit.settings import Settings

_BATCH: Final = 1000  # each its own transaction, well within the limit for a statement


@app.command()
def purge(
    deleted_before: Annotated[str, typer.Option(help="How long ago they must have been deleted: 12h, 30d.")],
) -> None:
    """Remove for good what was deleted or has expired: projects, idempotency keys, sessions, counts of attempts."""
    age, settings = duration(deleted_before), load_settings()
    with err.status("removing"):
        removed = asyncio.run(_purge(settings, age))
    first, *expired = (f"{number} {name}" for name, number in removed.items())
    say(f"removed {first} and, expired, {', '.join(expired)}")


async def _purge(settings: Settings, age: timedelta) -> dict[str, int]:
    tables = build_tables(settings.table_prefix)
    database = await open_database(settings, tables)
    now = utc_now()
    try:
        return {
            name: await _delete(database, column, before)
            for name, column, before in _outdated(tables, now, age)
        }
    finally:
        await database.close()


def _outdated(
    tables: Tables, now: datetime, age: timedelta
) -> Sequence[tuple[str, sa.Column[datetime], datetime]]:
    return (
        ("deleted projects", tables.projects.c.deleted_at, now - age),
        ("idempotency keys", tables.idempotency_keys.c.created_at, now - IDEMPOTENCY_WINDOW),
        ("sessions", tables.sessions.c.idle_expires_at, now),  # never later than the absolute end
        ("one-time values", tables.one_time_values.c.expires_at, now),
        ("counts", tables.counts.c.expires_at, now),
    )


async def _delete(database: Database, column: sa.Column[Any], before: datetime) -> int:
    table = column.table
    assert isinstance(table, sa.Table)  # noqa: S101  # it is a column of one
    key = sa.tuple_(*table.primary_key.columns)
    some = (
        sa.select(*table.primary_key.columns)
        .where(column < bind(column, "before"))
        .limit(sa.literal_column(str(_BATCH)))
    )
    statement = Statement(sa.delete(table).where(key.in_(some)).returning(*table.primary_key.columns))

    async def work(transaction: Transaction) -> int:
        if database.dialect == "postgresql":
            await allow_purge(transaction)
        return len(await transaction.fetch_all(statement, {"before": before}))

    removed = 0
    while number := await database.transact(work):
        removed += number
    return removed
