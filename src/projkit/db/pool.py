"""A small pool of asyncpg connections.

asyncpg's own pool takes 20 µs of CPU per query even without its reset, and arms a timer for each command with a
timeout. This pool hands out the connection that was returned last, and one watchdog for all connections terminates
those whose command takes too long (docs/decisions/storage.md has the figures).

Rules:
- size = idle + busy + connecting + closing, never more than the maximum;
- a released connection goes to the caller that has waited longest, otherwise to the stack of idle connections;
- a discarded connection is closed in the background, which frees its slot; the caller that has waited longest then
  opens a new one;
- a caller that is cancelled while it connects leaves the connection to the next one;
- a caller that waits longer than ``wait_seconds``, or connects for longer than ``connect_seconds``, gets a
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

Connection = Any  # asyncpg.Connection, which has no useful types
T = TypeVar("T")
_WATCHDOG_PERIOD_SECONDS: Final = 0.25


def shut_down_socket(connection: Connection | None) -> None:
    """Disconnect from the server without the event loop, which has been closed: asyncpg can no longer do it."""
    transport = getattr(connection, "_transport", None)
    opened = None if transport is None else transport.get_extra_info("socket")
    if opened is not None:
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


class ConnectionPool:
    """A bounded LIFO pool, bound to the event loop on which it was created."""

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
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD_SECONDS, self._terminate_overdue)

    @property
    def size(self) -> int:
        """Number of connections that are open, being opened or being closed."""
        return len(self._idle) + len(self._busy) + self._connecting + self._closing

    @property
    def checked_out(self) -> int:
        """Number of connections in use."""
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """Number of callers that wait for a connection."""
        return len(self._waiters)

    def take(self) -> Connection | None:
        """Return an idle connection, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._busy[connection] = self._loop.time()
                return connection
            # The server has closed it, so its slot is free.
        return None

    async def acquire(self) -> Connection:
        """Return an idle connection, or open one, or wait for one.

        Raises:
            DatabaseUnavailableError: no connection became free in time, or a new one could not be opened.
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
                connection = await waiter
        except BaseException as error:
            self._cancel_waiter(waiter)
            if isinstance(error, TimeoutError):
                raise DatabaseUnavailableError("All database connections are in use") from None
            raise
        return connection if connection is not None else await self._open()

    def touch(self, connection: Connection) -> None:
        """Restart the watchdog's timeout for ``connection``, because its next command begins."""
        self._busy[connection] = self._loop.time()

    def release(self, connection: Connection) -> None:
        """Return a connection on which no command is running to the pool."""
        del self._busy[connection]
        if self._closed or connection.is_closed():
            self._terminate(connection)
        elif (waiter := self._next_waiter()) is not None:
            self._busy[connection] = self._loop.time()
            waiter.set_result(connection)
        else:
            self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """Close a connection in an unknown state, in the background.

        The server is asked to cancel the running statement first, so that it does not go on and hold locks without its
        connection.
        """
        del self._busy[connection]
        self._closing += 1
        self._spawn(self._close_gracefully(connection)).add_done_callback(self._on_closed)

    async def close(self) -> None:
        """Close idle connections gracefully and the others at once."""
        self._closed = True
        self._watchdog.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(DatabaseUnavailableError("The kit has been shut down"))
        idle, self._idle = self._idle, []
        await asyncio.gather(*(self._close_gracefully(connection) for connection in idle))
        for connection in list(self._busy):
            connection.terminate()
        await asyncio.gather(*self._background, return_exceptions=True)

    def abandon(self) -> None:
        """Shut down all sockets after the event loop has been closed, when asyncpg can no longer do it."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            shut_down_socket(connection)
        self._idle.clear()
        self._busy.clear()

    async def _close_gracefully(self, connection: Connection) -> None:
        try:
            await connection.close(timeout=self._connect_seconds)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()

    async def _open(self) -> Connection:
        # The caller has already counted itself in ``_connecting``, which reserves the slot.
        opening = self._spawn(self._connect_in_time())
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        except BaseException as error:
            self._cancel_connecting()
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
            self._cancel_connecting()
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

    def _on_closed(self, task: asyncio.Task[None]) -> None:
        self._closing -= 1
        self._offer_slot()

    def _terminate(self, connection: Connection) -> None:
        if not connection.is_closed():
            connection.terminate()
        self._offer_slot()

    def _cancel_connecting(self) -> None:
        self._connecting -= 1
        self._offer_slot()

    def _offer_slot(self) -> None:
        if (waiter := self._next_waiter()) is not None:
            self._connecting += 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _cancel_waiter(self, waiter: asyncio.Future[Connection | None]) -> None:
        # The waiter may have been given a connection or a slot just before its caller was cancelled.
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            connection = waiter.result()
            if connection is not None:
                self.release(connection)
            else:
                self._cancel_connecting()
        else:
            waiter.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _terminate_overdue(self) -> None:
        limit = self._loop.time() - self._statement_seconds
        for connection, since in list(self._busy.items()):
            if since < limit:
                connection.terminate()  # its command fails with a connection error, which becomes a 503
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD_SECONDS, self._terminate_overdue)
