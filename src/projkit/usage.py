"""What the request under way asks of database and Redis: counted, and where it is traced handed to its trace."""

from contextvars import ContextVar
from typing import Final, Protocol


class Statement(Protocol):
    """A database statement as it may be shown: never a value."""

    operation: str  # SELECT, INSERT, …
    collection: str  # the table, "" of none
    sql: str


class ClientSpans(Protocol):
    """Makes spans of what a traced request asks of others; times are those of :func:`time.perf_counter`."""

    def statement(
        self,
        statement: Statement,
        started: float,
        ended: float,
        rows: int | None,
        error: BaseException | None,
    ) -> None:
        """A database statement has ended; ``rows`` is how many came back, None where nobody knows."""

    def command(self, operation: str, started: float, ended: float, error: BaseException | None) -> None:
        """A Redis command has ended."""


class Usage:
    """What one request has spent in the database; ``spans`` where somebody wants to see it."""

    __slots__ = ("seconds", "spans", "statements")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.statements = 0
        self.spans: ClientSpans | None = None


USAGE: Final[ContextVar[Usage | None]] = ContextVar("projkit_usage", default=None)


def account(seconds: float) -> None:
    """Puts the seconds down to the request that is under way, if there is one."""
    usage = USAGE.get()
    if usage is not None:
        usage.seconds += seconds
        usage.statements += 1


def spans() -> ClientSpans | None:
    """Who makes spans for the request under way, if it is traced."""
    usage = USAGE.get()
    return None if usage is None else usage.spans
