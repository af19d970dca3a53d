"""A thread that notices when the event loop of this process is blocked, and says by what.

It runs once a second and costs requests nothing: the event loop only stores the time of its heartbeat, twice a second.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

logger: Final = logging.getLogger("projkit.health")

BLOCKED_SECONDS: Final = 3.0
# Both the event loop and this thread stood still for so long: the process did not run at all.
SUSPENDED_SECONDS: Final = 10.0
_PERIOD_SECONDS: Final = 1.0
_FRAMES: Final = 3
_BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class LoopWatchdog:
    """The watchdog of the running event loop.

    Args:
        on_stop: called in the thread when the event loop has stopped running without closing this.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._on_stop = on_stop
        self._closed = threading.Event()
        self._blocked_since: float | None = None
        now = time.monotonic()
        self._heartbeat = self._checked_at = now
        self._asleep = _seconds_asleep()

    def start(self) -> threading.Thread:
        """Start the thread, and return it."""
        thread = threading.Thread(target=self._run, name="projkit-loop-watchdog", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End the thread soon."""
        self._closed.set()

    def beat(self, lag_seconds: float) -> float:
        """Record on the event loop that it runs; return its lag, or 0 if the whole process was suspended."""
        now = time.monotonic()
        self._heartbeat = now
        thread_lag = now - self._checked_at - _PERIOD_SECONDS
        if lag_seconds > SUSPENDED_SECONDS and thread_lag > lag_seconds / 2:
            logger.info("process %d was suspended for %.0f s", os.getpid(), lag_seconds)
            return 0.0
        return lag_seconds

    def check(self) -> None:
        """Look at the event loop once."""
        now = time.monotonic()
        overslept = now - self._checked_at - _PERIOD_SECONDS
        self._checked_at = now
        asleep = _seconds_asleep()
        if asleep - self._asleep > _PERIOD_SECONDS:
            logger.info("the machine was asleep for %.0f s", asleep - self._asleep)
        self._asleep = asleep
        if not self._loop.is_running():
            self._on_stop()
            return
        silent = now - self._heartbeat
        if self._blocked_since is not None and silent < BLOCKED_SECONDS:
            blocked = self._heartbeat - self._blocked_since
            logger.warning("the event loop of process %d runs again, after %.1f s", os.getpid(), blocked)
            self._blocked_since = None
        elif self._blocked_since is None and silent > BLOCKED_SECONDS and overslept < BLOCKED_SECONDS:
            self._blocked_since = self._heartbeat
            frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - there is no other way
            logger.warning(
                "the event loop of process %d has been blocked for %.1f s, in %s",
                os.getpid(),
                silent,
                _describe(frame),
            )

    def _run(self) -> None:
        while not self._closed.wait(_PERIOD_SECONDS):
            if self._loop.is_closed():
                self._on_stop()
                return
            self.check()


def _describe(frame: FrameType | None) -> str:
    """Return the innermost calls of a thread, the innermost first, on one line."""
    if frame is None:
        return "a thread that has ended"
    calls = traceback.extract_stack(frame)[-_FRAMES:]
    return ", called from ".join(f"{call.name} ({call.filename}:{call.lineno})" for call in reversed(calls))


def _seconds_asleep() -> float:
    """Return for how long the machine has been asleep since it was booted, as far as the system tells."""
    if _BOOT_CLOCK is None:
        return 0.0
    return time.clock_gettime(_BOOT_CLOCK) - time.monotonic()
