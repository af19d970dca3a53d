"""``projkit purge``."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer

from projkit.cli.colours import err
from projkit.cli.console import app, duration, load_settings, print_message
from projkit.clock import utc_now
from projkit.db.connect import opened_database
from projkit.db.port import Database, Transaction
from projkit.db.scoped import allow_purge
from projkit.db.statement import Statement, bind
from projkit.db.tables import Tables
from projkit.projects.statements import IDEMPOTENCY_WINDOW
from projkit.settings import Settings

_BATCH_ROWS: Final = 1000  # one transaction each, well below the statement timeout


@app.command()
def purge(
    deleted_before: Annotated[
        str, typer.Option(help="Remove projects that were deleted this long ago, such as 12h or 30d.")
    ],
) -> None:
    """Permanently remove deleted projects, and expired idempotency keys, sessions and login counters."""
    age, settings = duration(deleted_before), load_settings()
    with err.status("removing"):
        removed = asyncio.run(_purge(settings, age))
    first, *expired = (f"{number} {name}" for name, number in removed.items())
    print_message(f"removed {first}; expired: {', '.join(expired)}")


async def _purge(settings: Settings, age: timedelta) -> dict[str, int]:
    async with opened_database(settings) as (database, tables):
        return {
            name: await _delete(database, column, before)
            for name, column, before in _outdated(tables, utc_now(), age)
        }


def _outdated(
    tables: Tables, now: datetime, age: timedelta
) -> Sequence[tuple[str, sa.Column[datetime], datetime]]:
    return (
        ("deleted projects", tables.projects.c.deleted_at, now - age),
        ("idempotency keys", tables.idempotency_keys.c.created_at, now - IDEMPOTENCY_WINDOW),
        ("sessions", tables.sessions.c.idle_expires_at, now),  # never later than the absolute expiry
        ("one-time values", tables.one_time_values.c.expires_at, now),
        ("counts", tables.counts.c.expires_at, now),
    )


async def _delete(database: Database, column: sa.Column[Any], before: datetime) -> int:
    table = column.table
    assert isinstance(table, sa.Table)  # noqa: S101  # the columns belong to tables
    key = sa.tuple_(*table.primary_key.columns)
    batch = (
        sa.select(*table.primary_key.columns)
        .where(column < bind(column, "before"))
        .limit(sa.literal_column(str(_BATCH_ROWS)))
    )
    statement = Statement(sa.delete(table).where(key.in_(batch)).returning(*table.primary_key.columns))

    async def work(transaction: Transaction) -> int:
        if database.dialect == "postgresql":
            await allow_purge(transaction)
        return len(await transaction.fetch_all(statement, {"before": before}))

    removed = 0
    while number := await database.transact(work):
        removed += number
    return removed
