"""Who wants to know what is asked of the database; the kit's recorder does."""

from typing import Final, Protocol

from projkit.request_stats import StatementInfo


class Observer(Protocol):
    """Is told of each statement, transaction and wait; must never raise and never wait."""

    def statement(self, statement: StatementInfo, seconds: float, error: BaseException | None) -> None:
        """A statement has ended, with an error or without."""

    def transaction(self, *, committed: bool) -> None:
        """A transaction has ended."""

    def waited(self, seconds: float) -> None:
        """A connection was had after so long."""


class _Nobody:
    def statement(self, statement: StatementInfo, seconds: float, error: BaseException | None) -> None:
        pass

    def transaction(self, *, committed: bool) -> None:
        pass

    def waited(self, seconds: float) -> None:
        pass


NOBODY: Final[Observer] = _Nobody()
