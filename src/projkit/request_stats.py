"""Database time of the current request, and the spans of its database and Redis calls where it is traced."""

from contextvars import ContextVar
from typing import Final, Protocol


class StatementInfo(Protocol):
    """The parts of a database statement that telemetry may show; never a value."""

    operation: str  # SELECT, INSERT, …
    collection: str  # the table; "" if there is none
    sql: str


class ClientSpans(Protocol):
    """Creator of client spans for a traced request; times are those of :func:`time.perf_counter`."""

    def statement(
        self,
        statement: StatementInfo,
        started: float,
        ended: float,
        rows: int | None,
        error: BaseException | None,
    ) -> None:
        """Record a database statement that has ended; ``rows`` is the number of rows returned, None if unknown."""

    def command(self, operation: str, started: float, ended: float, error: BaseException | None) -> None:
        """Record a Redis command that has ended."""


class RequestStats:
    """The statements of one request and the seconds they took; ``client_spans`` is None unless it is traced."""

    __slots__ = ("client_spans", "database_seconds", "statements")

    def __init__(self) -> None:
        self.database_seconds = 0.0
        self.statements = 0
        self.client_spans: ClientSpans | None = None


REQUEST_STATS: Final[ContextVar[RequestStats | None]] = ContextVar("projkit_request_stats", default=None)


def add_database_time(seconds: float) -> None:
    """Add one statement of ``seconds`` to the current request, if there is one."""
    stats = REQUEST_STATS.get()
    if stats is not None:
        stats.database_seconds += seconds
        stats.statements += 1


def current_client_spans() -> ClientSpans | None:
    """Return the span creator of the current request, or None if it is not traced."""
    stats = REQUEST_STATS.get()
    return None if stats is None else stats.client_spans
