"""Long work on an event loop, a little at a time, so that it holds no request up."""

import asyncio
from time import perf_counter
from typing import Final

SLICE_SECONDS: Final = 0.0005


class Slices:
    """Work that lets others go on whenever it has taken its time."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def pause(self) -> None:
        """Called after each step; lets others go on where a slice is over."""
        if perf_counter() - self._began > SLICE_SECONDS:
            await asyncio.sleep(0)
            self._began = perf_counter()
