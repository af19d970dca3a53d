"""The event loop on which a kit runs in a process that is served over WSGI.

Everything that a kit opens belongs to the event loop that opened it: a loop for each request would open a database pool
for each request. So one loop runs in a thread of its own, from the first request until the process ends. A forked
process gets another one.

While a thread waits for the loop, it runs what is meant for it: the ORM, and plain functions of the host, then use the
same database connection as the view, and see the transaction of a test.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, async_to_sync

from projkit.forks import reset_in_forks

P = ParamSpec("P")
T = TypeVar("T")


class CallingThread(Executor):
    """An executor that runs work in the thread that created it, while that thread waits."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = Lock()
        self.closed = False

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Run a function in the thread.

        Raises:
            RuntimeError: the thread no longer waits.
        """
        future: Future[T] = Future()
        with self._lock:
            if self.closed:
                raise RuntimeError("the request of this work has ended")
            self._queue.put((future, lambda: function(*arguments, **named)))
        return future

    def run_until_done(self, awaited: "Future[T]") -> T:
        """Run work until ``awaited`` is done, and return its result."""
        awaited.add_done_callback(self._close)
        # asgiref notes in the thread which loop sent the work, for async_to_sync; afterwards it is not this loop.
        loop_before = find_running_loop()
        try:
            while (item := self._queue.get()) is not None:
                future, work = item
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(work())
                except BaseException as error:  # the one that waits gets it, whatever it is
                    future.set_exception(error)
        finally:
            SyncToAsync.threadlocal.main_event_loop = loop_before
        return awaited.result()

    def _close(self, _: "Future[Any]") -> None:
        with self._lock:
            self.closed = True
            self._queue.put(None)


class _LoopThread:
    """An event loop in a daemon thread, started at its first use in each process."""

    _lock: Lock
    _loop: asyncio.AbstractEventLoop | None

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Forget the loop, whose thread does not exist in a forked process."""
        self._lock = Lock()
        self._loop = None

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop, from a thread without a running event loop."""
        executor = CallingThread()
        return executor.run_until_done(self.submit(call, executor))

    async def run_async(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop, from another event loop."""
        executor = getattr(AsyncToSync.executors, "current", None)
        return await asyncio.wrap_future(self.submit(call, executor))

    def submit(self, call: Callable[[], Awaitable[T]], executor: Executor | None) -> "Future[T]":
        """Start a coroutine function on the loop; ``executor`` runs what is thread-sensitive."""

        async def run() -> T:
            # Where asgiref looks for the thread that waits; in the context of this task only.
            AsyncToSync.executors.current = executor
            return await call()

        return asyncio.run_coroutine_threadsafe(run(), self._get())

    def _get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = loop = asyncio.new_event_loop()
                Thread(target=loop.run_forever, name="projkit-wsgi", daemon=True).start()
            return self._loop


WSGI_LOOP: Final = _LoopThread()


def find_running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that called the code of this thread, as ASGI handlers do, while it runs."""
    loop: asyncio.AbstractEventLoop | None = getattr(SyncToAsync.threadlocal, "main_event_loop", None)
    return loop if loop is not None and loop.is_running() else None


def run_sync(function: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a coroutine function of the kit from a synchronous view, on the event loop on which the kit runs.

    ``run_sync(kit.projects.create, request.principal, name="Roof")``. Over WSGI, ``async_to_sync`` would open a set of
    connections for each call.
    """
    if find_running_loop() is not None:
        return async_to_sync(function)(*arguments, **named)  # of the ASGI server, or of an asynchronous test

    async def call() -> T:
        return await function(*arguments, **named)

    return WSGI_LOOP.run(call)
