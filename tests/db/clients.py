"""Clients of kits in each mode, for modules that run tests of the API again on a database of their own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from projkit import ProjKit, Settings
from tests.conftest import MODES, Client, Clock, OpenClient

HOSTS_ENGINE = "host's engine"
ALL_MODES = (*MODES, HOSTS_ENGINE)


def clients_in_mode(
    mode: str,
    clock: Clock,
    settings_with: Callable[..., Settings],
    create_engine: Callable[[str], AsyncEngine] = create_async_engine,
) -> OpenClient:
    """Return a function that starts a kit in a mode; ``settings_with`` makes the settings of what the test changes."""

    @asynccontextmanager
    async def start(subject: str | None = "alice", **changes: Any) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            if mode == HOSTS_ENGINE:
                settings = settings_with(**changes)
                engine = create_engine(settings.database_url)
                stack.push_async_callback(engine.dispose)
                kit = ProjKit(settings, engine=engine, clock=clock)
            else:
                settings = settings_with(database_mode=mode, **changes)
                kit = ProjKit(settings, clock=clock)
            await stack.enter_async_context(kit.lifespan())
            yield await stack.enter_async_context(Client(kit, settings, subject))

    return start
