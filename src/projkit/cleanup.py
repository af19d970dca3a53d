"""Cleanup: the removal of rows that are due, in the background of whichever worker claims the current minute.

Each worker looks once a minute at the oldest row of each kind, which is the first entry of an index. If one is due, the
first worker that records its claim removes rows until none is left or the minute is over. A worker that is killed
leaves nothing behind: the next minute is another claim. All databases and connection poolers support that, unlike a
lock that belongs to a connection.

A batch is one short transaction, and after each there is a pause of several times its duration, so that requests wait
for neither.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from projkit.clock import Clock
from projkit.db.expiry import ExpiringRows, expiring_rows
from projkit.db.port import Database, Transaction, required_row
from projkit.db.scoped import allow_purge
from projkit.db.statement import Statement, bind, equals
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError, UnavailableError
from projkit.observers import NULL_OBSERVER, Observer
from projkit.settings import Settings

logger: Final = logging.getLogger("projkit.cleanup")

PERIOD_SECONDS: Final = 60
BATCH_ROWS: Final = 500
_PAUSE_RATIO: Final = 4  # of the pause after a batch to the batch


class Cleanup:
    """The removal of rows that are due.

    Args:
        database: the database.
        tables: its tables.
        kinds: the rows to remove.
        clock: tells which rows are due.
        observer: records what was removed, and the backlog.
        batch_rows: the number of rows that one transaction removes at most.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        kinds: Sequence[ExpiringRows],
        *,
        clock: Clock,
        observer: Observer = NULL_OBSERVER,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._clock = clock
        self._observer = observer
        self._batch_rows = batch_rows
        self._delete = {each.kind: each.delete(batch_rows) for each in kinds}
        self._oldest = Statement(sa.select(*(each.oldest().label(each.kind) for each in kinds)))
        once = tables.one_time_values
        claim = (once.c.tenant_id == "", equals(once.c.value_hash))
        self._is_claimed = Statement(sa.select(once.c.value_hash).where(*claim))
        self._claim = Statement(
            sa.insert(once).values(
                tenant_id="", value_hash=bind(once.c.value_hash), expires_at=bind(once.c.expires_at)
            )
        )

    async def run(self) -> None:
        """Remove what is due if there is something, and no other worker has claimed this period.

        Raises:
            UnavailableError: the database does not respond.
        """
        due = await self._measure()
        if not due or not await self._acquire():
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + PERIOD_SECONDS
        for rows, oldest in due:
            number, time = self._batch_rows, oldest
            while number == self._batch_rows and (started := loop.time()) < end:
                number, time = await self._remove_batch(rows, time)
                await asyncio.sleep((loop.time() - started) * _PAUSE_RATIO)
        await self._measure()

    async def remove_all(self) -> dict[str, int]:
        """Remove all rows that are due, without pauses; return their number by kind."""
        removed = {each.kind: 0 for each in self._kinds}
        for rows, oldest in await self._measure():
            number, time = self._batch_rows, oldest
            while number == self._batch_rows:
                number, time = await self._remove_batch(rows, time)
                removed[rows.kind] += number
        return removed

    async def _remove_batch(self, rows: ExpiringRows, after: datetime) -> tuple[int, datetime]:
        """Remove the earliest rows from ``after`` on; return their number and the time from which to continue."""
        between = {"after": after, "before": self._clock() - rows.retention}

        async def work(transaction: Transaction) -> list[datetime]:
            await self._allow(transaction)
            return [time for (time,) in await transaction.fetch_all(self._delete[rows.kind], between)]

        removed = await self._database.transact(work)
        self._observer.record_cleanup(rows.kind, len(removed))
        return len(removed), max(removed, default=after)

    async def _measure(self) -> list[tuple[ExpiringRows, datetime]]:
        """Record for how long the oldest row of each kind has been due; return it for the kinds that have one."""

        async def work(transaction: Transaction) -> Sequence[datetime | None]:
            await self._allow(transaction)
            return required_row(await transaction.fetch_one(self._oldest, {}))

        due, now = [], self._clock()
        for each, oldest in zip(self._kinds, await self._database.transact(work), strict=True):
            overdue = timedelta(0) if oldest is None else now - each.retention - oldest
            self._observer.record_cleanup_backlog(each.kind, max(0.0, overdue.total_seconds()))
            if oldest is not None and overdue >= timedelta(0):
                due.append((each, oldest))
        return due

    async def _acquire(self) -> bool:
        """Return whether this worker is the first to claim the current period."""
        now = self._clock()
        claim = {
            "value_hash": f"cleanup:{int(now.timestamp()) // PERIOD_SECONDS}",
            "expires_at": now + timedelta(seconds=2 * PERIOD_SECONDS),
        }
        if await self._database.fetch_one(self._is_claimed, claim) is not None:
            return False
        try:
            await self._database.write_one(self._claim, claim)
        except DatabaseConstraintError:
            return False
        return True

    async def _allow(self, transaction: Transaction) -> None:
        if self._database.dialect == "postgresql":
            await allow_purge(transaction)


def start_cleanup(
    settings: Settings, database: Database, tables: Tables, *, clock: Clock, observer: Observer
) -> "CleanupTask | None":
    """Start the background task, unless it is disabled."""
    if not settings.cleanup:
        return None
    kept = settings.deleted_projects_seconds
    kinds = expiring_rows(tables, keep_deleted=timedelta(seconds=kept) if kept else None)
    return CleanupTask(Cleanup(database, tables, kinds, clock=clock, observer=observer))


class CleanupTask:
    """A background task on one event loop that runs the cleanup once a minute, at times that differ by worker."""

    def __init__(self, cleanup: Cleanup) -> None:
        self._cleanup = cleanup
        self._task = asyncio.get_running_loop().create_task(self._repeat(), context=Context())

    async def close(self) -> None:
        """Stop the task; a batch in progress is rolled back."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _repeat(self) -> None:
        pause = PERIOD_SECONDS * random.uniform(0.05, 0.25)  # noqa: S311 - not a secret
        while True:
            await asyncio.sleep(pause)
            pause = PERIOD_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311
            try:
                await self._cleanup.run()
            except UnavailableError as error:
                logger.warning("the cleanup was interrupted, and continues within minutes: %s", error)
            except Exception:
                logger.exception("the cleanup failed; it is tried again every minute")
