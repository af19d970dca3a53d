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
- a connection that is older than ``maximum_age_seconds``, or was open when the server became read-only, is closed once
  it is idle;
- while the server accepts no more connections, callers wait for those that are open instead of failing;
- a caller that waits longer than ``wait_seconds``, or connects for longer than ``connect_seconds``, gets a
  DatabaseUnavailableError.
"""

import asyncio
import math
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg

from projkit.db.errors import is_full, unavailable
from projkit.errors import DatabaseUnavailableError

Connection = Any  # asyncpg.Connection, which has no useful types
T = TypeVar("T")
_WATCHDOG_PERIOD_SECONDS: Final = 0.25
# How long the pool opens no connection after the server had too many, and no second replacement of all connections.
_FULL_SECONDS: Final = 0.5
_REPLACEMENT_SECONDS: Final = 1.0


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
        maximum_age_seconds: float = 0,
    ) -> None:
        self._connect = connect
        self.maximum = size
        self._connect_seconds = connect_seconds
        self._wait_seconds = wait_seconds
        self._statement_seconds = statement_seconds
        self._maximum_age_seconds = maximum_age_seconds or math.inf
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}
        self._expiry: dict[Connection, float] = {}
        self._retired: set[Connection] = set()
        self._replaced_at = -math.inf
        self._full_until = -math.inf
        self._connecting = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._background: set[asyncio.Task[Any]] = set()
        self._closing = 0
        self._closed = False
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD_SECONDS, self._watch)

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
            self._forget(connection)  # the server has closed it, so its slot is free
        return None

    async def acquire(self) -> Connection:
        """Return an idle connection, or open one, or wait for one.

        Raises:
            DatabaseUnavailableError: no connection became free in time, or a new one could not be opened.
        """
        deadline = self._loop.time() + self._wait_seconds
        while True:
            if (idle := self.take()) is not None:
                return idle
            if self._closed:
                raise DatabaseUnavailableError("The kit has been shut down")
            if self.size < self.maximum and not self._is_full():
                self._connecting += 1
                connection = await self._open()
            else:
                connection = await self._wait_until(deadline)
            if connection is not None:  # otherwise the server had too many
                return connection

    def _is_full(self) -> bool:
        """Return whether the server had too many connections a moment ago, and this pool has some of them."""
        return self._loop.time() < self._full_until and self.size > 0

    async def _wait_until(self, deadline: float) -> Connection | None:
        """Wait for a connection, or for a slot and open one; return None if the server has too many."""
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
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
        elif self._retired and connection in self._retired:
            self._close_in_background(connection)
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
        self._close_in_background(connection)

    def replace_all(self) -> None:
        """Close all connections once they are idle, because the server no longer accepts writes.

        It has no effect again within a second, so that a server that is read-only for good costs few connections.
        """
        if self._loop.time() - self._replaced_at >= _REPLACEMENT_SECONDS:
            self._replaced_at = self._loop.time()
            self._retired.update(self._busy)
            idle, self._idle = self._idle, []
            for connection in idle:
                self._close_in_background(connection)

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

    def _close_in_background(self, connection: Connection) -> None:
        self._forget(connection)
        self._closing += 1
        self._spawn(self._close_gracefully(connection)).add_done_callback(self._on_closed)

    def _forget(self, connection: Connection) -> None:
        self._expiry.pop(connection, None)
        self._retired.discard(connection)

    async def _close_gracefully(self, connection: Connection) -> None:
        try:
            await connection.close(timeout=self._connect_seconds)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()

    async def _open(self) -> Connection | None:
        """Open a connection; return None if the server has too many, and this pool has some of them."""
        # The caller has already counted itself in ``_connecting``, which reserves the slot.
        opening = self._spawn(self._connect_in_time())
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        except BaseException as error:
            if is_full(error) and self.size > 1:
                self._connecting -= 1  # the slot is offered again by the watchdog
                self._full_until = self._loop.time() + _FULL_SECONDS
                return None
            self._cancel_connecting()
            if isinstance(error, (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                raise unavailable(error) from error
            raise
        self._connecting -= 1
        self._busy[connection] = self._loop.time()
        self._limit_age(connection)
        return connection

    def _limit_age(self, connection: Connection) -> None:
        # A tenth at random, so that connections that were opened together are not closed together.
        self._expiry[connection] = self._loop.time() + self._maximum_age_seconds * random.uniform(0.9, 1)  # noqa: S311

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
        self._limit_age(connection)
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
        self._forget(connection)
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

    def _watch(self) -> None:
        self._terminate_overdue()
        self._retire_old()
        if self._waiters and self.size < self.maximum and self._loop.time() >= self._full_until:
            self._offer_slot()
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD_SECONDS, self._watch)

    def _retire_old(self) -> None:
        now = self._loop.time()
        for connection in [each for each, expiry in self._expiry.items() if expiry <= now]:
            if connection in self._busy:
                self._retired.add(connection)
            else:
                self._idle.remove(connection)
                self._close_in_background(connection)

    def _terminate_overdue(self) -> None:
        limit = self._loop.time() - self._statement_seconds
        for connection, since in list(self._busy.items()):
            if since < limit:
                connection.terminate()  # its command fails with a connection error, which becomes a 503
