"""Detection of clients that disconnect before they have received a response.

ASGI servers report a disconnect only to a caller of ``receive``, as an ``http.disconnect`` message. Detection therefore
has to receive the next message, which may also be a part of the body and must not be lost.

A queued request is watched, and a slow response is preceded by a poll (:mod:`projkit.http.timing`). The reader of a
body gets the message itself.
"""

import asyncio
from contextvars import Context

from starlette.types import Message, Receive


class ClientDisconnectedError(Exception):
    """The client disconnected before its request was complete; no response can be sent."""


class DisconnectDetector:
    """A ``receive`` that notes when the client disconnects, and can also find out ahead of its reader.

    Messages that are received ahead are kept for the reader, which calls :meth:`receive`.

    Attributes:
        complete: whether the last message of the request has been received.
        disconnected: whether the client is known to have disconnected.
    """

    __slots__ = ("_buffer", "_context", "_pending", "_receive", "_waiter", "complete", "disconnected")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._buffer: list[Message] = []
        self._pending: asyncio.Task[Message] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._context: Context | None = None
        self.complete = False
        self.disconnected = False

    async def receive(self) -> Message:
        """Return the next message of the request, as ASGI's ``receive`` does."""
        if not self._buffer and self._pending is not None:
            await asyncio.wait({self._pending})
        return self._buffer.pop(0) if self._buffer else self._note(await self._receive())

    async def is_disconnected(self) -> bool:
        """Poll once: return whether the client has already disconnected."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # requests are handled in tasks
        cancellations = task.cancelling()
        pending = self._receive_ahead()
        try:
            await asyncio.sleep(0)
            if not pending.done():
                pending.cancel()
            message = await pending
        except asyncio.CancelledError:
            if pending.cancelled() and task.cancelling() == cancellations:
                return False
            raise  # the caller itself was cancelled, possibly in the moment in which the poll ended
        finally:
            pending.cancel()
        return bool(message["type"] == "http.disconnect")

    def watch(self, waiter: "asyncio.Future[None]", context: Context) -> None:
        """Fail ``waiter`` with :class:`ClientDisconnectedError` when the client disconnects.

        At most one message of the body is received ahead. ``context`` is the request's, which middleware in front of
        the kit may use in ``receive``.
        """
        self._waiter = waiter
        self._context = context
        self._receive_ahead()

    def end_watch(self) -> None:
        """End the watch after ``waiter`` is done; a part of the body that is still to come is left to the reader."""
        if self.complete:
            self.close()

    def close(self) -> None:
        """Cancel what is being received ahead."""
        if self._pending is not None:
            self._pending.cancel()

    def _receive_ahead(self) -> "asyncio.Task[Message]":
        pending = asyncio.get_running_loop().create_task(self._receive_next(), context=self._context)
        pending.add_done_callback(self._received_ahead)
        self._pending = pending
        return pending

    async def _receive_next(self) -> Message:
        return await self._receive()

    def _received_ahead(self, pending: "asyncio.Task[Message]") -> None:
        self._pending = None
        if pending.cancelled() or pending.exception() is not None:
            return  # the reader gets the same exception from its own call
        was_complete = self.complete
        self._buffer.append(self._note(pending.result()))
        if self._waiter is None or self._waiter.done():
            return
        if self.disconnected:
            self._waiter.set_exception(ClientDisconnectedError())
        elif self.complete and not was_complete:
            self._receive_ahead()  # after a complete request only the disconnect can follow

    def _note(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self.disconnected = True
        elif not message.get("more_body", False):
            self.complete = True
        return message
