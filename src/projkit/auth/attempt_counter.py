"""Fixed-window counters of login attempts, shared by all workers: in Redis, otherwise in the database.

``limits`` parses the settings, but does not store the counts: it has no database storage, and its Redis storage opens
connections of its own with redis-py's long retries.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import sqlalchemy as sa

from projkit.auth.sessions.port import sha256_hex
from projkit.clock import Clock
from projkit.db.port import Database, Transaction, required_row
from projkit.db.statement import Statement, bind, equals
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError, UnavailableError

_MAX_TRIES: Final = 5


class AttemptCounter(Protocol):
    """Named counters, each reset when its window ends."""

    async def add(self, name: str, amount: int, seconds: int) -> tuple[int, float]:
        """Add ``amount`` to a counter; return its new value and the seconds until its window ends.

        A counter that does not exist yet starts a window of ``seconds``. ``amount`` may be negative; a counter never
        falls below zero.

        Raises:
            UnavailableError: the store does not respond.
        """


class DatabaseAttemptCounter:
    """:class:`AttemptCounter` in the database."""

    def __init__(self, database: Database, tables: Tables, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        counts = tables.counts
        this = sa.and_(counts.c.tenant_id == "", equals(counts.c.name))
        amount, ends = bind(counts.c.count, "amount"), bind(counts.c.expires_at, "ends")
        is_over = counts.c.expires_at <= bind(counts.c.expires_at, "now")
        first = sa.case((amount < 0, 0), else_=amount)
        self._add = Statement(
            sa.update(counts)
            .where(this)
            .values(
                count=sa.case(
                    (is_over, first), (counts.c.count + amount < 0, 0), else_=counts.c.count + amount
                ),
                expires_at=sa.case((is_over, ends), else_=counts.c.expires_at),
            )
            .returning(counts.c.count, counts.c.expires_at)
        )
        self._start_window = Statement(
            sa.insert(counts)
            .values(tenant_id="", name=bind(counts.c.name), count=first, expires_at=ends)
            .returning(counts.c.count, counts.c.expires_at)
        )

    async def add(self, name: str, amount: int, seconds: int) -> tuple[int, float]:
        for _ in range(_MAX_TRIES):
            now = self._clock()
            params = {
                "name": sha256_hex(name),
                "amount": amount,
                "now": now,
                "ends": now + timedelta(seconds=seconds),
            }
            try:
                count, until = await self._database.transact(self._work(params))
            except DatabaseConstraintError:  # another worker started the window at the same time
                continue
            return count, min((until - now).total_seconds(), seconds)
        raise UnavailableError("Too many concurrent attempts on one account")

    def _work(self, params: dict[str, Any]) -> Callable[[Transaction], Any]:
        async def work(transaction: Transaction) -> tuple[int, datetime]:
            row = await transaction.fetch_one(self._add, params)
            if row is None:
                row = await transaction.fetch_one(self._start_window, params)
            count, expires_at = required_row(row)
            return count, expires_at

        return work
