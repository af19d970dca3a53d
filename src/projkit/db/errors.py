"""Translation of drivers' errors into the kit's.

PostgreSQL's errors are classified by SQLSTATE, which every driver passes on; only what a driver raises by itself has no
code. The message of an error can contain values of rows (``Key (external_id)=(…) already exists``), which are users'
data. A translated error therefore has no cause, and a log line has the server's message only for errors that are not
about a statement's values.
"""

import logging
import re
import sqlite3
import ssl
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import asyncpg
import sqlalchemy as sa

from projkit.errors import DatabaseConstraintError, DatabaseUnavailableError
from projkit.log_limit import LogLimit

logger: Final = logging.getLogger("projkit.db")
log_limit: Final = LogLimit(logger, "database unavailable")

_SQLITE_UNIQUE: Final = re.compile(r"UNIQUE constraint failed: (?P<columns>.+)")
# Serialization failures and deadlocks, after which the whole transaction can be run again.
_RETRYABLE: Final = frozenset({"40001", "40P01"})
_READ_ONLY: Final = "25006"  # a replica, or a server that fails over
_TOO_MANY_CONNECTIONS: Final = "53300"
_INTEGRITY_VIOLATION: Final = "23"
# Errors of the server or the network, not of the statement, by the class of their SQLSTATE: connection exception,
# transaction rollback, invalid authorization, insufficient resources, operator intervention (which includes statements
# that are cancelled or take too long), system error.
_UNAVAILABLE_CLASSES: Final = frozenset({"08", "28", "40", "53", "57", "58"})
_UNAVAILABLE: Final = frozenset(
    {
        _READ_ONLY,
        "25P03",  # idle in transaction for too long
        "25P04",  # transaction timeout
        "3D000",  # no such database
        "55P03",  # lock not available
    }
)
# Further classes whose messages name parts of the schema or of the SQL, never values.
_WITHOUT_VALUES: Final = frozenset({"0A", "25", "42", "55"})
# Of OpenSSL: the certificate is for another host name or address; its issuer is not known or not trusted.
_OTHER_NAME: Final = frozenset({62, 64})
_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21})
_REJECTED_LOGIN: Final = "28000"
_PROTOCOL_VIOLATION: Final = "08P01"
# A prepared statement does not exist, or exists already: another connection to the server than before.
_NO_PREPARED_STATEMENTS: Final = frozenset({"26000", "42P05"})
# What the drivers raise by themselves if the connection fails; psycopg's errors are wrapped in SQLAlchemy's.
_CLIENT_FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sa.exc.InterfaceError,
    sa.exc.OperationalError,
    sa.exc.TimeoutError,
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


class StatementFailedError(Exception):
    """A statement that the database or its driver rejected, which is a bug of the kit; the message has no values."""


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, which SQLAlchemy may have wrapped; None if it has none."""
    return next(
        (code for each in _causes(error) if isinstance(code := getattr(each, "sqlstate", None), str)), None
    )


def is_retryable(error: BaseException) -> bool:
    """Return whether ``error`` is a deadlock or serialization failure, after which the transaction can be run again."""
    return sqlstate(error) in _RETRYABLE


def is_unavailability(error: BaseException) -> bool:
    """Return whether ``error`` means that the server or the network failed, and not that it rejected a statement."""
    code = sqlstate(error)
    return _is_client_failure(error) if code is None else _is_unavailable(code)


def is_read_only(error: BaseException) -> bool:
    """Return whether the server rejected a write, so that its connections are of no use any more."""
    return sqlstate(error) == _READ_ONLY


def is_full(error: BaseException) -> bool:
    """Return whether the server has too many connections to accept another one."""
    return sqlstate(error) == _TOO_MANY_CONNECTIONS


def describe(error: BaseException) -> str:
    """Return a driver's error in one line, without the values of any row."""
    reason = _reason(error)
    code = sqlstate(error)
    if code is None:
        message = str(reason)
    elif _is_unavailable(code) or code[:2] in _WITHOUT_VALUES:
        # The lines after the first, such as DETAIL and CONTEXT, are about rows.
        message = _field(reason, "message_primary") or str(reason).partition("\n")[0]
    else:
        message = f"SQLSTATE {code}"
    text = f"{type(reason).__name__}: {' '.join(message.split())}"
    return f"{text}; {fix}" if (fix := _fix(reason, code)) else text


def _fix(reason: BaseException, code: str | None) -> str | None:
    """Return what to change in PROJKIT_DATABASE_URL or the settings; None if the error does not tell."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        if reason.verify_code in _OTHER_NAME:
            return (
                "connect by a name in the server's certificate, or set sslmode=verify-ca to accept any name"
            )
        if reason.verify_code in _UNKNOWN_ISSUER:
            return "set sslrootcert to the certificate of its authority, or to system if that is a public one"
        return "renew the server's certificate"
    message = str(reason)
    if code is None:
        if "rejected SSL upgrade" in message:
            return "enable TLS on the server (ssl = on), or set sslmode=disable if you trust the network"
        if "root certificate file" in message:
            return "set sslrootcert to the certificate of the server's authority, or to system if that is a public one"
    elif code == _REJECTED_LOGIN and "no encryption" in message:
        return "set sslmode=require, or verify-full with sslrootcert"
    elif code in _NO_PREPARED_STATEMENTS or (code == _PROTOCOL_VIOLATION and "startup parameter" in message):
        return "PgBouncer in transaction mode requires PROJKIT_DATABASE_MODE=transactional"
    return None


def unavailable(error: BaseException) -> DatabaseUnavailableError:
    """Return the kit's error for an unavailable database; the driver's message is logged, never sent to clients."""
    log_limit.warning(type(_reason(error)).__name__, "database unavailable: %s", describe(error))
    return DatabaseUnavailableError()


def raise_translated(error: Exception, metadata: sa.MetaData | None = None) -> NoReturn:
    """Raise the kit's error for a driver's error, and any other error unchanged.

    SQLite names the columns of a violated unique index; ``metadata`` has the index for them.

    Raises:
        DatabaseUnavailableError: the server or the network failed.
        DatabaseConstraintError: the row violates a constraint.
        StatementFailedError: the error is a bug of the kit.
    """
    if not isinstance(error, DRIVER_ERRORS):
        raise error
    raise _translated(error, metadata).with_traceback(error.__traceback__) from None


def _translated(error: BaseException, metadata: sa.MetaData | None) -> Exception:
    for each in _causes(error):
        if isinstance(each, sqlite3.IntegrityError):
            match = _SQLITE_UNIQUE.search(str(each))
            return DatabaseConstraintError(
                _index_name(match["columns"], metadata) if match and metadata is not None else str(each)
            )
        if isinstance(each, sqlite3.DatabaseError):
            # Locked for too long, disk full, read-only file, I/O error, interrupted by the kit's own timeout.
            return unavailable(each)
    code = sqlstate(error)
    if code is None:
        return unavailable(error) if _is_client_failure(error) else _bug(error)
    if code.startswith(_INTEGRITY_VIOLATION):
        return DatabaseConstraintError(_constraint_name(error) or code)
    return unavailable(error) if _is_unavailable(code) else _bug(error)


def _is_unavailable(code: str) -> bool:
    return code[:2] in _UNAVAILABLE_CLASSES or code in _UNAVAILABLE


def _is_client_failure(error: BaseException) -> bool:
    if getattr(error, "connection_invalidated", False):
        return True
    causes = list(_causes(error))
    # asyncpg raises an InterfaceError for a value of the wrong type too, which is a bug of the kit.
    return any(isinstance(each, _CLIENT_FAILURES) for each in causes) and not any(
        isinstance(each, ValueError) and not isinstance(each, OSError) for each in causes
    )


def _bug(error: BaseException) -> StatementFailedError:
    code = sqlstate(error)
    # Without a SQLSTATE it was raised by the driver or SQLAlchemy, usually because of a value, which it then repeats.
    parts = [type(_reason(error)).__name__ if code is None else describe(error)]
    parts += [f"{kind} {name}" for kind in ("table", "column") if (name := _name(error, kind))]
    return StatementFailedError(", ".join(parts))


def _constraint_name(error: BaseException) -> str | None:
    """Return the name of the violated constraint; of NOT NULL, which has none, the column's."""
    return _name(error, "constraint") or _name(error, "column")


def _name(error: BaseException, kind: str) -> str | None:
    return next((name for each in _causes(error) if (name := _field(each, f"{kind}_name"))), None)


def _field(error: BaseException, name: str) -> str | None:
    """Return a field of the server's error: an attribute in asyncpg, and in psycopg one of ``diag``."""
    for holder in (error, getattr(error, "diag", None)):
        value: Any = getattr(holder, name, None)
        if isinstance(value, str):
            return value
    return None


def _reason(error: BaseException) -> BaseException:
    """Return the driver's error: the innermost with a SQLSTATE, otherwise the one that SQLAlchemy has wrapped."""
    causes = list(_causes(error))
    with_code = [each for each in causes if isinstance(getattr(each, "sqlstate", None), str)]
    return with_code[-1] if with_code else getattr(error, "orig", None) or error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it wraps: SQLAlchemy's, its adapter's for the driver, the driver's."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = getattr(current, "orig", None) or current.__cause__


def _index_name(columns: str, metadata: sa.MetaData) -> str:
    names = [part.strip() for part in columns.split(",")]
    for table in metadata.tables.values():
        for index in table.indexes:
            if index.unique and [f"{table.name}.{column.name}" for column in index.columns] == names:
                return str(index.name)
        if [f"{table.name}.{column.name}" for column in table.primary_key.columns] == names:
            return str(table.primary_key.name)
    return columns
