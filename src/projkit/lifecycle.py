"""Starting and stopping, once for each event loop.

Whatever lives on an event loop (pools, locks, tasks) belongs to the loop that opened it. A test client or Django
that brings a second loop gets a second set, never another loop's connection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from projkit.errors import ProjkitError, UnavailableError

logger: Final = logging.getLogger("projkit")


class Closable(Protocol):
    """Something that was opened."""

    async def close(self) -> None:
        """Closes it."""


R = TypeVar("R", bound=Closable)


class _Slot(Generic[R]):
    __slots__ = ("lock", "running")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.running: R | None = None


class Lifecycle(Generic[R]):
    """Holds what ``open_`` makes, for each event loop its own."""

    def __init__(self, open_: Callable[[], Awaitable[R]]) -> None:
        self._open = open_
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot[R]] = WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: R | None = None
        self._warned = False
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether requests are welcome on this event loop."""
        return not self.draining and self._slot().running is not None

    def get(self) -> R:
        """What runs on this event loop.

        Raises:
            UnavailableError: nothing does, since starting failed.
        """
        if self._loop is asyncio.get_running_loop() and self._running is not None:
            return self._running
        running = self._slot().running
        if running is None:
            raise UnavailableError("The service has not started; its log says why")
        self._remember(running)
        return running

    async def start(self) -> R:
        """Starts on this event loop, unless that has been done."""
        slot = self._slot()
        async with slot.lock:
            if slot.running is None:
                slot.running = await self._open()
                self.draining = False
            self._remember(slot.running)
            return slot.running

    async def ensure(self) -> None:
        """Starts at the first request where no lifespan did, and says so once."""
        if self._loop is asyncio.get_running_loop() and self._running is not None:
            return
        if self._slot().running is not None:
            return
        if not self._warned:
            self._warned = True
            logger.warning(
                "projkit starts at its first request, since its lifespan was not run: pass lifespan=kit.lifespan "
                "to the host application, or serve kit.wrap(app)"
            )
        try:
            await self.start()
        except ProjkitError as error:
            logger.error("projkit cannot start: %s", error)  # noqa: TRY400  # the message says it all

    async def stop(self) -> None:
        """Stops on this event loop, if it runs there."""
        slot = self._slot()
        async with slot.lock:
            running, slot.running = slot.running, None
            if self._running is running:
                self._running = None
            if running is not None:
                await running.close()

    def _slot(self) -> _Slot[R]:
        loop = asyncio.get_running_loop()
        slot = self._slots.get(loop)
        if slot is None:
            slot = self._slots[loop] = _Slot()
        return slot

    def _remember(self, running: R) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = running
