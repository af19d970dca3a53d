"""One run of a health check, on the event loop or in a thread; the caller enforces the timeout.

Rules:
- anything a check raises becomes an Exception, because KeyboardInterrupt in a task would end the event loop;
- each step of a coroutine is timed, because a long step blocks the whole event loop;
- at a timeout a coroutine is cancelled once; a thread cannot be cancelled and continues;
- when the event loop closes, a coroutine that ignored its cancellation is closed instead of being cancelled again;
- each thread is a separate daemon thread, so that one that hangs delays neither other checks nor the exit of the
  process.
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
from projkit.tasks import retrieve_exception


class CheckRun:
    """A run of a check, started on the running event loop."""

    def __init__(self, check: HealthCheck) -> None:
        self.started_at = utc_now()
        self.timed_out = False
        self.longest_step = 0.0
        self._in_thread = not check.is_coroutine_function
        work = self._run_in_thread(check) if self._in_thread else self._run_on_loop(check.function)
        # A new context, because a request may have triggered the start of the kit.
        self.task = asyncio.get_running_loop().create_task(work, context=Context())
        self.task.add_done_callback(retrieve_exception)

    def time_out(self) -> None:
        """Mark the run as timed out, and cancel it if it is a coroutine."""
        if not self.timed_out:
            self.timed_out = True
            if not self._in_thread:
                self.task.cancel()

    def cancel(self) -> None:
        """Cancel the run; one that ignores its cancellation is abandoned."""
        self.timed_out = True
        self.task.cancel()

    async def _run_on_loop(self, function: Callable[[], Awaitable[Any]]) -> Any:
        return await _timed(self, _call(function))

    async def _run_in_thread(self, check: HealthCheck) -> Any:
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
            except BaseException as error:  # anything at all: the thread must not print it
                failed = error
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(settle, result, failed)

        threading.Thread(target=work, name=f"projkit-health-{check.name}", daemon=True).start()
        result = await future
        self._in_thread = False
        if not inspect.isawaitable(result):
            return result
        if self.timed_out:
            _close(result)
            raise TimeoutError
        return await _timed(self, _call(lambda: result))


async def _call(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


@types.coroutine
def _timed(run: CheckRun, steps: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine and measure its longest step between two suspensions."""
    error: BaseException | None = None
    cancelled = False
    while True:
        started = perf_counter()
        try:
            awaited = steps.send(None) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as end:
            raise _as_exception(end) from end
        finally:
            run.longest_step = max(run.longest_step, perf_counter() - started)
        try:
            yield awaited
            error = None
        except GeneratorExit:
            steps.close()
            raise
        except asyncio.CancelledError as cancellation:
            if cancelled:
                with suppress(BaseException):
                    steps.close()
                raise
            cancelled, error = True, cancellation
        except BaseException as raised:  # for the check to handle
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
