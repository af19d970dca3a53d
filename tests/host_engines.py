"""Engines as hosts create them.

With ``PROJKIT_TEST_HOST_DRIVER=psycopg``, the tests that run on each database and in each mode run instead on
PostgreSQL, through a host's engine with that driver.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

HOST_DRIVER = os.environ.get("PROJKIT_TEST_HOST_DRIVER", "")


def url_with(driver: str, url: str) -> str:
    """Return the URL of a PostgreSQL database for a driver."""
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


@asynccontextmanager
async def host_engine(url: str, driver: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Create the engine that a host has on a PostgreSQL database, and dispose of it afterwards."""
    engine = create_async_engine(url_with(driver, url), **options)
    try:
        yield engine
    finally:
        await engine.dispose()
