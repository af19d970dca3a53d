"""Check at startup that a host's engine returns values as the kit's statements expect them.

Hosts set type codecs, loaders and session settings, and drivers react differently to them: psycopg cannot read times
unless ``DateStyle`` is ISO. A difference would appear as a wrong value, or as an error 500 for some rows only.
"""

import uuid
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from projkit.db.errors import describe
from projkit.db.statement import Statement, engine_params
from projkit.db.types import JsonText, UtcDateTime
from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_TEXT: Final = """a'b"c\\d %s $1 :x ä€𝄞"""
# In the order in which the statement returns them.
_VALUES: Final[dict[str, tuple[Any, sa.types.TypeEngine[Any]]]] = {
    "time": (datetime(2026, 7, 1, 12, 30, 15, 123456, tzinfo=UTC), UtcDateTime()),
    "date": (date(2026, 2, 1), sa.Date()),
    "uuid": (uuid.UUID("0197c0de-0000-7000-8000-0123456789ab"), sa.Uuid()),
    "text": (_TEXT, sa.Text()),
    "number": (2**31 - 1, sa.Integer()),
    "json": ('{"b": 1.10, "a": [null, "\\u00e4"]}', JsonText()),
}
_ROUND_TRIP: Final = Statement(
    sa.select(*(sa.bindparam(name, type_=type_).label(name) for name, (_, type_) in _VALUES.items()))
)
_PARAMS: Final = engine_params({name: value for name, (value, _) in _VALUES.items()})
_OWN_ENGINE: Final = "or give the kit an engine of its own: create_async_engine(engine.url)"


async def require_usable(engine: "AsyncEngine") -> None:
    """Check that values come back as they were sent, and that transactions are transactions.

    Raises:
        ConfigurationError: they do not; the message names the setting of the session that is known to cause it.
        SQLAlchemyError: the database is unavailable.
    """
    async with engine.connect() as connection:
        driver = f"{engine.dialect.name}+{engine.dialect.driver}"
        if engine.dialect.name == "postgresql":
            style = await _show(connection, "DateStyle")
            if engine.dialect.driver == "psycopg" and not style.startswith("ISO"):
                raise ConfigurationError(
                    f"the sessions of the host's engine ({driver}) have DateStyle {style}, in which psycopg cannot "
                    'read times; set it with: create_async_engine(url, connect_args={"options": "-c datestyle=ISO"})'
                )
        elif await _commits_each_statement(connection):
            raise ConfigurationError(
                "the host's engine commits each statement by itself, but the kit needs transactions; "
                f"create it without isolation_level=AUTOCOMMIT, {_OWN_ENGINE}"
            )
        try:
            row = (await connection.execute(_ROUND_TRIP.for_engine(), _PARAMS)).one()
        except (OSError, sa.exc.OperationalError, sa.exc.InterfaceError):
            raise  # the database is unavailable
        except Exception as error:  # codecs of the host can raise anything
            raise ConfigurationError(
                f"the host's engine ({driver}) rejects the kit's types ({describe(error)}); remove its type codecs, "
                f"{_OWN_ENGINE}"
            ) from error
    for (name, (sent, _)), received in zip(_VALUES.items(), row, strict=True):
        if not isinstance(received, type(sent)) or received != sent:
            raise ConfigurationError(
                f"the host's engine ({driver}) returns a {name} as {received!r} instead of {sent!r}; "
                f"remove its type codecs, {_OWN_ENGINE}"
            )


async def _show(connection: "AsyncConnection", setting: str) -> str:
    return str((await connection.exec_driver_sql(f"SHOW {setting}")).scalar_one())


async def _commits_each_statement(connection: "AsyncConnection") -> bool:
    """Return whether SQLite is in no transaction after a write; a temporary table needs no lock on the file."""
    await connection.exec_driver_sql("CREATE TEMP TABLE IF NOT EXISTS projkit_check (number)")
    await connection.exec_driver_sql("DELETE FROM projkit_check")
    raw = await connection.get_raw_connection()
    driver_connection: Any = raw.driver_connection
    in_transaction: bool = driver_connection.in_transaction
    await connection.exec_driver_sql("DROP TABLE projkit_check")
    await connection.commit()
    return not in_transaction
