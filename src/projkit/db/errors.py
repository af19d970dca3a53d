"""What drivers raise, turned into what the kit raises."""

import logging
import re
import sqlite3
from typing import Final

import asyncpg
import sqlalchemy as sa

from projkit.errors import DatabaseConstraintError, DatabaseUnavailableError, ProjkitError

logger: Final = logging.getLogger("projkit.db")

_SQLITE_UNIQUE: Final = re.compile(r"UNIQUE constraint failed: (?P<columns>.+)")
# Refusals of the whole transaction that a second try may well survive.
RETRIABLE: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# The server's or the network's fault, not the statement's.
_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)

# What asking may raise where the database, or the way to it, is at fault.
FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    sa.exc.SQLAlchemyError,
)


def unavailable(error: BaseException) -> DatabaseUnavailableError:
    """A bounded, retriable failure; what the driver said goes to the log and never to the client."""
    # SQLAlchemy's text repeats the statement with its values, which belong to users.
    reason = getattr(error, "orig", None) or error
    logger.warning("the database does not answer: %s: %s", type(reason).__name__, reason)
    return DatabaseUnavailableError()


def translate_postgresql(error: BaseException) -> ProjkitError | None:
    """The kit's error for one of asyncpg's, or None where it is a mistake of ours."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return DatabaseConstraintError(str(error.constraint_name))
    # asyncpg's errors for values of a wrong type are InterfaceErrors too, but they are mistakes of ours.
    if isinstance(error, _UNAVAILABLE) and not isinstance(error, ValueError):
        return unavailable(error)
    return None


def translate_sqlite(error: BaseException, metadata: sa.MetaData) -> ProjkitError | None:
    """The kit's error for one of sqlite3's, or None where it is a mistake of ours.

    SQLite names a violated unique index by its columns, which are looked up in ``metadata``.
    """
    if isinstance(error, sqlite3.IntegrityError):
        match = _SQLITE_UNIQUE.search(str(error))
        return DatabaseConstraintError(_index_name(match["columns"], metadata) if match else str(error))
    if isinstance(error, sqlite3.OperationalError):
        # Locked too long, disk full, read-only file, I/O error, interrupted by our own limit.
        return unavailable(error)
    if isinstance(error, sqlite3.DatabaseError):
        return unavailable(error)
    return None


def translate_engine(error: sa.exc.SQLAlchemyError, metadata: sa.MetaData) -> ProjkitError | None:
    """The kit's error for one of SQLAlchemy's, which wraps the driver's."""
    if isinstance(error, sa.exc.TimeoutError):
        return DatabaseUnavailableError("All database connections are in use")
    if not isinstance(error, sa.exc.DBAPIError):
        return None
    original: BaseException | None = error.orig
    while original is not None:
        translated = translate_postgresql(original) or translate_sqlite(original, metadata)
        if translated is not None:
            return translated
        original = original.__cause__
    return unavailable(error) if error.connection_invalidated else None


def is_retriable(error: BaseException) -> bool:
    """Return whether ``error`` is a deadlock or serialization failure, after which the transaction can be run again."""
    if isinstance(error, sa.exc.DBAPIError):
        cause: BaseException | None = error.orig
        while cause is not None:
            if isinstance(cause, RETRIABLE):
                return True
            cause = cause.__cause__
        return False
    return isinstance(error, RETRIABLE)


def _index_name(columns: str, metadata: sa.MetaData) -> str:
    wanted = [part.strip() for part in columns.split(",")]
    for table in metadata.tables.values():
        for index in table.indexes:
            if index.unique and [f"{table.name}.{column.name}" for column in index.columns] == wanted:
                return str(index.name)
        if [f"{table.name}.{column.name}" for column in table.primary_key.columns] == wanted:
            return str(table.primary_key.name)
    return columns
