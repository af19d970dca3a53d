"""The background scheduler of one event loop: looks, so that no probe ever has to.

Rules:
- each check is looked at by itself, so that one that hangs delays no other;
- a probe only reads what is there: nothing it does causes a look;
- the whole is judged when something was observed, and anew when an observation becomes too old;
- what the checks use is opened by them and let go of here, also where the event loop just ends.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, Protocol

from projkit.health.check_loop import CheckLoop
from projkit.health.checks import CheckStatus, HealthCheck, Observation, Status
from projkit.health.system import SystemSampler
from projkit.observers import NULL_OBSERVER, Observer

# What is given up ends at once, unless it ignores that; then nobody waits for it.
_CLOSE_SECONDS: Final = 0.5
# In so many rounds of the event loop a cancellation has arrived.
_STEPS: Final = 3


class Resource(Protocol):
    """A connection that checks use."""

    async def close(self) -> None:
        """Closes it, in bounded time."""

    def abandon(self) -> None:
        """Lets it go where its event loop is closed."""


@dataclass(frozen=True, slots=True)
class CheckState:
    """A check with its current status and its latest observation, None before the first."""

    name: str
    critical: bool
    status: CheckStatus
    latest: Observation | None
    age_seconds: float | None


class CheckScheduler:
    """Watches checks on the running event loop."""

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
        self._check_loops: dict[str, CheckLoop] = {}
        self._status: Status = "error"
        self._judged_until = float("-inf")

    def start(self) -> None:
        """Start running the checks on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._guard = self._spawn(self._let_go_at_the_end())
        self._sampling = self._spawn(self.sampler.run())
        for check in self._checks:
            self._add(check)

    async def first_round(self) -> None:
        """Waits until each critical check has been looked at once, which their time-outs bound."""
        for check_loop in list(self._check_loops.values()):
            if check_loop.check.critical:
                await check_loop.first_run.wait()

    def add(self, check: HealthCheck) -> None:
        """Watches one more check; may be called from any thread."""
        if _running_loop() is self._loop:
            self._add(check)
            return
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._add, check)

    def status(self) -> Status:
        """How all of it stands; costs a look at the clock."""
        now = self._loop.time()
        if now >= self._judged_until:
            self._judge(now)
        return self._status

    def check_status(self, name: str) -> CheckStatus | None:
        """How one check stands; None where there is none of this name."""
        check_loop = self._check_loops.get(name)
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
            )
            for check_loop in self._check_loops.values()
        ]

    async def close(self) -> None:
        """Ends all loops and closes what they used; what does not end is left."""
        self._sampling.cancel()
        await asyncio.wait([self._sampling, *self._drop()], timeout=_CLOSE_SECONDS)
        self._guard.cancel()
        await asyncio.wait([self._guard], timeout=_CLOSE_SECONDS)

    def abandon(self) -> None:
        """Lets go of everything where the event loop is closed."""
        for resource in self._resources:
            resource.abandon()

    def _add(self, check: HealthCheck) -> None:
        if not self._guard.done() and check.name not in self._check_loops:
            self._check_loops[check.name] = CheckLoop(check, self._changed, self._observer)
            self._changed()

    def _changed(self) -> None:
        self._judged_until = float("-inf")

    def _judge(self, now: float) -> None:
        """Only what is well is good enough of a critical check; of another one also what is yet to be seen."""
        status: Status = "ok"
        until = float("inf")
        for check_loop in self._check_loops.values():
            found = check_loop.status(now)
            if now < check_loop.good_until:
                until = min(until, check_loop.good_until)
            if found == "ok" or (
                found == "unknown" and now < check_loop.good_until and not check_loop.check.critical
            ):
                continue
            if check_loop.check.critical:
                status = "error"
            elif status == "ok":
                status = "degraded"
        self._status, self._judged_until = status, until

    async def _let_go_at_the_end(self) -> None:
        """Closes what the checks use, also where nobody calls :meth:`close`: a loop that ends cancels its tasks."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # A loop that ends cancels all at once and waits for all: once more for those who do not listen.
            for _ in range(_STEPS):
                await asyncio.sleep(0)
            self._drop()
            closing: list[Awaitable[None]] = [resource.close() for resource in self._resources]
            await asyncio.gather(*closing, return_exceptions=True)

    def _drop(self) -> "list[asyncio.Task[Any]]":
        return [task for check_loop in self._check_loops.values() for task in check_loop.drop()]

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        # Not in the context of whatever request began the kit's start.
        return self._loop.create_task(work, context=Context())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
