"""A limit on log lines that every request repeats during an outage. What is left out is counted, and the count logged.

The first lines of a kind are logged as they are. The others are counted until the end of the period, when one line says
how many there were, also if nothing else happens by then.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakSet

from projkit.forks import reset_in_forks

LINES_PER_PERIOD: Final = 5
PERIOD_SECONDS: Final = 10.0
_MAX_KINDS: Final = 100
_OTHER: Final = "other"


class Timer(Protocol):
    """A timer that has been started."""

    def cancel(self) -> None:
        """Stop the timer."""


StartTimer = Callable[[float, Callable[[], None]], Timer]


def start_timer(seconds: float, function: Callable[[], None]) -> Timer:
    """Call a function later, in a thread that does not keep the process alive."""
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
    return timer


@dataclass(slots=True)
class _Period:
    ends_at: float
    passed: int = 0
    left_out: int = 0
    timer: Timer | None = None


_LIMITS: Final["WeakSet[LogLimit]"] = WeakSet()


class LogLimit:
    """The limit of one logger: at most five lines of each kind within ten seconds.

    Args:
        logger: logs the lines and the counts.
        what: names in the counts what is left out.
        clock: the time in seconds.
        start_timer: calls a function later.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        start_timer: StartTimer = start_timer,
    ) -> None:
        self._logger = logger
        self._what = what
        self._clock = clock
        self._start_timer = start_timer
        self.reset_after_fork()
        _LIMITS.add(self)
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Forget everything: the parent logs what it has left out."""
        self._lock = threading.Lock()
        self._periods: dict[str, _Period] = {}

    def warning(self, kind: str, message: str, *arguments: Any, **options: Any) -> None:
        """Log a warning, or count it."""
        if self.allows(kind):
            self._logger.warning(message, *arguments, **options)

    def allows(self, kind: str) -> bool:
        """Return whether a line of this kind may be logged; it is counted if not."""
        now = self._clock()
        with self._lock:
            period = self._periods.get(kind)
            if period is None and len(self._periods) >= _MAX_KINDS:
                self._periods = {name: each for name, each in self._periods.items() if each.ends_at > now}
                kind = _OTHER if len(self._periods) >= _MAX_KINDS else kind
                period = self._periods.get(kind)
            if period is None or (now >= period.ends_at and period.timer is None):
                period = self._periods[kind] = _Period(now + PERIOD_SECONDS)
            if period.passed < LINES_PER_PERIOD:
                period.passed += 1
                return True
            period.left_out += 1
            if period.timer is None:
                period.timer = self._start_timer(max(period.ends_at - now, 0.0), lambda: self._end(kind))
            return False

    def flush(self) -> None:
        """Log all counts now."""
        for kind in list(self._periods):
            self._end(kind)

    def _end(self, kind: str) -> None:
        with self._lock:
            period = self._periods.pop(kind, None)
        if period is None or not period.left_out:
            return
        if period.timer is not None:
            period.timer.cancel()
        self._logger.warning(
            "%s (%s): %d more in the last %g s",
            self._what,
            kind,
            period.left_out,
            PERIOD_SECONDS,
            extra={"left_out": period.left_out},
        )


def flush_all() -> None:
    """Log the counts of all limits."""
    for limit in list(_LIMITS):
        limit.flush()


atexit.register(flush_all)
