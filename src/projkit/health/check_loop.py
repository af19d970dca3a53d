"""Repeating one check: a run each period, one at a time, and the latest observation."""

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
    read_result,
    readable,
    shortened,
    text_of,
)
from projkit.observers import NULL_OBSERVER, Observer

logger: Final = logging.getLogger("projkit.health")

# From here on a step of a check is worth a word: it has kept every request waiting.
_LONG_STEP_SECONDS: Final = 0.1
# A wait that took so much longer than it should tells of a late event loop, and nothing of the dependency.
_LATE: Final = 1.25


class CheckLoop:
    """A check on one event loop. Made there, it starts at once; ``changed`` is called after each look."""

    def __init__(
        self, check: HealthCheck, changed: Callable[[], None], observer: Observer = NULL_OBSERVER
    ) -> None:
        self.check = check
        self.latest: Observation | None = None
        self.first_run = asyncio.Event()
        self._changed = changed
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._run: CheckRun | None = None
        self.task = self._loop.create_task(self._repeat(), context=Context())
        # However it ends, also before its first step: nobody waits for a look that never comes.
        self.task.add_done_callback(lambda _: self.first_run.set())
        self._tell(well=False, seconds=0.0)  # nobody knows yet

    @property
    def good_until(self) -> float:
        """The event loop's time from which on what is known counts for nothing."""
        since = self._since if self.latest is None else self.latest.loop_time
        return since + self.check.stale_seconds

    def status(self, now: float) -> CheckStatus:
        """What is known by now."""
        if self.latest is None or now >= self.good_until:
            return "unknown"
        return self.latest.status

    def drop(self) -> "list[asyncio.Task[Any]]":
        """Ends the loop, and a run that is under way; gives what has yet to end."""
        self.task.cancel()
        if self._run is None:
            return [self.task]
        self._run.drop()
        return [self.task, self._run.task]

    async def _repeat(self) -> None:
        while True:
            due = self._loop.time() + self.check.period
            await self._run_once()
            self.first_run.set()
            await asyncio.sleep(max(due - self._loop.time(), self.check.period / 10))

    async def _run_once(self) -> None:
        """One observation; a run that was given up and has not ended is waited for, not started a second time."""
        if self._run is not None and await self._ends(self._run):
            self._run = None  # whatever it has found in the end, that was too late
        began = self._loop.time()
        if self._run is None:
            self._run = CheckRun(self.check)
            if await self._ends(self._run):
                run, self._run = self._run, None
                self._read(run, self._loop.time() - began)
                return
        elapsed = self._loop.time() - began
        if self._run.given_up:
            self._note("error", elapsed, f"hangs since {self._run.began:%Y-%m-%dT%H:%M:%SZ}")
        else:
            self._run.give_up()
            self._note("error", elapsed, f"did not answer within {self.check.timeout:g} s")

    async def _ends(self, run: CheckRun) -> bool:
        began = self._loop.time()
        done, _ = await asyncio.wait({run.task}, timeout=self.check.timeout)
        if not done and self._loop.time() - began > self.check.timeout * _LATE:
            done, _ = await asyncio.wait({run.task}, timeout=self.check.timeout)
        return bool(done)

    def _read(self, run: CheckRun, elapsed: float) -> None:
        cause: BaseException | None = None
        detail, data = "", None
        status: Literal["ok", "error"] = "ok"
        try:
            detail, data = read_result(run.task.result())
        except asyncio.CancelledError:
            status, detail = "error", "was cancelled"
        except BaseException as error:  # a check may raise anything at all, and so may what it returns
            status, cause = "error", error
            detail, data = _explain(error)
        if run.longest_step > _LONG_STEP_SECONDS:
            blocks = f"blocks the event loop for {run.longest_step * 1000:.0f} ms"
            detail = f"{detail}; {blocks}" if detail else blocks
            if run.longest_step > self.check.timeout:
                status = "error"
        self._note(status, elapsed, detail, data, cause)

    def _note(
        self,
        status: Literal["ok", "error"],
        elapsed: float,
        detail: str,
        data: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        before = "ok" if self.latest is None else self.latest.status
        self.latest = Observation(status, self._loop.time(), utc_now(), elapsed * 1000, detail, data)
        self._changed()
        self._tell(well=status == "ok", seconds=elapsed)
        if status != before:
            with suppress(Exception):  # a filter of the host's that fails is no reason to look no more
                if status == "ok":
                    logger.info("the health check %s is well again", self.check.name)
                else:
                    _log_failure(self.check.name, detail, cause)

    def _tell(self, *, well: bool, seconds: float) -> None:
        check = self.check
        self._observer.record_health_check(
            check.name,
            critical=check.critical,
            healthy=well,
            seconds=seconds,
            valid_seconds=check.stale_seconds,
        )


def _explain(error: BaseException) -> tuple[str, Mapping[str, Any] | None]:
    """What may be shown of a failure: the kit's own words, and of anything else no more than its kind."""
    with suppress(BaseException):  # in a class of the host's own anything may raise
        if isinstance(error, CheckFailedError):
            return _told(error)
        if isinstance(error, ProjkitError):
            return shortened(error.detail), None
    return f"raised {type(error).__name__}", None


def _told(error: CheckFailedError) -> tuple[str, Mapping[str, Any] | None]:
    if error.data is None:
        return shortened(error.detail), None
    try:
        return shortened(error.detail), readable(error.data)
    except CheckFailedError as unreadable:
        return shortened(f"{unreadable.detail}; {text_of(error.detail)}"), None


def _log_failure(name: str, detail: str, cause: BaseException | None) -> None:
    if cause is None or isinstance(cause, ProjkitError):
        logger.warning("the health check %s fails: %s", name, detail)
    elif isinstance(cause, CheckFailedError):
        reason = cause.__cause__
        more = "" if reason is None else f" ({type(reason).__name__}: {shortened(reason)})"
        logger.warning("the health check %s fails: %s%s", name, detail, more)
    else:
        logger.warning("the health check %s fails: %s", name, detail, exc_info=cause)
