"""Calls of the functions that the host passed in, without blocking the event loop.

- A coroutine function runs on the event loop.
- Any other function may query a database or hash a password. It runs in a thread, with the caller's context variables,
  and may return an awaitable, which is then awaited on the event loop.

The number of threads and of waiting calls is bounded. A thread cannot be stopped: a call that hangs occupies it. Once
that holds for all threads, further calls fail at once instead of waiting in vain. A framework that keeps something for
each thread, as Django keeps its database connections, registers a :class:`ThreadPolicy`.
"""

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from importlib import import_module
from typing import Any, Final, Protocol

from projkit.errors import ConfigurationError, UnavailableError
from projkit.log_limit import LogLimit
from projkit.tasks import is_being_cancelled

logger: Final = logging.getLogger("projkit")
limit: Final = LogLimit(logger, "calls for which there is no thread")

# Enough for calls that wait for a database; more threads would only compete for the interpreter lock.
REQUEST_THREADS: Final = 16
# Fewer, so that slow logins leave the processor to requests.
LOGIN_THREADS: Final = 8
MAXIMUM_WAITING: Final = 256
_DJANGO_POLICY: Final = "projkit.hosts.django.threads"

Work = Callable[[], Any]
Runner = Callable[[Work], Awaitable[Any]]


class ThreadPolicy(Protocol):
    """A framework's rules for the threads in which plain functions run."""

    def find_runner(self) -> Runner | None:
        """Return what runs a function in the thread that belongs to the current context; None if any thread will do."""

    def manage(self, work: Work) -> Work:
        """Return ``work`` with what the framework does before and after it in any other thread."""


class _AnyThread:
    """The policy without a framework."""

    def find_runner(self) -> Runner | None:
        return None

    def manage(self, work: Work) -> Work:
        return work


_policies: Final[list[ThreadPolicy]] = [_AnyThread()]


def register_thread_policy(policy: ThreadPolicy) -> None:
    """Apply ``policy`` to the calls of all kits in this process."""
    _policies[:] = [policy]


def is_in_own_thread() -> bool:
    """Return whether the current context has a thread of its own, in which the framework runs plain functions."""
    return _policies[0].find_runner() is not None


class HostThreads:
    """The threads in which one event loop calls plain functions of the host.

    Args:
        purpose: what the threads are for; part of their names.
        threads: the number of threads, which start when they are needed.
        seconds: the time after which a call counts as hanging.
        waiting: the number of further calls that may wait for a thread.
    """

    def __init__(self, purpose: str, *, threads: int, seconds: float, waiting: int = MAXIMUM_WAITING) -> None:
        if "django.db" in sys.modules:
            # It registers itself, also where the host imports no helper for Django.
            import_module(_DJANGO_POLICY)
        self._purpose = purpose
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"projkit-{purpose}")
        self._threads = threads
        self._seconds = seconds
        self._limit = threads + waiting
        # With the function and the time of submission, in this order, in which threads also take them.
        self._pending: dict[Future[Any], tuple[str, float]] = {}

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Return a function to await, which calls ``function``; a coroutine function is returned as it is."""
        return function if is_coroutine_function(function) else partial(self._call, function)

    def close(self) -> None:
        """Shut down the threads; calls that have not begun are cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        work = partial(_call_safely, function, *arguments)
        runner = _policies[0].find_runner()
        result = await (self._run(_name_of(function), work) if runner is None else runner(work))
        return await result if inspect.isawaitable(result) else result

    async def _run(self, name: str, work: Work) -> Any:
        self._require_thread()
        future = self._pool.submit(copy_context().run, _policies[0].manage(work))
        # After its caller was cancelled, a call that has begun still occupies its thread: it counts until it ends.
        self._pending[future] = name, time.monotonic()
        future.add_done_callback(self._pending.pop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise UnavailableError("The service is shutting down") from None

    def _require_thread(self) -> None:
        """Check that a further call may wait for a thread.

        Raises:
            UnavailableError: too many are waiting, or all threads are occupied by calls that hang.
        """
        if len(self._pending) < self._threads:
            return
        pending = list(self._pending.values())  # a copy, as threads remove calls
        if len(pending) >= self._limit:
            self._log("%d calls are running in or waiting for the %d threads", len(pending), self._threads)
            raise UnavailableError(f"Too many {self._purpose} calls of the application are waiting")
        latest = time.monotonic() - self._seconds
        hanging = [name for name, submitted_at in pending[: self._threads] if submitted_at < latest]
        if len(hanging) == self._threads:
            names = ", ".join(sorted(set(hanging)))
            self._log(
                "%s has not returned for %g s in any of the %d threads", names, self._seconds, self._threads
            )
            raise UnavailableError(f"No {self._purpose} call of the application returns")

    def _log(self, message: str, *arguments: Any) -> None:
        purpose = self._purpose
        limit.warning(purpose, f"{message} for {purpose} calls; further ones get 503", *arguments)


def _name_of(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def is_coroutine_function(function: object) -> bool:
    """Return whether a call only creates a coroutine, which cannot block; also for objects that can be called."""
    call = getattr(function, "__call__", None)  # noqa: B004  # the method of an object
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def check_signature(name: str, function: object, *parameters: str) -> None:
    """Check that a function of the host can be called with these arguments, before a request calls it.

    Raises:
        ConfigurationError: it is no function, or takes other arguments.
    """
    if not callable(function):
        raise ConfigurationError(f"{name} must be a function, not {type(function).__name__}")
    try:
        # Of the outermost decorator, which may add arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        raise ConfigurationError(
            f"{name} is called with ({', '.join(parameters)}), but takes {signature}"
        ) from None


def _call_safely(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BaseException as error:
        # A future cannot hold StopIteration, so that the request would never end; SystemExit would end the event loop.
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise RuntimeError(f"{error!r} in a function of the application") from error
