"""Check at startup that a host's engine stores and returns values as the kit's statements expect them.

Hosts set type codecs, converters and session settings, and drivers react differently to them: psycopg cannot read times
unless ``DateStyle`` is ISO. A difference would appear as a wrong value, or as an error 500 for some rows only. Nothing
here writes to the kit's tables, whose triggers would run, and which a replica does not let anyone write.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from projkit.db.errors import describe, is_unavailability
from projkit.db.host_engine import READ_COMMITTED, connected, host_isolation_level
from projkit.db.port import required_row
from projkit.db.raw_sql import RawConnection, engine_first_row
from projkit.db.server_version import require_server
from projkit.db.statement import Row, Statement, bind, engine_params
from projkit.db.types import IsoDate, JsonText, UtcDateTime
from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_TEXT: Final = """a'b"c\\d %s $1 :x ä€𝄞"""
# A column of each type that the tables have, and of those that only parameters have. SQLite's drivers choose converters
# by the declared types of columns.
TABLE: Final = sa.Table(
    "projkit_check",
    sa.MetaData(schema="temp"),
    sa.Column("time", UtcDateTime()),
    sa.Column("date", IsoDate()),
    sa.Column("uuid", sa.Uuid()),
    sa.Column("text", sa.Text()),
    sa.Column("number", sa.Integer()),
    sa.Column("priority", sa.SmallInteger()),
    sa.Column("lock", sa.BigInteger()),
    sa.Column("json", JsonText()),
    sa.Column("tags", JsonText(binary=True)),
)
_VALUES: Final[dict[str, Any]] = {
    "time": datetime(2026, 7, 1, 12, 30, 15, 123456, tzinfo=UTC),
    "date": date(2026, 2, 1),
    "uuid": uuid.UUID("0197c0de-0000-7000-8000-0123456789ab"),
    "text": _TEXT,
    "number": 2**31 - 1,
    "priority": 3,
    "lock": 2**62,
    "json": '{"b": 1.10, "a": [null, "\\u00e4"]}',
    "tags": '["a", "ä"]',
}
# What queries return besides the columns' types; of numbers with a fraction only the value matters, not the type.
_COMPUTED: Final[dict[str, tuple[Any, sa.ColumnElement[Any]]]] = {
    "condition": (True, sa.literal_column("(1 = 1)", sa.Boolean())),
    "decimal": (1.5, sa.literal_column("CAST(1.5 AS NUMERIC)")),
    "float": (1.5, sa.literal_column("CAST(1.5 AS DOUBLE PRECISION)")),
    "version": ("0004", sa.literal_column("CAST('0004' AS VARCHAR(32))", sa.Text())),
}
_EXPECTED: Final = {**_VALUES, **{name: value for name, (value, _) in _COMPUTED.items()}}
_COMPUTED_COLUMNS: Final = [column.label(name) for name, (_, column) in _COMPUTED.items()]
# The casts make the server return the types of columns, not those of parameters.
_CAST: Final = Statement(
    sa.select(
        *(sa.cast(bind(column), column.type).label(column.name) for column in TABLE.c), *_COMPUTED_COLUMNS
    )
)
_INSERT: Final = Statement(
    sa.insert(TABLE)
    .values({column: bind(column) for column in TABLE.c})
    .returning(*TABLE.c, *_COMPUTED_COLUMNS)
)
_SELECT: Final = Statement(sa.select(*TABLE.c, *_COMPUTED_COLUMNS))
_DROP: Final = f"DROP TABLE IF EXISTS {TABLE.fullname}"
_SET: Final = "SELECT set_config('projkit.check', 'on', true)"
_GET: Final = "SELECT current_setting('projkit.check', true)"
_OTHER_DATE_STYLES: Final = ("SQL", "Postgres", "German")
_TRANSACTIONS: Final = {
    "postgresql": (
        'replace connect_args={"autocommit": True} by isolation_level="AUTOCOMMIT", which the kit overrides'
    ),
    "sqlite": "create it without isolation_level=AUTOCOMMIT, and without isolation_level or autocommit in connect_args",
}
_OWN_ENGINE: Final = "or give the kit an engine of its own: create_async_engine(engine.url)"


async def require_usable(engine: "AsyncEngine") -> str | None:
    """Check that values come back as they were sent and that transactions are transactions.

    Returns:
        The isolation level that the kit's connections need to be READ COMMITTED; None if they are.

    Raises:
        ConfigurationError: something does not; the message names the setting that is known to cause it.
        SQLAlchemyError: the database is unavailable.
    """
    driver = f"{engine.dialect.name}+{engine.dialect.driver}"
    if engine.dialect.name == "sqlite":
        await _require_usable(engine, driver, None, _check_sqlite)
        return None
    level = None if host_isolation_level(engine) in (None, READ_COMMITTED) else READ_COMMITTED
    await _require_usable(engine, driver, level, _check_postgresql)
    return await _require_read_committed(engine, level)


async def _require_usable(
    engine: "AsyncEngine",
    driver: str,
    level: str | None,
    check: Callable[["AsyncConnection"], Awaitable[tuple[list[Row], bool]]],
) -> None:
    async with _connection(engine, level) as connection:
        try:
            await require_server(RawConnection.of_engine(connection))
            rows, is_transaction = await check(connection)
        except ConfigurationError:
            raise
        except Exception as error:  # codecs of the host can raise anything
            if is_unavailability(error):
                raise
            raise ConfigurationError(
                f"the host's engine ({driver}) rejects the kit's types ({describe(error)}); remove its type codecs, "
                f"{_OWN_ENGINE}"
            ) from error
    for row in rows:
        _require_equal(driver, row)
    if not is_transaction:
        raise ConfigurationError(
            "the host's engine commits each statement by itself, but the kit needs transactions; "
            f"{_TRANSACTIONS[engine.dialect.name]}, {_OWN_ENGINE}"
        )


@asynccontextmanager
async def _connection(engine: "AsyncEngine", level: str | None) -> AsyncIterator["AsyncConnection"]:
    connection = await connected(engine, level)
    try:
        yield connection
    finally:
        await connection.close()


async def _check_postgresql(connection: "AsyncConnection") -> tuple[list[Row], bool]:
    """Return a row of values as they come back, and whether a transaction lasts for two statements."""
    dialect = connection.dialect
    style = await _text(connection, "SHOW DateStyle")
    if dialect.driver == "psycopg" and style.startswith(_OTHER_DATE_STYLES):
        raise ConfigurationError(
            f"the sessions of the host's engine ({dialect.name}+{dialect.driver}) have DateStyle {style}, in which "
            "psycopg cannot read times; set it with: "
            'create_async_engine(url, connect_args={"options": "-c datestyle=ISO"})'
        )
    encoding = await _text(connection, "SHOW client_encoding")
    if dialect.driver == "psycopg" and encoding != "UTF8":  # asyncpg sets it itself
        raise ConfigurationError(
            f"the sessions of the host's engine ({dialect.name}+{dialect.driver}) have client_encoding {encoding}, "
            "which cannot represent all text; set it with: "
            'create_async_engine(url, connect_args={"client_encoding": "utf8"})'
        )
    row = await _first_row(connection, _CAST, engine_params(_VALUES))
    await connection.exec_driver_sql(_SET)
    return [row], await _text(connection, _GET) == "on"


async def _check_sqlite(connection: "AsyncConnection") -> tuple[list[Row], bool]:
    """Return rows as they come back, and whether a write begins a transaction; a temporary table locks no file."""
    await connection.exec_driver_sql(_DROP)
    await connection.run_sync(TABLE.create)
    try:
        rows = [
            await _first_row(connection, _INSERT, engine_params(_VALUES)),
            await _first_row(connection, _SELECT, {}),
        ]
        raw: Any = (await connection.get_raw_connection()).driver_connection
        is_transaction: bool = raw.in_transaction
    finally:
        await connection.exec_driver_sql(_DROP)
        await connection.commit()
    return rows, is_transaction


async def _first_row(connection: "AsyncConnection", statement: Statement, params: dict[str, Any]) -> Row:
    return required_row((await connection.execute(statement.for_engine(), params)).first())


async def _text(connection: "AsyncConnection", sql: str) -> str:
    return str(required_row(await engine_first_row(connection, sql))[0])


def _require_equal(driver: str, row: Row) -> None:
    for (name, sent), received in zip(_EXPECTED.items(), row, strict=True):
        if isinstance(sent, float):
            equal = _is_number(received, sent)
        else:
            equal = isinstance(received, type(sent)) and received == sent
        if not equal:
            raise ConfigurationError(
                f"the host's engine ({driver}) returns a {name} as {received!r} instead of {sent!r}; "
                f"remove its type codecs, {_OWN_ENGINE}"
            )


def _is_number(value: Any, expected: float) -> bool:
    try:
        return float(value) == expected
    except (TypeError, ValueError):
        return False


async def _require_read_committed(engine: "AsyncEngine", level: str | None) -> str | None:
    """Return the level to set, if the server, the database, the role or the driver has another default.

    SQLAlchemy names it in BEGIN, and afterwards returns the connection to the level that its first connection had. The
    host's transactions would change if that is not the level that they have now.
    """
    actual = await _isolation_level(engine, level)
    if actual == engine.dialect.default_isolation_level != READ_COMMITTED:
        level = READ_COMMITTED
        actual = await _isolation_level(engine, level)
    if actual != READ_COMMITTED:
        raise ConfigurationError(
            f"an event of the host's engine makes its transactions {actual}, but the kit's must be {READ_COMMITTED}; "
            f'remove the event and use create_async_engine(url, isolation_level="{actual}"), which the kit overrides, '
            f"{_OWN_ENGINE}"
        )
    return level


async def _isolation_level(engine: "AsyncEngine", level: str | None) -> str:
    async with _connection(engine, level) as connection:
        return (await _text(connection, "SHOW transaction_isolation")).upper()
