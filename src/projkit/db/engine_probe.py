"""The probe of a host's engine."""

import asyncio
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from projkit.db.probe import CLOSE_SECONDS, POSTGRESQL_READ_ONLY, POSTGRESQL_TIME, SQLITE_TIME, AsyncProbe
from projkit.db.raw_sql import engine_first_row
from projkit.db.statement import Row

_SELECT_ONE: Final = "SELECT 1"


class EngineProbe(AsyncProbe):
    """A probe that connects as the host's engine does, but in a pool of its own."""

    def __init__(self, engine: AsyncEngine, revision_sql: str) -> None:
        super().__init__(revision_sql)
        self.dialect = engine.dialect.name
        host = engine.sync_engine
        self._engine = AsyncEngine(sa.Engine(host.pool.recreate(), host.dialect, host.url))

    async def accepts_writes(self) -> bool:
        if self.dialect != "postgresql":
            await self._value(_SELECT_ONE)
            return True
        writable: bool = await self._value(POSTGRESQL_READ_ONLY) == "off"
        if not writable:
            # After a failover, the next connection may lead to the new primary.
            await self._engine.dispose()
        return writable

    async def now(self) -> float:
        return float(await self._value(POSTGRESQL_TIME if self.dialect == "postgresql" else SQLITE_TIME))

    async def close(self) -> None:
        async with asyncio.timeout(CLOSE_SECONDS):
            await self._engine.dispose()

    def abandon(self) -> None:
        self._engine.sync_engine.dispose(close=False)

    async def _first_row(self, sql: str) -> Row | None:
        async with self._engine.connect() as connection:
            return await engine_first_row(connection, sql)
