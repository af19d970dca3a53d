"""Counting events in windows of time, over all workers: in Redis, else in the database.

Our own, since ``limits`` keeps no counts in a database, and its Redis storage opens connections of its own with
redis-py's long retries; how a limit is written and read is ``limits``' own.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import sqlalchemy as sa

from projkit.auth.expired import forget_expired
from projkit.auth.sessions.port import sha256_hex
from projkit.clock import Clock
from projkit.db.port import Database, Transaction
from projkit.db.statement import Statement
from projkit.db.tables import Tables
from projkit.errors import DatabaseConstraintError, UnavailableError

_ATTEMPTS: Final = 5


class Counts(Protocol):
    """Named counts, each beginning anew when its window has ended."""

    async def add(self, name: str, amount: int, seconds: int) -> tuple[int, float]:
        """Adds to a count, whose window is ``seconds`` long if it begins now; gives it and the seconds left.

        ``amount`` may be -1, which takes one back; no count falls below zero for it.

        Raises:
            UnavailableError: what counts does not answer.
        """


class DatabaseCounts:
    """:class:`Counts` in the database."""

    def __init__(self, database: Database, tables: Tables, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        counts = tables.counts
        this = sa.and_(counts.c.tenant_id == "", counts.c.name == _bind("name", counts.c.name))
        amount, ends = _bind("amount", counts.c.count), _bind("ends", counts.c.expires_at)
        is_over = counts.c.expires_at <= _bind("now", counts.c.expires_at)
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
        self._begin = Statement(
            sa.insert(counts)
            .values(tenant_id="", name=_bind("name", counts.c.name), count=first, expires_at=ends)
            .returning(counts.c.count, counts.c.expires_at)
        )
        self._forget_expired = forget_expired(counts)

    async def add(self, name: str, amount: int, seconds: int) -> tuple[int, float]:
        for _ in range(_ATTEMPTS):
            now = self._clock()
            params = {
                "name": sha256_hex(name),
                "amount": amount,
                "now": now,
                "ends": now + timedelta(seconds=seconds),
            }
            try:
                count, until = await self._database.transact(self._work(params))
            except DatabaseConstraintError:  # another worker has begun the window meanwhile
                continue
            return count, min((until - now).total_seconds(), seconds)
        raise UnavailableError("Too many attempts at once")

    def _work(self, params: dict[str, Any]) -> Callable[[Transaction], Any]:
        async def work(transaction: Transaction) -> tuple[int, datetime]:
            row = await transaction.fetch_one(self._add, params)
            if row is None:
                await transaction.fetch_one(self._forget_expired, params)
                row = await transaction.fetch_one(self._begin, params)
            assert row is not None  # noqa: S101  # an INSERT returns its row or raises
            return row[0], row[1]

        return work


def _bind(name: str, column: sa.Column[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=column.type)
