"""The port through which everything asks the database.

Three implementations, one contract, one test suite over all of them:

- :class:`projkit.db.postgresql.PostgresqlDatabase` runs compiled SQL on asyncpg (the *fast* mode);
- :class:`projkit.db.sqlite.SqliteDatabase` runs it on :mod:`sqlite3`, with a single writer;
- :class:`projkit.db.engine.EngineDatabase` runs the same statements through an ``AsyncEngine`` (the
  *transactional* mode: a host's own engine, PgBouncer).

Rules that all keep: reads outside a transaction are autocommit; a write is one transaction, rolled back on any
error or cancellation; a connection whose command was cancelled is discarded; every wait is bounded and ends in
:class:`~projkit.errors.DatabaseUnavailableError`; a violated constraint is a
:class:`~projkit.errors.DatabaseConstraintError` that names it.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Protocol, TypeVar

from projkit.db.observer import Observed, Observer
from projkit.db.statement import Params, Row, Statement

T = TypeVar("T")


class Usage:
    """What one request has spent in the database."""

    __slots__ = ("seconds", "statements")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.statements = 0


USAGE: ContextVar[Usage | None] = ContextVar("projkit_database_usage", default=None)


def account(seconds: float) -> None:
    """Puts the seconds down to the request that is under way, if there is one."""
    usage = USAGE.get()
    if usage is not None:
        usage.seconds += seconds
        usage.statements += 1


@contextmanager
def observed(observer: Observer, statement: Observed) -> Iterator[None]:
    """Tells the observer how the statement within goes."""
    started = perf_counter()
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        observer.statement(statement, perf_counter() - started, failure)


class Transaction(Protocol):
    """An open transaction."""

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        """The first row, or None; also for writes, with or without RETURNING."""

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        """All rows."""

    async def execute_many(self, statement: Statement, params: Sequence[Params]) -> None:
        """Runs the statement once for each of ``params``."""


class Queries(Protocol):
    """What services ask of a database."""

    async def fetch_one(self, statement: Statement, params: Params) -> Row | None:
        """The first row of a read, or None."""

    async def fetch_all(self, statement: Statement, params: Params) -> Sequence[Row]:
        """All rows of a read."""

    async def write_one(self, statement: Statement, params: Params) -> Row | None:
        """Runs one writing statement as one transaction and returns its first row, if any."""

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs ``work`` in one transaction; again, a few times, after a deadlock or serialization failure."""


class Database(Queries, Protocol):
    """A database that is open on one event loop."""

    dialect: str

    def scoped(self, tenant_id: str, owner_id: str) -> Queries:
        """The database as this owner sees it: with row-level security on, it holds nobody else's rows.

        Without it this is the database itself, and the statements alone say whose rows they mean.
        """

    async def ping(self) -> None:
        """Asks the database for a sign of life."""

    def connections(self) -> dict[str, int]:
        """How many connections are ``open``, ``checked_out``, ``overflow`` and ``waiting`` for, and the ``maximum``."""

    async def close(self) -> None:
        """Closes every connection that was opened here."""

    def abandon(self) -> None:
        """Lets every connection go that was opened here, where its event loop has been closed."""
