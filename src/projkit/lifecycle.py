"""Startup and shutdown, once for each event loop.

Pools, locks and tasks work only on the event loop that opened them. A second loop, as test clients and Django create
them, therefore opens a second set of resources.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Final, Generic, Protocol, TypeVar

from projkit.errors import ConfigurationError, ProjkitError, UnavailableError
from projkit.per_loop import PerLoop, runs_on_asyncio
from projkit.tasks import retrieve_exception

logger: Final = logging.getLogger("projkit")

_RETRY_SECONDS: Final = 1.0


class Resources(Protocol):
    """The open resources of one event loop."""

    async def close(self) -> None:
        """Close them."""

    def abandon(self) -> None:
        """Release them after their event loop was closed; nothing can be awaited there any more."""


R = TypeVar("R", bound=Resources)


class _State(Generic[R]):
    """The state of one event loop."""

    __slots__ = ("entered", "failed_at", "leave_stops", "lock", "running", "starting", "stopped")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.running: R | None = None
        self.starting: asyncio.Task[R] | None = None
        self.failed_at = float("-inf")
        self.entered = 0
        self.leave_stops = False  # a lifespan within an explicit or lazy start leaves the kit running
        self.stopped = False  # until an explicit start: a late request must not start the kit again

    def may_start(self) -> bool:
        return not self.stopped and asyncio.get_running_loop().time() - self.failed_at >= _RETRY_SECONDS

    def abandon(self) -> None:
        if self.running is not None:
            self.running.abandon()


class Lifecycle(Generic[R]):
    """The resources that ``open_`` opens, one set for each event loop.

    - :meth:`start` and :meth:`stop` are explicit.
    - :meth:`enter` and :meth:`leave` are for lifespans, which may be nested.
    - :meth:`ensure_started` is for requests that arrive where no lifespan was run.

    All of them act on the running event loop.

    Attributes:
        draining: readiness is refused on all event loops; requests are still answered.
    """

    def __init__(self, open_: Callable[[], Awaitable[R]]) -> None:
        self._open = open_
        self._states: PerLoop[_State[R]] = PerLoop(_State, _State.abandon)
        self._warned = False
        self._warned_of_fork = False
        self._warned_of_loop = False
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether the kit is running and not draining."""
        return not self.draining and self._states.get().running is not None

    def find(self) -> R | None:
        """Return the open resources; None if the kit is not running."""
        return self._states.get().running

    def get(self) -> R:
        """Return the open resources.

        Raises:
            UnavailableError: the kit is not running, because its start failed or it was stopped.
        """
        state = self._states.get()
        if state.running is not None:
            return state.running
        if state.stopped:
            raise UnavailableError("The service has been shut down")
        raise UnavailableError("The service has not started. Its log has the reason.")

    def require_asyncio(self) -> None:
        """Check that the server runs on asyncio; log the first failure.

        Raises:
            ConfigurationError: it runs on trio or another library.
        """
        if runs_on_asyncio():
            return
        error = ConfigurationError(
            "projkit runs on asyncio only, because its database drivers do, and this server runs on another library, "
            "such as trio. Start hypercorn with -k asyncio, or run anyio with backend='asyncio'"
        )
        if not self._warned_of_loop:
            self._warned_of_loop = True
            logger.error("%s", error)
        raise error

    def reject_other_loops(self) -> None:
        """Do what :meth:`require_asyncio` does for a request, whose client only learns that the service is unavailable.

        Raises:
            UnavailableError: the server runs on trio or another library.
        """
        try:
            self.require_asyncio()
        except ConfigurationError as error:
            raise UnavailableError(
                "The service runs on a server that it does not support. Its log has the reason."
            ) from error

    async def start(self) -> R:
        """Open the resources unless they are open; concurrent calls share one attempt and its outcome.

        Raises:
            ConfigurationError: the server does not run on asyncio.
        """
        self.require_asyncio()
        state = self._states.get()
        if state.stopped:
            state.stopped = self.draining = False
        if state.running is None:
            if state.starting is None:
                state.starting = asyncio.get_running_loop().create_task(self._start(state))
                # For the case that all callers are cancelled.
                state.starting.add_done_callback(retrieve_exception)
            await asyncio.shield(state.starting)
        return self.get()

    async def stop(self) -> None:
        """Close the resources if they are open."""
        if not runs_on_asyncio():
            return  # where nothing can have been opened
        state = self._states.get()
        async with state.lock:
            running, state.running, state.entered = state.running, None, 0
            state.stopped = state.stopped or running is not None
            if running is not None:
                await running.close()

    async def enter(self) -> None:
        """Start for a caller that will :meth:`leave`."""
        self.require_asyncio()
        state = self._states.get()
        if state.entered == 0:
            state.leave_stops = state.running is None
        state.entered += 1
        try:
            await self.start()
        except BaseException:  # also if the caller is cancelled: the start that it began goes on
            await self.leave()
            raise

    async def leave(self) -> None:
        """Stop when the last caller that entered leaves, unless the kit was running when the first one entered."""
        state = self._states.get()
        state.entered = max(0, state.entered - 1)  # an explicit stop has counted all of them out
        if state.entered <= 0 and state.leave_stops:
            await self.stop()

    def ensure_started(self, *, warn: bool = True) -> Awaitable[None] | None:
        """Start at the first request if no lifespan was run; return an awaitable for the attempt, None if running.

        The awaitable does not raise: a failure is logged, and :meth:`get` raises afterwards. Within a second of a
        failure nothing is tried, so that requests are refused at once.

        Args:
            warn: log once that no lifespan was run; False where there is none.
        """
        state = self._states.get()
        return None if state.running is not None else self._wait_until_started(state, warn)

    def start_in_background(self, *, warn: bool = True) -> None:
        """Do what :meth:`ensure_started` does without waiting, for probes."""
        state = self._states.get()
        if state.running is not None or state.starting is not None or not state.may_start():
            return
        if warn and not self._warned:
            self._warned = True
            logger.warning(
                "projkit starts at its first request, since its lifespan was not run: pass lifespan=kit.lifespan "
                "to the host application, or serve kit.wrap(app) with a server that runs lifespans (daphne does not)"
            )
        # A new context: what runs from now on does not belong to the request.
        state.starting = asyncio.get_running_loop().create_task(self._start(state), context=Context())
        state.starting.add_done_callback(_log_failure)

    async def _wait_until_started(self, state: _State[R], warn: bool) -> None:
        self.start_in_background(warn=warn)
        if state.starting is not None:
            with suppress(Exception):  # logged by _log_failure or raised by start()
                await asyncio.shield(state.starting)

    async def _start(self, state: _State[R]) -> R:
        try:
            async with state.lock:
                self._warn_of_fork()
                state.running = await self._open()
                return state.running
        except BaseException:
            state.failed_at = asyncio.get_running_loop().time()
            raise
        finally:
            state.starting = None

    def _warn_of_fork(self) -> None:
        started = any(state.running is not None for state in self._states.inherited.values())
        if started and not self._warned_of_fork:
            self._warned_of_fork = True
            logger.warning(
                "projkit was started before this process was forked, and starts again here, since connections and "
                "threads cannot be shared: start it in each worker, with lifespan=kit.lifespan or kit.wrap(app)"
            )


def _log_failure(task: "asyncio.Task[R]") -> None:
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, ProjkitError):
        logger.error("projkit cannot start: %s", error)
    elif error is not None:
        logger.error("projkit cannot start", exc_info=error)
