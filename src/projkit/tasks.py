"""Work that must not be interrupted when its caller is cancelled, or that must not keep its caller waiting."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which keeps running if the caller is cancelled.

    The cancellation takes effect once ``work`` has ended; ``work`` must bound its own time.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def retrieve_exception(task: "asyncio.Task[Any]") -> None:
    """Mark the exception of a task that has ended as retrieved, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


def is_being_cancelled() -> bool:
    """Return whether the current task is being cancelled.

    Otherwise a CancelledError is an error of the code that it awaits, which has awaited a task that it cancelled.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class BackgroundTasks:
    """Coroutines that are left to end in the background if they do not react to their cancellation in time."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, coroutine: Coroutine[Any, Any, T], *, seconds: float, grace: float) -> T:
        """Return the result of ``coroutine``, which is cancelled after ``seconds``, or with the caller.

        Raises:
            TimeoutError: it took too long; ``grace`` later it may still be running.
        """
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=grace)
            raise
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=grace)
        if not task.done() or task.cancelled():
            raise TimeoutError
        return task.result()

    async def close(self, seconds: float) -> None:
        """Cancel all that still runs, and wait for it for a limited time."""
        for task in self._tasks:
            if not task.cancelling():  # a second cancellation would interrupt the return of its connection
                task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    def _end(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        retrieve_exception(task)
