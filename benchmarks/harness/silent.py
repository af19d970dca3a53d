"""``projkit serve`` that counts nothing: what the other servers' observability is measured against.

``python harness/silent.py serve …``; one worker, since it is this process alone in which nothing is counted.
"""

from __future__ import annotations

from projkit.cli import main
from projkit.telemetry.recorder import Recorder

COUNTING = (
    "begin", "end", "request", "disconnect", "exception", "credential", "csrf_check", "login", "refresh", "statement",
    "transaction", "waited", "command",
)  # fmt: skip


def count_nothing(*_: object, **__: object) -> None:
    """In place of each method that counts."""


def silence() -> None:
    """From here on no recorder of this process counts requests or what they ask."""
    for name in COUNTING:
        setattr(Recorder, name, count_nothing)


if __name__ == "__main__":
    silence()
    main()
