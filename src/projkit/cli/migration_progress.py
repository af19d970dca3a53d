"""The progress of a migration: a bar on a terminal, lines in a log."""

from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from projkit.cli.colours import err

_LINE_PERCENT: Final = 10  # a log has a line each time this much more is done


class MigrationProgress:
    """A receiver of the progress of a migration that prints it to standard error."""

    def __init__(self, console: Console = err) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", visible=False, total=None)
        self._title = self._reason = ""
        self._percent = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, title: str) -> None:
        """Print what is done now."""
        self._title, self._percent = title, 0
        self._bar.reset(self._task, description=title, total=None, visible=True)
        self._print(title)

    def advance(self, done: int, total: int) -> None:
        """Move the bar, or print the next line."""
        self._bar.update(self._task, completed=done, total=total)
        percent = 100 * done // total
        if not self._console.is_terminal and percent >= self._percent + _LINE_PERCENT:
            self._percent = percent
            self._print(f"{self._title}: {percent} %")

    def wait(self, reason: str) -> None:
        """Print a reason once."""
        if reason != self._reason:
            self._reason = reason
            self._print(reason)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
