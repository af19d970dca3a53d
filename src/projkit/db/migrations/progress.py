"""What a migration reports while it runs."""

from typing import Protocol


class Progress(Protocol):
    """Receiver of the progress of a migration."""

    def begin(self, title: str) -> None:
        """Report that a step begins."""

    def advance(self, done: int, total: int) -> None:
        """Report how much of the current step is done, in units that differ by step."""

    def wait(self, reason: str) -> None:
        """Report that the migration has to wait."""


class NoProgress:
    """A receiver that ignores everything."""

    def begin(self, title: str) -> None:
        """Ignore it."""

    def advance(self, done: int, total: int) -> None:
        """Ignore it."""

    def wait(self, reason: str) -> None:
        """Ignore it."""
