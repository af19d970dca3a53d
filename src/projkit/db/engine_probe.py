"""The probe of a host's engine."""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import StaticPool

from projkit.db.probe import CLOSE_SECONDS, EPOCH, WaitingProbe


class EngineProbe(WaitingProbe):
    """A connection made as the host's engine makes its own, in a pool of the probe's own."""

    def __init__(self, engine: AsyncEngine, revision: str) -> None:
        super().__init__(revision)
        self.dialect = engine.dialect.name
        own = engine.sync_engine
        # A StaticPool's single connection may be all there is of the database: in memory.
        self._own = not isinstance(own.pool, StaticPool)
        if self._own:
            own = sa.Engine(own.pool.recreate(), own.dialect, own.url)
        self._engine = AsyncEngine(own)

    async def now(self) -> float:
        return float(
            await self._ask(EPOCH if self.dialect == "postgresql" else "SELECT strftime('%s', 'now')")
        )

    async def close(self) -> None:
        if self._own:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._engine.dispose()

    def abandon(self) -> None:
        if self._own:
            self._engine.sync_engine.dispose(close=False)

    async def _ask(self, sql: str) -> Any:
        async with self._turn, self._engine.connect() as connection:
            return (await connection.exec_driver_sql(sql)).scalar()
