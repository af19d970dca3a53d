"""``projkit purge``."""

import asyncio
from datetime import timedelta
from typing import Annotated, Final

import typer

from projkit.cleanup import Cleanup
from projkit.cli.colours import err
from projkit.cli.console import app, duration, load_settings, print_message
from projkit.clock import utc_now
from projkit.db.connect import opened_database
from projkit.db.expiry import expiring_rows
from projkit.settings import Settings

BATCH_ROWS: Final = 1000  # one transaction each, well below the statement timeout


@app.command()
def purge(
    deleted_before: Annotated[
        str, typer.Option(help="Remove projects that were deleted this long ago, such as 12h or 30d.")
    ],
) -> None:
    """Permanently remove deleted projects, and expired idempotency keys, sessions and login counters.

    The servers do that in the background, unless PROJKIT_CLEANUP is false.
    """
    age, settings = duration(deleted_before), load_settings()
    with err.status("removing"):
        removed = asyncio.run(_purge(settings, age))
    first, *expired = (f"{number} {kind.replace('_', ' ')}" for kind, number in removed.items())
    print_message(f"removed {first}; expired: {', '.join(expired)}")


async def _purge(settings: Settings, age: timedelta) -> dict[str, int]:
    async with opened_database(settings) as (database, tables):
        kinds = expiring_rows(tables, keep_deleted=age)
        cleanup = Cleanup(database, tables, kinds, clock=utc_now, batch_rows=BATCH_ROWS)
        return await cleanup.remove_all()
