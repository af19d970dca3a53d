"""The thread that notices a blocked event loop, and says by what it is blocked."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable

import pytest

from projkit.health import loop_watchdog
from projkit.health.checks import CheckFailedError
from projkit.health.loop_watchdog import LoopWatchdog
from projkit.health.system import SystemSampler
from projkit.observers import Observer

pytestmark = pytest.mark.anyio
PATIENCE = 30


class Clock:
    """The clocks that the watchdog reads, set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asleep = 0.0

    def monotonic(self) -> float:
        """Return the time without sleep."""
        return self.now

    def clock_gettime(self, _: int) -> float:
        """Return the time with sleep."""
        return self.now + self.asleep


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    """A clock that stands still."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    monkeypatch.setattr(loop_watchdog, "time", clock)
    monkeypatch.setattr(loop_watchdog, "_BOOT_CLOCK", 7)
    return clock


def check_every_second(watchdog: LoopWatchdog, clock: Clock, seconds: int) -> None:
    """Let the thread run while the event loop does not."""
    for _ in range(seconds):
        clock.now += 1
        watchdog.check()


async def test_blocked(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A blocked event loop is logged once, with the process and the innermost calls, and once when it runs again."""
    watchdog = LoopWatchdog(lambda: None)
    watchdog.beat(0.0)
    check_every_second(watchdog, clock, 20)
    watchdog.beat(20.0)
    check_every_second(watchdog, clock, 2)
    blocked, again = caplog.messages
    assert blocked.startswith(f"the event loop of process {os.getpid()} has been blocked for 4.0 s, in ")
    assert ", called from check_every_second (" in blocked
    assert "test_loop_watchdog.py:" in blocked
    assert again == f"the event loop of process {os.getpid()} runs again, after 20.0 s"


async def test_suspended(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A process that did not run at all was suspended; that is no lag, and no handler of it is to blame."""
    watchdog = LoopWatchdog(lambda: None)
    clock.now += 3600
    assert watchdog.beat(3600.0) == 0.0
    assert caplog.messages == [f"process {os.getpid()} was suspended for 3600 s"]
    check_every_second(watchdog, clock, 1)
    clock.now += 3600
    watchdog.check()
    watchdog.beat(0.0)
    check_every_second(watchdog, clock, 2)
    assert len(caplog.messages) == 1
    assert watchdog.beat(5.0) == 5.0
    check_every_second(watchdog, clock, 1)
    assert watchdog.beat(15.0) == 15.0, "the thread ran meanwhile"


async def test_asleep(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was asleep is logged, where the system has a clock that tells."""
    watchdog = LoopWatchdog(lambda: None)
    watchdog.beat(0.0)
    clock.asleep += 7200
    check_every_second(watchdog, clock, 2)
    assert caplog.messages == ["the machine was asleep for 7200 s"]
    monkeypatch.setattr(loop_watchdog, "_BOOT_CLOCK", None)
    check_every_second(LoopWatchdog(lambda: None), clock, 2)
    assert len(caplog.messages) == 1


def test_stopped_event_loops(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop that does not run between two calls, or was closed, is not blocked; its thread ends with it."""
    monkeypatch.setattr(loop_watchdog, "_PERIOD_SECONDS", 0.01)
    stops: list[int] = []

    async def create() -> LoopWatchdog:
        return LoopWatchdog(lambda: stops.append(1))

    loop = asyncio.new_event_loop()
    watchdog = loop.run_until_complete(create())
    check_every_second(watchdog, clock, 5)
    assert (len(stops), caplog.messages) == (5, [])
    loop.close()
    thread = watchdog.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(stops) == 6


async def test_the_thread_of_a_loop_that_has_ended(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Without the thread of the event loop, there are no calls to show."""
    watchdog = LoopWatchdog(lambda: None)
    watchdog._loop_thread = -1  # noqa: SLF001 - as if it had just ended
    check_every_second(watchdog, clock, 5)
    assert "in a thread that has ended" in caplog.text


class Heartbeats(Observer):
    """The heartbeats of an event loop."""

    def __init__(self) -> None:
        self.lags: list[float | None] = []

    def record_heartbeat(self, lag_seconds: float) -> None:
        self.lags.append(lag_seconds)

    def end_heartbeat(self) -> None:
        self.lags.append(None)


async def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_heartbeat(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler shows that the event loop runs, its watchdog names what blocks it, and both end with it."""
    monkeypatch.setattr(loop_watchdog, "_PERIOD_SECONDS", 0.02)
    monkeypatch.setattr(loop_watchdog, "BLOCKED_SECONDS", 0.6)
    observer = Heartbeats()
    task = asyncio.create_task(SystemSampler(observer).run())
    await wait_for(lambda: len(observer.lags) >= 2)
    time.sleep(1.2)
    await wait_for(lambda: "runs again" in caplog.text)
    assert "has been blocked for" in caplog.text
    assert "in test_heartbeat (" in caplog.text
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert observer.lags[-1] is None
    await wait_for(lambda: not any(each.name == "projkit-loop-watchdog" for each in threading.enumerate()))


def test_another_worker_is_blocked() -> None:
    """The check `event_loop` fails if another worker is blocked, and names its process; its own is not another."""
    ages = [(os.getpid(), 60.0), (7, 0.4)]
    sampler = SystemSampler(silent_loops=lambda: ages)
    assert sampler.check_loop() == {"lag_ms": 0.0}
    ages.append((8, 12.34))
    with pytest.raises(
        CheckFailedError, match="another worker is blocked, and its requests wait: process 8 for 12 s"
    ) as failure:
        sampler.check_loop()
    assert failure.value.data == {"lag_ms": 0.0, "stuck_workers": [{"pid": 8, "seconds": 12.3}]}
