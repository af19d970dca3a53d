"""The scheduler that runs all health checks of one event loop in the background, and their overall status.

Rules:
- each check has its own loop, so that one that hangs delays no other;
- an endpoint only reads the latest results and never causes a run;
- the overall status is computed after a result, and again when a result becomes stale;
- the checks open their connections, and the scheduler closes them, even if the event loop ends without a shutdown.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from projkit.health.check_loop import CheckLoop
from projkit.health.checks import CheckStatus, HealthCheck, Observation, Status
from projkit.health.state_history import StateChange
from projkit.health.system import SystemSampler
from projkit.observers import NULL_OBSERVER, Observer
from projkit.per_loop import runs_on_asyncio

# A cancelled task ends at once, unless it ignores the cancellation; it is then abandoned.
_CLOSE_SECONDS: Final = 0.5
# The iterations of the event loop after which a cancellation has reached every task.
_CANCELLATION_STEPS: Final = 3


class Resource(Protocol):
    """A connection that checks use."""

    async def close(self) -> None:
        """Close the connection, in bounded time."""

    def abandon(self) -> None:
        """Release the connection after its event loop has been closed."""


@dataclass(frozen=True, slots=True)
class CheckState:
    """A check with its current status, its latest observation (None before the first), and its history."""

    name: str
    critical: bool
    status: CheckStatus
    latest: Observation | None
    age_seconds: float | None
    failing_since: datetime | None = None
    changes: tuple[StateChange, ...] = ()


class CheckScheduler:
    """The background execution of health checks on one event loop.

    Args:
        checks: the checks to run from the start.
        sampler: measures the machine and the process meanwhile.
        resources: the connections of the checks, to be closed with the scheduler.
        observer: records the results.
    """

    def __init__(
        self,
        checks: Iterable[HealthCheck],
        sampler: SystemSampler,
        resources: Iterable[Resource] = (),
        observer: Observer = NULL_OBSERVER,
    ) -> None:
        self.sampler = sampler
        self._checks = tuple(checks)
        self._resources = tuple(resources)
        self._observer = observer
        self.check_loops: dict[str, CheckLoop] = {}
        self._status: Status = "error"
        self._status_valid_until = float("-inf")

    def start(self) -> None:
        """Start running the checks on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._closer = self._spawn(self._close_at_end())
        self._sampling = self._spawn(self.sampler.run())
        for check in self._checks:
            self._add(check)

    async def wait_for_critical(self) -> None:
        """Wait until each critical check has run once, at most as long as their timeouts."""
        for check_loop in list(self.check_loops.values()):
            if check_loop.check.critical:
                await check_loop.first_run.wait()

    def add(self, check: HealthCheck) -> None:
        """Add a check and start running it; can be called from any thread."""
        if runs_on_asyncio() and asyncio.get_running_loop() is self._loop:
            self._add(check)
            return
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._add, check)

    def status(self) -> Status:
        """Return the overall status."""
        now = self._loop.time()
        if now >= self._status_valid_until:
            self._evaluate(now)
        return self._status

    def check_status(self, name: str) -> CheckStatus | None:
        """Return the status of a check; None if there is no check with this name."""
        check_loop = self.check_loops.get(name)
        return None if check_loop is None else check_loop.status(self._loop.time())

    def snapshot(self) -> list[CheckState]:
        """Return the current state of every check, in the order in which they were added."""
        now = self._loop.time()
        return [
            CheckState(
                check_loop.check.name,
                check_loop.check.critical,
                check_loop.status(now),
                check_loop.latest,
                None if check_loop.latest is None else now - check_loop.latest.loop_time,
                check_loop.history.failing_since,
                tuple(check_loop.history.changes),
            )
            for check_loop in self.check_loops.values()
        ]

    async def close(self) -> None:
        """Stop all checks and close their connections; a check that does not end is abandoned."""
        self._sampling.cancel()
        await asyncio.wait([self._sampling, *self._cancel_checks()], timeout=_CLOSE_SECONDS)
        self._closer.cancel()
        await asyncio.wait([self._closer], timeout=_CLOSE_SECONDS)

    def abandon(self) -> None:
        """Release the connections after the event loop has been closed."""
        for check_loop in self.check_loops.values():
            check_loop.end()
        for resource in self._resources:
            resource.abandon()

    def _add(self, check: HealthCheck) -> None:
        if not self._closer.done() and check.name not in self.check_loops:
            self.check_loops[check.name] = CheckLoop(check, self._invalidate, self._observer)
            self._invalidate()

    def _invalidate(self) -> None:
        self._status_valid_until = float("-inf")

    def _evaluate(self, now: float) -> None:
        """Compute the overall status; only a check that is not critical may still be waiting for its first result."""
        status: Status = "ok"
        valid_until = float("inf")
        for check_loop in self.check_loops.values():
            check_status = check_loop.status(now)
            if now < check_loop.valid_until:
                valid_until = min(valid_until, check_loop.valid_until)
            if check_status == "ok" or (
                check_status == "unknown" and now < check_loop.valid_until and not check_loop.check.critical
            ):
                continue
            if check_loop.check.critical:
                status = "error"
            elif status == "ok":
                status = "degraded"
        self._status, self._status_valid_until = status, valid_until

    async def _close_at_end(self) -> None:
        """Wait to be cancelled, by :meth:`close` or by an event loop that ends, and then close the connections."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # An event loop that ends cancels every task once and waits for all of them; cancel those that ignored it
            # again.
            for _ in range(_CANCELLATION_STEPS):
                await asyncio.sleep(0)
            self._cancel_checks()
            closing: list[Awaitable[None]] = [resource.close() for resource in self._resources]
            await asyncio.gather(*closing, return_exceptions=True)

    def _cancel_checks(self) -> "list[asyncio.Task[Any]]":
        return [task for check_loop in self.check_loops.values() for task in check_loop.cancel()]

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        # A new context, because a request may have triggered the start of the kit.
        return self._loop.create_task(work, context=Context())
