"""A small pool of asyncpg connections.

asyncpg's own pool costs 20 µs of CPU a query even with its reset switched off, and arms a timer for each command
that is to be bounded. This one hands out the connection that was returned last, and one watchdog for all
connections ends what has waited too long (docs/decisions/storage.md has the figures).

Rules:
- size = idle + busy + connecting, never above the maximum;
- a released connection goes to the oldest waiter, else to the idle stack;
- a discarded one is closed in the background and then frees its place; the oldest waiter is woken to connect anew;
- a caller that gives up while connecting leaves the connection to the next one;
- whoever waits longer than ``wait_seconds``, or connects longer than ``connect_seconds``, gets a
  DatabaseUnavailableError.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg

from projkit.db.errors import unavailable
from projkit.errors import DatabaseUnavailableError

Connection = Any  # asyncpg.Connection; asyncpg's classes are not generic over what we need
T = TypeVar("T")
_WATCHDOG_PERIOD: Final = 0.25


def shut_down_socket(connection: Connection | None) -> None:
    """Disconnect from the server without the event loop, which has been closed: asyncpg can no longer do it."""
    transport = getattr(connection, "_transport", None)
    opened = None if transport is None else transport.get_extra_info("socket")
    if opened is not None:
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


class ConnectionPool:
    """A bounded LIFO pool; belongs to the event loop on which it was made."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        connect_seconds: float,
        wait_seconds: float,
        statement_seconds: float,
    ) -> None:
        self._connect = connect
        self.maximum = size
        self._connect_seconds = connect_seconds
        self._wait_seconds = wait_seconds
        self._statement_seconds = statement_seconds
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}
        self._connecting = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._background: set[asyncio.Task[Any]] = set()
        self._closing = 0
        self._closed = False
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD, self._end_overdue)

    @property
    def size(self) -> int:
        """Connections open, being opened or being closed."""
        return len(self._idle) + len(self._busy) + self._connecting + self._closing

    @property
    def checked_out(self) -> int:
        """Connections in use."""
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return len(self._waiters)

    def take(self) -> Connection | None:
        """A connection that was open a moment ago, if one is idle."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._busy[connection] = self._loop.time()
                return connection
            # The server closed it; the place is free again.
        return None

    async def acquire(self) -> Connection:
        """A connection that was open a moment ago, or is opened now.

        Raises:
            DatabaseUnavailableError: none was free in time, or a new one could not be opened.
        """
        if (idle := self.take()) is not None:
            return idle
        if self._closed:
            raise DatabaseUnavailableError("The kit has been shut down")
        if self.size < self.maximum:
            self._connecting += 1
            return await self._open()
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._wait_seconds):
                handed = await waiter
        except BaseException as error:
            self._abandon(waiter)
            if isinstance(error, TimeoutError):
                raise DatabaseUnavailableError("All database connections are in use") from None
            raise
        return handed if handed is not None else await self._open()

    def touch(self, connection: Connection) -> None:
        """Starts the watchdog's count for ``connection`` anew: its next command begins."""
        self._busy[connection] = self._loop.time()

    def release(self, connection: Connection) -> None:
        """Takes back a connection on which no command is under way."""
        del self._busy[connection]
        if self._closed or connection.is_closed():
            self._drop(connection)
        elif (waiter := self._next_waiter()) is not None:
            self._busy[connection] = self._loop.time()
            waiter.set_result(connection)
        else:
            self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """Closes a connection whose state is unknown.

        In the background: the server is first told to cancel what runs there, so that no abandoned statement goes
        on, and no lock stays held, behind a connection that is gone.
        """
        del self._busy[connection]
        self._closing += 1
        self._spawn(self._say_goodbye(connection)).add_done_callback(self._closed_one)

    async def close(self) -> None:
        """Closes idle connections gently and the others at once."""
        self._closed = True
        self._watchdog.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(DatabaseUnavailableError("The kit has been shut down"))
        idle, self._idle = self._idle, []
        await asyncio.gather(*(self._say_goodbye(connection) for connection in idle))
        for connection in list(self._busy):
            connection.terminate()
        await asyncio.gather(*self._background, return_exceptions=True)

    def abandon(self) -> None:
        """Hangs up on the server where the event loop is gone, and nothing can be said any more."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            shut_down_socket(connection)
        self._idle.clear()
        self._busy.clear()

    async def _say_goodbye(self, connection: Connection) -> None:
        try:
            await connection.close(timeout=self._connect_seconds)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()

    async def _open(self) -> Connection:
        # The caller has counted itself in ``_connecting``, so that nobody else takes the place meanwhile.
        opening = self._spawn(self._connect_in_time())
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        except BaseException as error:
            self._free_place()
            if isinstance(error, (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                raise unavailable(error) from error
            raise
        self._connecting -= 1
        self._busy[connection] = self._loop.time()
        return connection

    async def _connect_in_time(self) -> Connection:
        async with asyncio.timeout(self._connect_seconds):
            return await self._connect()

    def _adopt(self, opening: asyncio.Task[Connection]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._free_place()
            return
        self._connecting -= 1
        connection = opening.result()
        self._busy[connection] = self._loop.time()
        self.release(connection)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _closed_one(self, task: asyncio.Task[None]) -> None:
        self._closing -= 1
        self._pass_on_place()

    def _drop(self, connection: Connection) -> None:
        if not connection.is_closed():
            connection.terminate()
        self._pass_on_place()

    def _free_place(self) -> None:
        self._connecting -= 1
        self._pass_on_place()

    def _pass_on_place(self) -> None:
        if (waiter := self._next_waiter()) is not None:
            self._connecting += 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _abandon(self, waiter: asyncio.Future[Connection | None]) -> None:
        # A connection may have been handed over in the very moment in which its taker gave up.
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            handed = waiter.result()
            if handed is not None:
                self.release(handed)
            else:
                self._free_place()
        else:
            waiter.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _end_overdue(self) -> None:
        limit = self._loop.time() - self._statement_seconds
        for connection, since in list(self._busy.items()):
            if since < limit:
                connection.terminate()  # its command now fails with a connection error, which becomes a 503
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD, self._end_overdue)
