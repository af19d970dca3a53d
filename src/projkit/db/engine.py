"""The transactional mode: the same statements through an ``AsyncEngine``, a host's own or one of ours.

Slower than the fast modes (three messages a read instead of one), and at home behind PgBouncer or in a host that
already has an engine, its pool, its events.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from projkit.db.errors import is_retriable, translate_engine, unavailable
from projkit.db.port import USAGE, T, Transaction
from projkit.db.statement import Params, Row, Statement

_ATTEMPTS: Final = 3


class EngineDatabase:
    """A :class:`~projkit.db.port.Database` over an ``AsyncEngine``; closes it only if ``owned``."""

    def __init__(
        self, engine: AsyncEngine, metadata: sa.MetaData, *, statement_seconds: float, owned: bool
    ) -> None:
        self.dialect = engine.dialect.name
        self.engine = engine
        self._metadata = metadata
        self._statement_seconds = statement_seconds
        self._owned = owned

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        return await self.transact(lambda transaction: transaction.fetch_one(statement, params))

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        return await self.transact(lambda transaction: transaction.fetch_all(statement, params))

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        return await self.transact(lambda transaction: transaction.fetch_one(statement, params))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        attempt = 1
        while True:
            try:
                return await self._transact_once(work)
            except sa.exc.DBAPIError as error:
                if attempt < _ATTEMPTS and is_retriable(error):
                    await asyncio.sleep(0.01 * attempt)
                    attempt += 1
                    continue
                translated = translate_engine(error, self._metadata)
                if translated is None:
                    raise
                raise translated from error
            except sa.exc.TimeoutError as error:
                raise unavailable(error) from error
            except (OSError, TimeoutError) as error:
                raise unavailable(error) from error

    async def ping(self) -> None:
        await self.fetch_one(_PING, {})

    async def close(self) -> None:
        if self._owned:
            await self.engine.dispose()

    async def _transact_once(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        started = perf_counter()
        async with asyncio.timeout(self._statement_seconds), self.engine.begin() as connection:
            result = await work(_EngineTransaction(connection))
        usage = USAGE.get()
        if usage is not None:
            usage.seconds += perf_counter() - started
            usage.statements += 1
        return result


_PING: Final = Statement(sa.select(sa.literal(1, sa.Integer)))


def create_engine(url: str, *, pool_size: int, connect_seconds: float, pool_wait_seconds: float) -> AsyncEngine:
    """An engine for the transactional mode: no named prepared statements, so PgBouncer may stand before it."""
    if url.startswith("sqlite"):
        return create_async_engine(url, connect_args={"timeout": connect_seconds})
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_seconds,
        pool_pre_ping=True,
        connect_args={
            "timeout": connect_seconds,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        },
    )


def create_single_use_engine(url: str, *, connect_seconds: float = 10.0) -> AsyncEngine:
    """An engine that keeps no connection: for migrations and checks."""
    return create_async_engine(url, poolclass=NullPool, connect_args={"timeout": connect_seconds})


class _EngineTransaction:
    __slots__ = ("_connection",)

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        result = await self._connection.execute(statement.clause, params)
        if not result.returns_rows:
            return None
        return result.first()

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        result = await self._connection.execute(statement.clause, params)
        return result.all()

    async def execute_many(self, statement: Statement, params: Sequence[Params]) -> None:
        if params:
            await self._connection.execute(statement.clause, list(params))
