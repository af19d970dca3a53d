"""Starting and stopping, once for each event loop.

Whatever lives on an event loop (pools, locks, tasks) belongs to the loop that opened it. A test client or Django
that brings a second loop gets a second set, never another loop's connection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

from projkit.errors import ProjkitError, UnavailableError

logger: Final = logging.getLogger("projkit")


class Closable(Protocol):
    """Something that was opened."""

    async def close(self) -> None:
        """Closes it."""

    def abandon(self) -> None:
        """Lets it go where its event loop is gone, and nothing can be awaited any more."""


R = TypeVar("R", bound=Closable)
_TRY_AGAIN_SECONDS: Final = 1.0


class _Slot(Generic[R]):
    __slots__ = ("failed_at", "holders", "lock", "running", "starting", "stopped")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.running: R | None = None
        self.starting: asyncio.Task[R] | None = None
        self.failed_at = float("-inf")
        self.holders = 0
        self.stopped = False  # by somebody, who alone starts it again


class Lifecycle(Generic[R]):
    """Holds what ``open_`` makes, for each event loop its own."""

    def __init__(self, open_: Callable[[], Awaitable[R]]) -> None:
        self._open = open_
        self._slots: dict[asyncio.AbstractEventLoop, _Slot[R]] = {}
        # What was asked for last, with its loop: in one, since loops of several threads may ask at the same time.
        self._last: tuple[asyncio.AbstractEventLoop | None, R | None] = (None, None)
        self._warned = False
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether requests are welcome on this event loop."""
        return not self.draining and self._slot().running is not None

    @property
    def running(self) -> R | None:
        """What runs on this event loop, if anything does."""
        return self._slot().running

    def get(self) -> R:
        """What runs on this event loop.

        Raises:
            UnavailableError: nothing does, since starting failed.
        """
        loop, last = self._last
        if last is not None and loop is asyncio.get_running_loop():
            return last
        slot = self._slot()
        running = slot.running
        if running is None:
            if slot.stopped:
                raise UnavailableError("The service has been shut down")
            raise UnavailableError("The service has not started; its log says why")
        self._remember(running)
        return running

    async def start(self) -> R:
        """Starts on this event loop, unless that has been done; who comes meanwhile shares the outcome."""
        slot = self._slot()
        if slot.stopped:  # and is now started again
            slot.stopped = self.draining = False
        if slot.running is None:
            if slot.starting is None:
                slot.starting = asyncio.get_running_loop().create_task(self._start(slot))
                slot.starting.add_done_callback(_retrieve)  # also where nobody waits any more
            await asyncio.shield(slot.starting)
        return self.get()

    async def enter(self) -> None:
        """Starts for somebody who will :meth:`leave`."""
        await self.start()
        self._slot().holders += 1

    async def leave(self) -> None:
        """Stops when the last who has entered leaves."""
        slot = self._slot()
        slot.holders -= 1
        if slot.holders <= 0:
            await self.stop()

    def begin(self) -> R | None:
        """What runs on this event loop; where no lifespan did, starts in the background, for who may not wait."""
        loop, last = self._last
        if last is not None and loop is asyncio.get_running_loop():
            return last
        slot = self._slot()
        if slot.running is None and slot.starting is None and self._may_try(slot):
            self._warn()
            slot.starting = asyncio.get_running_loop().create_task(self._start(slot))
            slot.starting.add_done_callback(_log_failure)
        return slot.running

    def ensure(self) -> Awaitable[None] | None:
        """Starts at the first request where no lifespan did, and says so once; None where it has started.

        After a failure the next try waits a second, in which requests are refused at once.
        """
        loop, last = self._last
        if last is not None and loop is asyncio.get_running_loop():
            return None
        return self._ensure()

    async def _ensure(self) -> None:
        slot = self._slot()
        if slot.running is not None or (slot.starting is None and not self._may_try(slot)):
            return
        self.begin()
        if slot.starting is not None:
            with suppress(Exception):  # it is in the log, and get() refuses
                await asyncio.shield(slot.starting)

    async def stop(self) -> None:
        """Stops on this event loop, if it runs there."""
        slot = self._slot()
        async with slot.lock:
            running, slot.running, slot.holders = slot.running, None, 0
            slot.stopped = slot.stopped or running is not None
            if self._last[1] is running:
                self._last = (None, None)
            if running is not None:
                await running.close()

    async def _start(self, slot: _Slot[R]) -> R:
        try:
            async with slot.lock:
                running = await self._open()
                slot.running = running
                self._remember(running)
                return running
        except BaseException:
            slot.failed_at = asyncio.get_running_loop().time()
            raise
        finally:
            slot.starting = None

    def _may_try(self, slot: _Slot[R]) -> bool:
        return not slot.stopped and asyncio.get_running_loop().time() - slot.failed_at >= _TRY_AGAIN_SECONDS

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "projkit starts at its first request, since its lifespan was not run: pass lifespan=kit.lifespan "
                "to the host application, or serve kit.wrap(app)"
            )

    def _slot(self) -> _Slot[R]:
        loop = asyncio.get_running_loop()
        slot = self._slots.get(loop)
        if slot is None:
            self._let_go_of_closed_loops()
            slot = self._slots[loop] = _Slot()
        return slot

    def _let_go_of_closed_loops(self) -> None:
        # Loops of other threads come and go meanwhile; what one has let go of is not for another one to abandon.
        for loop in [each for each in list(self._slots) if each.is_closed()]:
            slot = self._slots.pop(loop, None)
            running = None if slot is None else slot.running
            if running is not None:
                running.abandon()
                if self._last[1] is running:
                    self._last = (None, None)

    def _remember(self, running: R) -> None:
        self._last = (asyncio.get_running_loop(), running)


def _retrieve(task: "asyncio.Task[R]") -> None:
    if not task.cancelled():
        task.exception()


def _log_failure(task: "asyncio.Task[R]") -> None:
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, ProjkitError):
        logger.error("projkit cannot start: %s", error)
    elif error is not None:
        logger.error("projkit cannot start", exc_info=error)
