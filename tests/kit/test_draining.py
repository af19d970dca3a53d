"""A kit that turns requests away goes on doing so, and one that was stopped is started by whoever stopped it alone."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from projkit import ProjKit
from projkit.http.admission import Gates
from projkit.lifecycle import Lifecycle
from tests.auth.asking import ask
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
READY = "/api/v1/health/ready"


async def ready(kit: ProjKit) -> int:
    """What readiness says."""
    return (await ask(kit, "GET", READY)).status


async def test_drained_while_it_starts(sqlite_url: str) -> None:
    """A signal to stop that comes while the kit starts is not forgotten."""
    kit = ProjKit(settings_for(sqlite_url))
    starting = asyncio.create_task(kit.startup())
    await asyncio.sleep(0)
    kit.drain()
    await starting
    assert await ready(kit) == 503
    await kit.shutdown()


async def test_drained_while_another_loop_starts(sqlite_url: str) -> None:
    """Nor is it forgotten where another event loop starts the kit."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        kit.drain()

        async def elsewhere() -> None:
            async with kit.lifespan():
                assert await ready(kit) == 503

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert await ready(kit) == 503


async def test_late_requests(sqlite_url: str) -> None:
    """After the kit was shut down, late probes and requests do not start it again; who shut it down may."""
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


class Running:
    """Something that runs on one event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """Nothing."""


def test_loops_of_several_threads() -> None:
    """Each event loop gets what runs on it, however often those of other threads ask in between."""

    async def open_() -> Running:
        return Running()

    lifecycle: Lifecycle[Running] = Lifecycle(open_)
    wrong: list[object] = []

    async def ask_often() -> None:
        await lifecycle.start()
        here = asyncio.get_running_loop()
        wrong.extend(1 for _ in range(100_000) if lifecycle.get().loop is not here)

    threads = [threading.Thread(target=asyncio.run, args=(ask_often(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Ended:
    """An event loop of another thread's that has ended; while it is looked at, something goes on over there."""

    def __init__(self, meanwhile: Callable[[], object] = bool) -> None:
        self._meanwhile = meanwhile

    def is_closed(self) -> bool:
        """It is."""
        self._meanwhile()
        return True


def come_and_go(known: Any, made: Any) -> None:
    """Has another loop come to those that are known, and one go, while they are looked through."""
    first = Ended(lambda: known.update({Ended(): made}))
    known.update({first: made, Ended(lambda: known.pop(first, None)): made})


async def test_loops_that_come_and_go_meanwhile() -> None:
    """A loop of another thread's that comes, or is let go of there, while ended ones are let go of here is no error."""

    async def open_() -> Running:
        return Running()

    lifecycle: Lifecycle[Running] = Lifecycle(open_)
    other: Lifecycle[Running] = Lifecycle(open_)
    come_and_go(lifecycle._slots, other._slot())
    assert (await lifecycle.start()).loop is asyncio.get_running_loop()
    gates = Gates.unlimited()
    come_and_go(gates._gates, Gates.unlimited().here())
    assert gates.here() is gates.here()
