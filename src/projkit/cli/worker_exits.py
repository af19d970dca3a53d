"""Reasons for which workers end, and the delay before one that fails again and again is replaced."""

import signal
from typing import Final

from uvicorn.config import STARTUP_FAILURE

_NAMED_SIGNALS: Final = ("SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV", "SIGBUS", "SIGABRT")
# All values of the label `reason` of projkit_worker_exits_total.
EXIT_REASONS: Final = (
    "planned",
    "unresponsive",
    "start_failed",
    "exit_0",
    "exit_error",
    *_NAMED_SIGNALS,
    "other_signal",
)
_FIRST_DELAY_SECONDS: Final = 0.25
_MAX_DELAY_SECONDS: Final = 30.0


def exit_reason(code: int, *, planned: bool = False, unresponsive: bool = False) -> str:
    """Return why a worker ended, as one of :data:`EXIT_REASONS`.

    Args:
        code: its exit code, or the negative number of the signal that ended it.
        planned: its parent had asked it to end.
        unresponsive: its parent killed it, because it did not respond.
    """
    if unresponsive:
        return "unresponsive"
    if planned:
        return "planned"
    if code < 0:
        name = _signal_name(-code)
        return name if name in _NAMED_SIGNALS else "other_signal"
    return {0: "exit_0", STARTUP_FAILURE: "start_failed"}.get(code, "exit_error")


def describe_exit(code: int) -> str:
    """Return how a worker ended, as a predicate for the log."""
    if code < 0:
        return f"was ended by {_signal_name(-code)}"
    return "failed to start" if code == STARTUP_FAILURE else f"ended with exit code {code}"


def restart_delay(failures: int) -> float:
    """Return the seconds until a worker is replaced that has failed so many times in a row soon after its start.

    The first replacement is immediate; then the delay doubles from a quarter of a second to half a minute.
    """
    if failures <= 1:
        return 0.0
    return min(_FIRST_DELAY_SECONDS * 2.0 ** min(failures - 2, 10), _MAX_DELAY_SECONDS)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
