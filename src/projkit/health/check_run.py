"""One run of a check: on the event loop, or in a thread; bounded by nothing but its caller's patience.

Rules:
- whatever a check raises is an Exception here, since KeyboardInterrupt in a task would end the event loop;
- a coroutine's steps are timed, since a step that takes long has kept the whole event loop waiting;
- given up, a coroutine is cancelled once, and a thread, which nobody can end, is left to itself;
- dropped (its event loop closes), a coroutine that ignored its cancellation is not asked again, but left;
- threads are daemons of their own: one that hangs keeps neither others nor the end of the interpreter waiting.
"""

import asyncio
import inspect
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from time import perf_counter
from typing import Any

from projkit.clock import utc_now
from projkit.health.checks import CheckFailedError, HealthCheck


class CheckRun:
    """A check that has been started on the running event loop."""

    def __init__(self, check: HealthCheck) -> None:
        self.began = utc_now()
        self.given_up = False
        self.longest_step = 0.0
        self._in_thread = not check.is_coroutine_function
        work = self._from_thread(check) if self._in_thread else self._on_loop(check.function)
        # Not in the context of whatever request began the kit's start.
        self.task = asyncio.get_running_loop().create_task(work, context=Context())
        self.task.add_done_callback(_retrieve)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if not self.given_up:
            self.given_up = True
            if not self._in_thread:
                self.task.cancel()

    def drop(self) -> None:
        """Ends it, or leaves it where it does not end."""
        self.given_up = True
        self.task.cancel()

    async def _on_loop(self, function: Callable[[], Awaitable[Any]]) -> Any:
        return await _steps(self, _call(function))

    async def _from_thread(self, check: HealthCheck) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(_as_exception(error))

        def work() -> None:
            result, failed = None, None
            try:
                result = check.function()
            except BaseException as error:  # whatever it is, it must not end as a thread's last words
                failed = error
            with suppress(RuntimeError):  # the event loop is closed, and nobody wants to know
                loop.call_soon_threadsafe(settle, result, failed)

        threading.Thread(target=work, name=f"projkit-health-{check.name}", daemon=True).start()
        result = await future
        self._in_thread = False
        if not inspect.isawaitable(result):
            return result
        if self.given_up:
            _close(result)
            raise TimeoutError
        return await _steps(self, _call(lambda: result))


async def _call(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


@types.coroutine
def _steps(run: CheckRun, steps: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Awaits in the caller's place and times each step between two waits."""
    error: BaseException | None = None
    cancelled = False
    while True:
        started = perf_counter()
        try:
            waits_for = steps.send(None) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as end:
            raise _as_exception(end) from end
        finally:
            run.longest_step = max(run.longest_step, perf_counter() - started)
        try:
            yield waits_for
            error = None
        except GeneratorExit:
            steps.close()
            raise
        except asyncio.CancelledError as again:
            if cancelled:
                with suppress(BaseException):
                    steps.close()
                raise
            cancelled, error = True, again
        except BaseException as raised:  # it belongs to the check
            error = raised


def _as_exception(error: BaseException) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failed = CheckFailedError(f"raised {type(error).__name__}")
    failed.__cause__ = error
    return failed


def _close(awaitable: Any) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()
