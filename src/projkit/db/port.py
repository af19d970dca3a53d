"""The database port: one contract with three implementations, all tested by the same suite.

- :class:`projkit.db.postgresql.PostgresqlDatabase` runs compiled SQL on asyncpg (the *fast* mode);
- :class:`projkit.db.sqlite.SqliteDatabase` runs it on :mod:`sqlite3`, with a single writer;
- :class:`projkit.db.engine.EngineDatabase` runs the same statements through an ``AsyncEngine`` (the
  *transactional* mode: a host's engine, PgBouncer).

The contract:

- reads outside a transaction are autocommit;
- a write is one transaction, which is rolled back on any error or cancellation;
- after a cancelled command a connection is discarded or, by ``SqliteDatabase``, kept until the command has ended;
- every wait is bounded and ends in :class:`~projkit.errors.DatabaseUnavailableError`;
- a violated constraint raises a :class:`~projkit.errors.DatabaseConstraintError` that names it.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Protocol, Self, TypeVar

from projkit.db.statement import Params, Row, Statement
from projkit.observers import Observer
from projkit.request_stats import StatementInfo, current_client_spans

T = TypeVar("T")


class observed:  # noqa: N801  # reads as a verb, as contextlib.suppress does
    """A context manager that reports a statement to the observer and to the trace of the current request.

    Set ``rows`` if the statement returns rows, and ``started`` anew once a connection has been acquired within.
    """

    __slots__ = ("_observer", "_statement", "rows", "started")

    def __init__(self, observer: Observer, statement: StatementInfo) -> None:
        self._observer = observer
        self._statement = statement
        self.rows: int | None = None

    def __enter__(self) -> Self:
        self.started = perf_counter()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        ended = perf_counter()
        self._observer.record_statement(self._statement, ended - self.started, error)
        if (traced := current_client_spans()) is not None:
            traced.statement(self._statement, self.started, ended, self.rows, error)


def row_count(result: object) -> int:
    """Return the number of rows in a driver's result: a list of rows, one row, or None."""
    return len(result) if isinstance(result, list) else int(result is not None)


def required_row(row: Row | None) -> Row:
    """Return the first row of a statement that always has one, such as ``INSERT … RETURNING`` or an aggregate.

    Raises:
        RuntimeError: there is no row, which is a bug.
    """
    if row is None:
        raise RuntimeError("The statement returned no row")
    return row


class Transaction(Protocol):
    """An open transaction."""

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        """Run a read or a write and return its first row, or None."""

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        """Run a statement and return all its rows."""

    async def execute_many(self, statement: Statement, params: Sequence[Params]) -> None:
        """Run a statement that returns no rows once for each of ``params``."""


class Queries(Protocol):
    """The queries that a database runs, each in a transaction of its own."""

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        """Return the first row of a read, or None."""

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        """Return all rows of a read."""

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        """Run one write as a transaction and return its first row, or None."""

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction, and again, a few times, after a deadlock or serialization failure."""


class Database(Queries, Protocol):
    """A database that is open on one event loop."""

    dialect: str

    def scoped(self, tenant_id: str, owner_id: str) -> Queries:
        """Return the queries of one owner.

        With row-level security they read and write only the rows of that owner. Otherwise this is the database itself,
        and the filters in the statements alone select the owner's rows.
        """

    async def ping(self) -> None:
        """Check that the database responds."""

    def connections(self) -> dict[str, int]:
        """Count the connections: ``maximum``, ``open``, ``checked_out``, ``overflow`` and the callers ``waiting``."""

    async def close(self) -> None:
        """Close all connections that were opened here."""

    def abandon(self) -> None:
        """Drop all connections that were opened here after their event loop has been closed."""
