"""How ends of workers are named, and how long a crash loop waits."""

import signal

import pytest

from projkit.cli.worker_exits import EXIT_REASONS, describe_exit, exit_reason, restart_delay


@pytest.mark.parametrize(
    ("code", "reason", "description"),
    [
        (-signal.SIGKILL, "SIGKILL", "was ended by SIGKILL"),
        (-signal.SIGBUS, "SIGBUS", "was ended by SIGBUS"),
        (-signal.SIGUSR1, "other_signal", "was ended by SIGUSR1"),
        (-int(signal.SIGRTMIN) - 1, "other_signal", f"was ended by signal {int(signal.SIGRTMIN) + 1}"),
        (0, "exit_0", "ended with exit code 0"),
        (1, "exit_error", "ended with exit code 1"),
        (3, "start_failed", "failed to start"),
        (77, "exit_error", "ended with exit code 77"),
    ],
)
def test_reasons(code: int, reason: str, description: str) -> None:
    """Each end has one of a bounded number of reasons, and a description with its signal or exit code."""
    assert (exit_reason(code), describe_exit(code)) == (reason, description)
    assert exit_reason(code, planned=True) == "planned"
    assert exit_reason(code, planned=True, unresponsive=True) == "unresponsive"


def test_every_reason_is_declared() -> None:
    """Every possible reason is among those that start at zero, so that rates include the first end."""
    codes = range(-64, 256)
    assert {exit_reason(code) for code in codes} | {"planned", "unresponsive"} == set(EXIT_REASONS)


def test_delays() -> None:
    """The first replacement is immediate; the delay then doubles up to half a minute."""
    delays = [restart_delay(failures) for failures in range(1, 10)]
    assert delays == [0, 0.25, 0.5, 1, 2, 4, 8, 16, 30]
    assert restart_delay(100_000) == 30
