"""Deadlines for the functions of the host, which may wait for a database or a service that hangs.

A request whose call exceeds its deadline gets 503, so that it does not keep its slot. A coroutine function is
cancelled. A plain function cannot be: if its call still waits for a thread, it loses its place; otherwise it keeps the
thread until it returns (:mod:`projkit.host_calls`). The same happens when the client of a plain function's call
disconnects.

A call within a request of a framework that has a thread for it (Django) has no deadline. The framework waits for that
thread at the end of the request in any case, and asgiref before 3.12 would block the event loop meanwhile.

A call that returns without having waited for anything is not watched at all, which is what coroutine functions that
only read the request do. For the others, one timer per event loop looks at all calls in progress, and runs only while
there are any: a timer for each call would cost several microseconds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import CoroutineType, coroutine
from typing import Any, Final

from projkit.errors import UnavailableError
from projkit.log_limit import LogLimit
from projkit.tasks import is_being_cancelled

logger: Final = logging.getLogger("projkit")
limit: Final = LogLimit(logger, "calls of the application that exceeded their deadline")

# For functions that are called at each request. The deadline of a login is a setting.
REQUEST_SECONDS: Final = 5.0
# The period of the timer, and the time after which the clients of calls are watched for a disconnect.
TICK_SECONDS: Final = 0.25


class HostCall:
    """A call in progress, which can be failed like a future.

    Attributes:
        function: the function that was called.
        started_at: when it was called, on the clock of the event loop.
        watch: begins to watch the client; None if it is watched already, or is not to be.
        context: the context of the request, if its client is to be watched.
    """

    __slots__ = (
        "_cancelled_before",
        "_ended",
        "_error",
        "_task",
        "context",
        "function",
        "started_at",
        "watch",
    )

    def __init__(self, function: "HostFunction", started_at: float, watch: "WatchClient | None") -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task = task
        self._cancelled_before = task.cancelling()
        self._error: Exception | None = None
        self._ended = False
        self.function = function
        self.started_at = started_at
        self.watch = watch
        self.context = None if watch is None else copy_context()

    def done(self) -> bool:
        """Return whether the call has ended or was failed."""
        return self._ended or self._error is not None

    def set_exception(self, error: Exception) -> None:
        """Cancel the call; its caller gets ``error``."""
        self._error = error
        self._task.cancel()

    def end(self) -> Exception | None:
        """End the call; return what it was failed with, unless the server has cancelled its task as well."""
        self._ended = True
        if self._error is None or self._task.uncancel() > self._cancelled_before:
            return None
        return self._error


# Takes the call to fail when the client disconnects, and the context of the request.
WatchClient = Callable[[HostCall, Context], None]


class HostFunction:
    """A function of the host with a deadline.

    Args:
        name: the name of the argument of ``ProjKit``.
        function: the function, to be awaited.
        seconds: the time that a call may take.
        watched: whether a call ends when its client disconnects.
        is_exempt: returns whether the current call has no deadline.
        deadlines: ends the calls.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Awaitable[Any]],
        seconds: float,
        *,
        watched: bool,
        is_exempt: Callable[[], bool],
        deadlines: "HostDeadlines",
    ) -> None:
        self.name = name
        self.seconds = seconds
        self._function = function
        self._watched = watched
        self._is_exempt = is_exempt
        self._deadlines = deadlines

    async def __call__(self, *arguments: Any, watch: WatchClient | None = None) -> Any:
        """Call the function.

        Raises:
            RuntimeError: it raises CancelledError, although the request is not being cancelled.
            UnavailableError: it does not return in time, or no thread is available for it.
        """
        awaitable = self._function(*arguments)
        running = awaitable if isinstance(awaitable, CoroutineType) else _await(awaitable)
        try:
            waits_for = running.send(None)
        except StopIteration as returned:
            return returned.value
        except asyncio.CancelledError as raised:
            self._reject_cancellation(raised)
            raise
        rest = _continue(running, waits_for)
        if self._is_exempt():
            try:
                return await rest
            except asyncio.CancelledError as raised:
                self._reject_cancellation(raised)
                raise
        call = self._deadlines.begin(self, watch if self._watched else None)
        try:
            result = await rest
        except BaseException as raised:
            error = self._deadlines.end(call)
            if isinstance(raised, asyncio.CancelledError):
                if error is not None:
                    raise error from None
                self._reject_cancellation(raised)
            raise
        self._deadlines.end(call)
        return result

    def _reject_cancellation(self, raised: asyncio.CancelledError) -> None:
        """Turn a cancellation that is the function's own into an error, which gets a 500.

        Raises:
            RuntimeError: the request is not being cancelled.
        """
        if not is_being_cancelled():
            raise RuntimeError(f"CancelledError in {self.name} of the application") from raised


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@coroutine
def _continue(running: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that has begun and waits for something."""
    while True:
        try:
            try:
                yield waits_for
            except BaseException as error:
                waits_for = running.throw(error)
            else:
                waits_for = running.send(None)
        except StopIteration as returned:
            return returned.value


class HostDeadlines:
    """The calls of the host's functions on one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: dict[HostCall, None] = {}  # ordered by their start
        self._is_ticking = False

    def begin(self, function: HostFunction, watch: WatchClient | None) -> HostCall:
        """Add a call of the current task."""
        call = HostCall(function, self._loop.time(), watch)
        self._calls[call] = None
        if not self._is_ticking:
            self._start_timer()
        return call

    def end(self, call: HostCall) -> Exception | None:
        """Remove a call; return what it was failed with."""
        del self._calls[call]
        return call.end()

    def _start_timer(self) -> None:
        self._is_ticking = True
        # In an empty context: the timer must not keep that of the request which started it.
        self._loop.call_later(TICK_SECONDS, self._tick, context=Context())

    def _tick(self) -> None:
        self._is_ticking = False
        if not self._calls:
            return
        now = self._loop.time()
        for call in self._calls:
            if call.started_at > now - TICK_SECONDS:
                break
            if call.done():
                continue
            if call.started_at <= now - call.function.seconds:
                self._fail(call)
            elif call.watch is not None and call.context is not None:
                call.watch(call, call.context)
                call.watch = None
        self._start_timer()

    def _fail(self, call: HostCall) -> None:
        function = call.function
        limit.warning(
            function.name,
            "%s has not returned within %g s; the request gets 503 (%d calls in progress)",
            function.name,
            function.seconds,
            len(self._calls),
        )
        call.set_exception(UnavailableError("The application did not respond in time"))
