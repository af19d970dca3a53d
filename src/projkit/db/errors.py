"""Translation of drivers' errors into the kit's."""

import logging
import re
import sqlite3
from typing import Final

import asyncpg
import sqlalchemy as sa

from projkit.errors import DatabaseConstraintError, DatabaseUnavailableError, ProjkitError

logger: Final = logging.getLogger("projkit.db")

_SQLITE_UNIQUE: Final = re.compile(r"UNIQUE constraint failed: (?P<columns>.+)")
# Errors after which the whole transaction can be run again.
RETRYABLE: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# Errors of the server or the network, not of the statement.
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

# All that a query can raise, if the database or the network fails, or the database rejects it.
DRIVER_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    sa.exc.SQLAlchemyError,
)


def unavailable(error: BaseException) -> DatabaseUnavailableError:
    """Return the kit's error for an unavailable database; the driver's message is logged, never sent to clients."""
    # SQLAlchemy's message repeats the statement with its values, which are users' data.
    reason = getattr(error, "orig", None) or error
    logger.warning("database unavailable: %s: %s", type(reason).__name__, reason)
    return DatabaseUnavailableError()


def translate_postgresql(error: BaseException) -> ProjkitError | None:
    """Return the kit's error for an error of asyncpg, or None if it is a bug of the kit."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return DatabaseConstraintError(str(error.constraint_name))
    # asyncpg raises an InterfaceError for a value of the wrong type too, which is a bug of the kit.
    if isinstance(error, _UNAVAILABLE) and not isinstance(error, ValueError):
        return unavailable(error)
    return None


def translate_sqlite(error: BaseException, metadata: sa.MetaData) -> ProjkitError | None:
    """Return the kit's error for an error of sqlite3, or None if it is a bug of the kit.

    SQLite names the columns of a violated unique index; ``metadata`` has the index for them.
    """
    if isinstance(error, sqlite3.IntegrityError):
        match = _SQLITE_UNIQUE.search(str(error))
        return DatabaseConstraintError(_index_name(match["columns"], metadata) if match else str(error))
    if isinstance(error, sqlite3.DatabaseError):
        # Locked for too long, disk full, read-only file, I/O error, interrupted by the kit's own timeout.
        return unavailable(error)
    return None


def translate_engine(error: sa.exc.DBAPIError, metadata: sa.MetaData) -> ProjkitError | None:
    """Return the kit's error for an error of SQLAlchemy, which wraps the driver's; None if it is a bug of the kit."""
    original: BaseException | None = error.orig
    while original is not None:
        translated = translate_postgresql(original) or translate_sqlite(original, metadata)
        if translated is not None:
            return translated
        original = original.__cause__
    return unavailable(error) if error.connection_invalidated else None


def is_retryable(error: BaseException) -> bool:
    """Return whether ``error`` is a deadlock or serialization failure, after which the transaction can be run again."""
    if isinstance(error, sa.exc.DBAPIError):
        cause: BaseException | None = error.orig
        while cause is not None:
            if isinstance(cause, RETRYABLE):
                return True
            cause = cause.__cause__
        return False
    return isinstance(error, RETRYABLE)


def _index_name(columns: str, metadata: sa.MetaData) -> str:
    names = [part.strip() for part in columns.split(",")]
    for table in metadata.tables.values():
        for index in table.indexes:
            if index.unique and [f"{table.name}.{column.name}" for column in index.columns] == names:
                return str(index.name)
        if [f"{table.name}.{column.name}" for column in table.primary_key.columns] == names:
            return str(table.primary_key.name)
    return columns
