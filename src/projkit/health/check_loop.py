"""The loop that repeats one check at its period, one run at a time, and keeps the latest observation."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, Literal

from projkit.clock import utc_now
from projkit.errors import ProjkitError
from projkit.health.check_run import CheckRun
from projkit.health.checks import (
    CheckFailedError,
    CheckStatus,
    HealthCheck,
    Observation,
    copy_data,
    read_result,
    to_text,
    truncate_detail,
)
from projkit.health.state_history import StateHistory
from projkit.observers import NULL_OBSERVER, Observer

logger: Final = logging.getLogger("projkit.health")

# A step of a check that blocks the event loop for longer than this is reported, because every request waits for it.
_LONG_STEP_SECONDS: Final = 0.1
# A timeout that fires this much later than it should is caused by a lagging event loop, not by the dependency.
_LATE_TIMEOUT_RATIO: Final = 1.25


class CheckLoop:
    """The periodic execution of a check on the running event loop; it starts at once.

    Args:
        check: the check to run.
        on_result: called after each run.
        observer: records the results.
    """

    def __init__(
        self, check: HealthCheck, on_result: Callable[[], None], observer: Observer = NULL_OBSERVER
    ) -> None:
        self.check = check
        self.latest: Observation | None = None
        self.history = StateHistory()
        self.first_run = asyncio.Event()
        self._on_result = on_result
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._run: CheckRun | None = None
        self.task = self._loop.create_task(self._repeat(), context=Context())
        # However the task ends, even before its first step, nothing may keep waiting for the first run.
        self.task.add_done_callback(lambda _: self.first_run.set())
        self._report(healthy=None, seconds=0.0)

    @property
    def valid_until(self) -> float:
        """The event loop's time at which the latest observation becomes stale."""
        since = self._since if self.latest is None else self.latest.loop_time
        return since + self.check.stale_seconds

    def status(self, now: float) -> CheckStatus:
        """Return the status at the time ``now`` of the event loop."""
        if self.latest is None or now >= self.valid_until:
            return "unknown"
        return self.latest.status

    def cancel(self) -> "list[asyncio.Task[Any]]":
        """Cancel the loop and the current run; return the tasks that have not ended yet."""
        self.end()
        self.task.cancel()
        if self._run is None:
            return [self.task]
        self._run.cancel()
        return [self.task, self._run.task]

    def end(self) -> None:
        """Record that the check no longer runs; not being run is no failure."""
        self._observer.end_health_check(self.check.name)

    async def _repeat(self) -> None:
        while True:
            due = self._loop.time() + self.check.period
            await self._run_once()
            self.first_run.set()
            await asyncio.sleep(max(due - self._loop.time(), self.check.period / 10))

    async def _run_once(self) -> None:
        """Run the check once; while a run that timed out has not ended, wait for it instead of starting another one."""
        if self._run is not None and await self._wait(self._run):
            self._run = None  # its result came too late
        started = self._loop.time()
        if self._run is None:
            self._run = CheckRun(self.check)
            if await self._wait(self._run):
                run, self._run = self._run, None
                self._finish(run, self._loop.time() - started)
                return
        elapsed = self._loop.time() - started
        if self._run.timed_out:
            self._record("error", elapsed, f"running since {self._run.started_at:%Y-%m-%dT%H:%M:%SZ}")
        else:
            self._run.time_out()
            self._record("error", elapsed, f"timed out after {self.check.timeout:g} s")

    async def _wait(self, run: CheckRun) -> bool:
        started = self._loop.time()
        done, _ = await asyncio.wait({run.task}, timeout=self.check.timeout)
        if not done and self._loop.time() - started > self.check.timeout * _LATE_TIMEOUT_RATIO:
            done, _ = await asyncio.wait({run.task}, timeout=self.check.timeout)
        return bool(done)

    def _finish(self, run: CheckRun, elapsed: float) -> None:
        cause: BaseException | None = None
        detail, data = "", None
        status: Literal["ok", "error"] = "ok"
        try:
            detail, data = read_result(run.task.result())
        except asyncio.CancelledError:
            status, detail = "error", "cancelled"
        except BaseException as error:  # a check can raise anything, and so can what it returns
            status, cause = "error", error
            detail, data = _explain(error)
        if run.longest_step > _LONG_STEP_SECONDS:
            blocked = f"blocked the event loop for {run.longest_step * 1000:.0f} ms"
            detail = f"{detail}; {blocked}" if detail else blocked
            if run.longest_step > self.check.timeout:
                status = "error"
        self._record(status, elapsed, detail, data, cause)

    def _record(
        self,
        status: Literal["ok", "error"],
        elapsed: float,
        detail: str,
        data: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        before = "ok" if self.latest is None else self.latest.status
        now = utc_now()
        self.latest = Observation(status, self._loop.time(), now, elapsed * 1000, detail, data)
        self.history.record(status, now, detail)
        self._on_result()
        self._report(healthy=status == "ok", seconds=elapsed)
        if status != before:
            with suppress(Exception):  # a logging filter of the host's must not end the loop
                if status == "ok":
                    logger.info("health check %s recovered", self.check.name)
                else:
                    _log_failure(self.check.name, detail, cause)

    def _report(self, *, healthy: bool | None, seconds: float) -> None:
        check = self.check
        self._observer.record_health_check(
            check.name,
            critical=check.critical,
            healthy=healthy,
            seconds=seconds,
            valid_seconds=check.stale_seconds,
            failing_since=self.history.failing_since,
        )


def _explain(error: BaseException) -> tuple[str, Mapping[str, Any] | None]:
    """Return the detail and data to show for a failure: the text of the kit's own errors, otherwise only the class."""
    with suppress(BaseException):  # in a class of the host's, anything can raise
        if isinstance(error, CheckFailedError):
            return _explain_failure(error)
        if isinstance(error, ProjkitError):
            return truncate_detail(error.detail), None
    return f"raised {type(error).__name__}", None


def _explain_failure(error: CheckFailedError) -> tuple[str, Mapping[str, Any] | None]:
    if error.data is None:
        return truncate_detail(error.detail), None
    try:
        return truncate_detail(error.detail), copy_data(error.data)
    except CheckFailedError as not_json:
        return truncate_detail(f"{not_json.detail}; {to_text(error.detail)}"), None


def _log_failure(name: str, detail: str, cause: BaseException | None) -> None:
    if cause is None or isinstance(cause, ProjkitError):
        logger.warning("health check %s failed: %s", name, detail)
    elif isinstance(cause, CheckFailedError):
        reason = cause.__cause__
        more = "" if reason is None else f" ({type(reason).__name__}: {truncate_detail(reason)})"
        logger.warning("health check %s failed: %s%s", name, detail, more)
    else:
        logger.warning("health check %s failed: %s", name, detail, exc_info=cause)
