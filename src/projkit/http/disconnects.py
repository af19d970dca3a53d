"""Detection of clients that disconnect before they have received a response.

ASGI servers report a disconnect only to a caller of ``receive``, as an ``http.disconnect`` message. Detection therefore
has to receive the next message, which may also be a part of the body and must not be lost.

A queued request is watched, and a slow response is preceded by a poll (:mod:`projkit.http.timing`). The reader of a
body gets the message itself.
"""

import asyncio
from contextlib import suppress
from contextvars import Context
from typing import Protocol

from starlette.types import Message, Receive


class ClientDisconnectedError(Exception):
    """The client disconnected before its request was complete; no response can be sent."""


class Waiter(Protocol):
    """A future that waits while a client is watched, or a call that can be failed like one."""

    def done(self) -> bool:
        """Return whether it does not wait any more."""

    def set_exception(self, exception: Exception, /) -> None:
        """Fail what is waited for."""


class DisconnectDetector:
    """A ``receive`` that notes when the client disconnects, and can also find out ahead of its reader.

    The reader, which calls :meth:`receive`, gets exactly the messages that the server has for it, in their order: what
    is received ahead is kept for it, and a call of the server's ``receive`` is not cancelled while it may still be
    needed, because the middleware through which it goes could lose a message. A disconnect is returned again by every
    later call, which the ASGI specification requires and some servers do not do.

    Attributes:
        complete: whether the last message of the request has been received.
        disconnected: whether the client is known to have disconnected.
    """

    __slots__ = (
        "_buffer",
        "_context",
        "_disconnect",
        "_pending",
        "_readers",
        "_receive",
        "_waiter",
        "complete",
        "disconnected",
    )

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._buffer: list[Message] = []
        self._disconnect: Message | None = None
        self._pending: asyncio.Task[None] | None = None
        self._readers = 0
        self._waiter: Waiter | None = None
        self._context: Context | None = None
        self.complete = False
        self.disconnected = False

    async def receive(self) -> Message:
        """Return the next message of the request, as ASGI's ``receive`` does."""
        while not self._buffer:
            if self._disconnect is not None:
                return dict(self._disconnect)
            if not self._is_receiving_ahead():
                self._readers += 1
                try:
                    return self._note(await self._receive())
                finally:
                    self._readers -= 1
            assert self._pending is not None  # noqa: S101
            await asyncio.wait({self._pending})
        return self._buffer.pop(0)

    async def is_disconnected(self) -> bool:
        """Poll once: return whether the client has already disconnected.

        What is received is kept for the reader. While a reader waits, it gets the next message, and the poll none.
        """
        if not self._readers and not self._is_receiving_ahead():
            self._receive_ahead()
        await asyncio.sleep(0)
        return self.disconnected

    def watch(self, waiter: Waiter, context: Context) -> None:
        """Fail ``waiter`` with :class:`ClientDisconnectedError` when the client disconnects.

        At most one message of the body is received ahead, also by several watches. ``context`` is the request's, which
        middleware in front of the kit may use in ``receive``.
        """
        self._waiter = waiter
        self._context = context
        if self.disconnected:
            waiter.set_exception(ClientDisconnectedError())
        elif not self._is_receiving_ahead() and (self.complete or not self._buffer):
            self._receive_ahead()

    def end_watch(self) -> None:
        """End the watch after ``waiter`` is done; a part of the body that is still to come is left to the reader."""
        if self.complete:
            self.close()

    def close(self) -> None:
        """Cancel what is being received ahead, after the last message that the reader needs."""
        if self._pending is not None:
            self._pending.cancel()

    def _is_receiving_ahead(self) -> bool:
        return self._pending is not None and not self._pending.done()

    def _receive_ahead(self) -> None:
        was_complete = self.complete
        pending = asyncio.get_running_loop().create_task(self._receive_next(), context=self._context)
        pending.add_done_callback(lambda _: self._continue_watch(was_complete=was_complete))
        self._pending = pending

    async def _receive_next(self) -> None:
        with suppress(Exception):  # the reader gets the same exception from its own call
            self._buffer.append(self._note(await self._receive()))

    def _continue_watch(self, *, was_complete: bool) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if self.disconnected:
            self._waiter.set_exception(ClientDisconnectedError())
        elif self.complete and not was_complete:
            self._receive_ahead()  # after a complete request only the disconnect can follow

    def _note(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self.disconnected = True
            self._disconnect = message
        elif not message.get("more_body", False):
            self.complete = True
        return message
