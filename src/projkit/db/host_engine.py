"""The engine that a host passes to the kit: the forms that are accepted, and the one in which the kit uses it.

A synchronous engine is rejected, and not served from threads: a thread cannot be cancelled, so that neither a request's
timeout nor a client's disconnect would end its statement, and a transaction would change threads at every statement.
"""

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.pool import AssertionPool, StaticPool

from projkit.db.dsn import sqlite_url
from projkit.errors import ConfigurationError
from projkit.settings import Settings, parse_postgresql_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

HostEngine: TypeAlias = (
    "AsyncEngine | async_sessionmaker[Any] | Callable[[], AsyncEngine | async_sessionmaker[Any]]"
)

logger: Final = logging.getLogger("projkit.db")

# The drivers on which the tests of the API run, for each dialect.
_DRIVERS: Final = {"postgresql": ("asyncpg", "psycopg"), "sqlite": ("aiosqlite",)}
_SUPPORTED: Final = "PostgreSQL (on asyncpg or psycopg) and SQLite (on aiosqlite)"
READ_COMMITTED: Final = "READ COMMITTED"
# Options of execution that change the meaning or the results of statements, with SQLAlchemy's own defaults.
_DEFAULT_OPTIONS: Final[dict[str, Any]] = {
    "schema_translate_map": None,
    "stream_results": False,
    "yield_per": None,
    "no_parameters": False,
}
_POSTGRESQL_PORT: Final = 5432
_LOOPBACK: Final = {"127.0.0.1": "localhost", "::1": "localhost"}
_EXAMPLE: Final = 'create_async_engine("postgresql+psycopg://user:password@host/name")'


def resolve_engine(engine: "HostEngine | None") -> "AsyncEngine | None":
    """Return the ``AsyncEngine`` that the host's argument stands for.

    Raises:
        ConfigurationError: the argument is of another type, or its database or driver is not supported.
    """
    if engine is None:
        return None
    # A host that passes an engine has imported this already; a kit on a driver saves the memory of the ORM.
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker  # noqa: PLC0415

    resolved: object = engine
    if inspect.isroutine(resolved) or (callable(resolved) and not _is_of_sqlalchemy(resolved)):
        resolved = resolved()
    if isinstance(resolved, async_sessionmaker):
        resolved = resolved.kw.get("bind")
    if not isinstance(resolved, AsyncEngine):
        raise ConfigurationError(_explain(resolved))
    _require_supported(resolved.dialect.name, resolved.dialect.driver)
    _require_connections(resolved)
    return resolved


def for_kit(engine: "AsyncEngine") -> "AsyncEngine":
    """Return a view of the host's engine, on the same pool and with the same events, for the kit's transactions.

    Some options of an engine would make them wrong: a map of schemas would redirect the kit's tables, and results would
    be streamed from cursors. Also, SQLAlchemy logs no values of the kit's rows through it, whatever ``echo`` is.
    """
    view = engine.execution_options(**_DEFAULT_OPTIONS)
    view.sync_engine.hide_parameters = True
    if view.sync_engine.echo == "debug":  # which logs the rows of results
        view.sync_engine.echo = True
    return view


async def connected(engine: "AsyncEngine", isolation_level: str | None) -> "AsyncConnection":
    """Open a connection with this isolation level, or with its own if it is None.

    It is an option of the connection: the options of the host's engine would override those of a view of it.
    """
    connection = await engine.connect().start()
    if isolation_level is not None:
        try:
            await connection.execution_options(isolation_level=isolation_level)
        except BaseException:
            await connection.close()
            raise
    return connection


def host_isolation_level(engine: "AsyncEngine") -> str | None:
    """Return the isolation level that the host has set; None if it is the server's default."""
    level: str | None = engine.sync_engine.get_execution_options().get("isolation_level")
    # The argument of create_async_engine; SQLAlchemy has no public name for it.
    return level or getattr(engine.dialect, "_on_connect_isolation_level", None)


def warn_of_other_url(settings: Settings, engine: "AsyncEngine") -> None:
    """Warn if PROJKIT_DATABASE_URL is set to another database than the one of the host's engine, which is used."""
    if "database_url" not in settings.model_fields_set:
        return
    used, unused = engine.url, _urls(settings)
    if used.database is not None and _location(used) not in map(_location, unused):
        logger.warning(
            "the kit uses the database of the host's engine, %s; PROJKIT_DATABASE_URL is %s, which only the commands "
            "of projkit use: unset it, or set it to the same database",
            used.render_as_string(hide_password=True),
            unused[0].render_as_string(hide_password=True),
        )


def _urls(settings: Settings) -> list[sa.URL]:
    """Return the URL of the database in the settings, one for each of its hosts."""
    if settings.embedded:
        return [sqlite_url(settings.database_url)]
    url = parse_postgresql_url(settings.database_url)
    engine_url = sa.URL.create("postgresql+asyncpg", url.user, url.password, database=url.database)
    return [engine_url.set(host=host.name, port=host.port) for host in url.hosts] or [engine_url]


def _location(url: sa.URL) -> tuple[object, ...]:
    """Return where a database is, whatever the driver, user and options."""
    dialect, database = url.get_backend_name(), url.database or ""
    if dialect == "sqlite":
        return dialect, Path(database).absolute()
    host = str(url.query.get("host", url.host))
    return dialect, _LOOPBACK.get(host, host), url.port or _POSTGRESQL_PORT, database


class _Named(NamedTuple):
    """An object in place of an engine: what it is, and the synchronous engine on which it works, if known."""

    name: str
    engine: Any = None


def _is_of_sqlalchemy(value: object) -> bool:
    """Return whether a callable is one of SQLAlchemy's classes or objects, which are not called."""
    return type(value).__module__.startswith("sqlalchemy.") or isinstance(value, type)


def _require_supported(dialect: str, driver: str) -> None:
    if driver in _DRIVERS.get(dialect, ()):
        return
    if dialect not in _DRIVERS:
        raise ConfigurationError(
            f"the host's engine is for {dialect} ({dialect}+{driver}), which is not supported; the kit works with "
            f"{_SUPPORTED}: {_EXAMPLE}"
        )
    raise ConfigurationError(
        f"the driver {dialect}+{driver} of the host's engine is not supported; "
        f"create another engine on the same database for the kit: {_call_for(dialect, driver)}"
    )


def _require_connections(engine: "AsyncEngine") -> None:
    """Check that the transactions of concurrent requests have a connection each, and wait for each other's locks."""
    pool = type(engine.pool).__name__
    if isinstance(engine.pool, StaticPool | AssertionPool):
        if engine.url.database in (None, "", ":memory:") and engine.dialect.name == "sqlite":
            raise ConfigurationError(
                "the host's engine is on an in-memory database, which has a single connection, but the kit's requests "
                'need one each; use a file: create_async_engine("sqlite+aiosqlite:///application.db")'
            )
        raise ConfigurationError(
            f"the host's engine has a {pool}, which has a single connection, but the kit's requests need one each; "
            "create the engine without poolclass, or for the kit another one: create_async_engine(engine.url)"
        )
    if engine.dialect.name == "sqlite" and "cache=shared" in f"{engine.url.database}?{_query(engine.url)}":
        raise ConfigurationError(
            "the host's engine has cache=shared in its URL, with which SQLite rejects a statement at once instead of "
            "waiting for another connection's lock; remove it from the URL"
        )


def _query(url: sa.URL) -> str:
    return "&".join(f"{name}={value}" for name, value in url.query.items())


def _explain(value: object) -> str:
    wanted = (
        "engine must be an AsyncEngine, an async_sessionmaker bound to one, or a function that returns one"
    )
    if inspect.iscoroutine(value):
        value.close()  # which will not be awaited
        return (
            f"{wanted} of them, not a coroutine function; call create_async_engine(url) in a plain function"
        )
    if isinstance(value, str) or type(value).__module__ == "sqlalchemy.engine.url":
        return f"{wanted}, not a URL; pass create_async_engine(url), or set PROJKIT_DATABASE_URL instead"
    named = _sync_engine_of(value)
    if named is None:
        name = value.__name__ if isinstance(value, type) else type(value).__name__
        what = "None, which an unbound sessionmaker has" if value is None else name
        return f"{wanted} of them, not {what}; create one with: {_EXAMPLE}"
    if named.engine is None:
        return f"{wanted}, not {named.name}, which lasts for one use; pass the engine of create_async_engine(url)"
    dialect, driver = named.engine.dialect.name, named.engine.dialect.driver
    if dialect not in _DRIVERS:
        return f"{wanted}, on {_SUPPORTED}, not {named.name} on {dialect}; create one with: {_EXAMPLE}"
    return (
        f"{wanted}, not {named.name} on {dialect}+{driver}, which is synchronous; keep it for the rest of the "
        f"application and create another one on the same database for the kit: {_call_for(dialect, driver)}"
    )


def _sync_engine_of(value: object) -> _Named | None:
    """Return what SQLAlchemy calls an object that is not an asynchronous engine; None if it is not SQLAlchemy's."""
    from sqlalchemy.engine import Connection, Engine  # noqa: PLC0415
    from sqlalchemy.ext.asyncio import (  # noqa: PLC0415
        AsyncConnection,
        AsyncSession,
        async_scoped_session,
    )
    from sqlalchemy.orm import Session, scoped_session, sessionmaker  # noqa: PLC0415

    if isinstance(value, Engine):
        return _Named("an Engine", value)
    if isinstance(value, scoped_session):
        value = value.session_factory
    if isinstance(value, sessionmaker):
        bind = value.kw.get("bind")
        return _Named("a sessionmaker", bind) if isinstance(bind, Engine) else None
    if isinstance(value, AsyncConnection | AsyncSession | async_scoped_session | Connection | Session):
        return _Named(f"a {type(value).__name__}")
    return None


def _call_for(dialect: str, driver: str) -> str:
    if dialect == "sqlite":
        return 'create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))'
    if driver == "psycopg":
        return "create_async_engine(engine.url) (postgresql+psycopg:// URLs work with both functions)"
    return (
        'create_async_engine(engine.url.set(drivername="postgresql+psycopg")), after: pip install "psycopg[binary]" '
        "(such URLs work with create_engine and create_async_engine); postgresql+asyncpg needs no further package"
    )
