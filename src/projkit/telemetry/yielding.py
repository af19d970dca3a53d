"""Long work on an event loop in short slices, so that requests are not delayed by it."""

import asyncio
from time import perf_counter
from typing import Final

SLICE_SECONDS: Final = 0.0005


class Yielder:
    """A timer that yields to the event loop whenever a slice of :data:`SLICE_SECONDS` is over."""

    def __init__(self) -> None:
        self._started = perf_counter()

    async def checkpoint(self) -> None:
        """Yield to the event loop if the slice is over; call it after each step."""
        if perf_counter() - self._started > SLICE_SECONDS:
            await asyncio.sleep(0)
            self._started = perf_counter()
