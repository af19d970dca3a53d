"""A draining kit keeps refusing readiness, and a stopped kit starts again only by an explicit start."""

import asyncio

import pytest

from projkit import ProjKit
from tests.auth.asgi_client import ask
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
READY = "/api/v1/health/ready"


async def ready(kit: ProjKit) -> int:
    """Return the status of the readiness endpoint."""
    return (await ask(kit, "GET", READY)).status


async def test_drained_while_it_starts(sqlite_url: str) -> None:
    """Draining that begins while the kit starts stays in effect."""
    kit = ProjKit(settings_for(sqlite_url))
    starting = asyncio.create_task(kit.startup())
    await asyncio.sleep(0)
    kit.drain()
    await starting
    assert await ready(kit) == 503
    await kit.shutdown()


async def test_drained_while_another_loop_starts(sqlite_url: str) -> None:
    """Draining stays in effect when the kit starts on another event loop."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        kit.drain()

        async def elsewhere() -> None:
            async with kit.lifespan():
                assert await ready(kit) == 503

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert await ready(kit) == 503


async def test_late_requests(sqlite_url: str) -> None:
    """After a shutdown, late probes and requests do not start the kit again; an explicit start does."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        kit.drain()
    assert await ready(kit) == 503
    answer = await ask(kit, "GET", "/api/v1/auth/jwks")
    assert (answer.status, answer.json()["detail"]) == (503, "The service has been shut down")
    await asyncio.sleep(0.05)
    assert await ready(kit) == 503
    async with kit.lifespan():
        assert await ready(kit) == 200
