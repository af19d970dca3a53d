"""Coroutines that do not react to their cancellation in time."""

import asyncio
from typing import Any

import pytest

from projkit.tasks import BackgroundTasks

pytestmark = pytest.mark.anyio
SOON = 0.01


class Stubborn:
    """Work that ends only when it is released, however often it is cancelled."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.cancelled = 0
        self.ended = asyncio.Event()

    async def __call__(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        self.ended.set()
        raise LookupError("nobody waits for this")


async def _return(value: Any) -> Any:
    return value


async def test_results_and_errors() -> None:
    """What ends in time returns its result, or raises its error."""
    tasks = BackgroundTasks()
    assert await tasks.run(_return(7), seconds=60, grace=60) == 7
    stubborn = Stubborn()
    stubborn.released.set()
    with pytest.raises(LookupError):
        await tasks.run(stubborn(), seconds=60, grace=60)
    await tasks.close(60)


@pytest.mark.parametrize("reacts", [False, True])
async def test_timeouts(reacts: bool) -> None:
    """What takes too long raises TimeoutError, whether or not it reacts to its cancellation."""
    tasks, stubborn = BackgroundTasks(), Stubborn()
    with pytest.raises(TimeoutError):
        await tasks.run(
            asyncio.Event().wait() if reacts else stubborn(), seconds=SOON, grace=60 if reacts else SOON
        )
    if not reacts:
        assert (stubborn.cancelled, stubborn.ended.is_set()) == (1, False)
        await tasks.close(SOON)
        assert stubborn.cancelled == 1
        stubborn.released.set()
        await stubborn.ended.wait()


async def test_cancelled_callers() -> None:
    """A cancelled caller waits no longer than the grace period, and cancels the work once."""
    tasks, stubborn = BackgroundTasks(), Stubborn()
    caller = asyncio.create_task(tasks.run(stubborn(), seconds=60, grace=SOON))
    await asyncio.sleep(SOON)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (stubborn.cancelled, stubborn.ended.is_set()) == (1, False)
    stubborn.released.set()
    await stubborn.ended.wait()


async def test_closing() -> None:
    """Closing cancels what still runs, whose caller gets a TimeoutError."""
    tasks = BackgroundTasks()
    caller = asyncio.create_task(tasks.run(asyncio.Event().wait(), seconds=60, grace=60))
    await asyncio.sleep(SOON)
    await tasks.close(60)
    with pytest.raises(TimeoutError):
        await caller
