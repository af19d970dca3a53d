"""Who wants to know what is asked of Redis; the kit's recorder does."""

from typing import Final, Protocol


class Observer(Protocol):
    """Is told of each command; must never raise and never wait."""

    def command(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """A command (``HGET``, ``EVAL``, …; never a key or a value) has ended, with an error or without."""


class _Nobody:
    def command(self, operation: str, seconds: float, error: BaseException | None) -> None:
        pass


NOBODY: Final[Observer] = _Nobody()
