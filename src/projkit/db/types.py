"""Column types that behave alike on PostgreSQL and SQLite."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import InternalTraversal

from projkit.clock import rfc3339
from projkit.db.statement import postgresql, sqlite


def text() -> sa.types.TypeEngine[str]:
    """Return a text type that sorts by code point on both databases."""
    return sa.Text(collation="C").with_variant(sa.Text(), "sqlite")


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time; in SQLite it is RFC 3339 text of fixed width, which sorts chronologically."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(
            sa.String(27) if dialect.name == "sqlite" else sa.DateTime(timezone=True)
        )

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[datetime | None], Any] | None:
        return _to_text if dialect.name == "sqlite" else None

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], datetime | None] | None:
        if dialect.name == "sqlite":
            return _from_text
        # The kit's own driver, for which there is no ``coltype``, returns UTC; others return the session's time zone.
        return None if coltype is None else _to_utc


def _to_utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


def _to_text(value: datetime | None) -> str | None:
    return None if value is None else rfc3339(value)


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


class IsoDate(sa.types.TypeDecorator[date]):
    """A date; in SQLite it is read as text, with any ``detect_types`` and ``native_datetime`` of a host's engine."""

    impl = sa.Date
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[date | None], Any] | None:
        return _date_to_text if dialect.name == "sqlite" else None

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], date | None] | None:
        return _date_from_text if dialect.name == "sqlite" else None

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return what a query selects, instead of the column: an expression, which has no declared type."""
        return _date_text(column)


def _date_to_text(value: date | None) -> str | None:
    return None if value is None else value.isoformat()


def _date_from_text(value: str | None) -> date | None:
    return None if value is None else date.fromisoformat(value)


class _Converted(sa.ColumnElement[Any]):
    """A column or parameter that one of the databases converts on a host's engine; elsewhere it is as it is."""

    _traverse_internals = [("inner", InternalTraversal.dp_clauseelement)]  # noqa: RUF012
    inherit_cache = True

    def __init__(self, inner: sa.ColumnElement[Any]) -> None:
        self.inner = inner
        self.type = inner.type


@compiles(_Converted)
def _unconverted(element: _Converted, compiler: SQLCompiler, **options: Any) -> str:
    return str(compiler.process(element.inner, **options))


class _date_text(_Converted):  # noqa: N801  # named like an SQL function
    """The text of a date column, which a host's engine on SQLite would convert, with a converter of its own choice."""

    inherit_cache = True


@compiles(_date_text, "sqlite")
def _sqlite_date_text(element: _date_text, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.inner, **options)
    # The kit's own connections convert nothing.
    return column if compiler.dialect is sqlite() else f"CAST({column} AS TEXT)"


class JsonText(sa.types.UserDefinedType[str]):
    """JSON that is read as text and sent to clients without being parsed.

    With ``binary`` it is ``jsonb`` on PostgreSQL, for columns that are searched. Otherwise the text is kept as it was
    written, with its order of keys and format of numbers.
    """

    cache_ok = True

    # SQLAlchemy's cache keys and copies of a type have only its positional arguments.
    def __init__(self, binary: bool = False) -> None:
        self.binary = binary

    def bind_expression(self, bindvalue: sa.BindParameter[Any]) -> sa.ColumnElement[Any]:
        """Return what a statement stores, instead of the parameter: the value that the server parses from its text."""
        return _json_value(bindvalue)

    def column_expression(self, colexpr: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return what a query selects, instead of the column: its text."""
        return _json_text(colexpr)


class _json_text(_Converted):  # noqa: N801  # named like an SQL function
    """The text of a JSON column, which a host's engine would parse, with a parser of its own choice."""

    inherit_cache = True


class _json_value(_Converted):  # noqa: N801  # named like an SQL function
    """The JSON value of a parameter, which a host's type codec would otherwise encode as a string once more."""

    inherit_cache = True


@compiles(_json_value, "postgresql")
def _postgresql_json_value(element: _json_value, compiler: SQLCompiler, **options: Any) -> str:
    bind = compiler.process(element.inner, **options)
    # The kit's own connections have no codecs.
    if compiler.dialect is postgresql():
        return bind
    return f"CAST(CAST({bind} AS TEXT) AS {compiler.dialect.type_compiler_instance.process(element.type)})"


@compiles(_json_text, "postgresql")
def _postgresql_json_text(element: _json_text, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.inner, **options)
    # asyncpg itself returns text.
    return column if compiler.dialect is postgresql() else f"CAST({column} AS TEXT)"


@compiles(JsonText, "postgresql")
def _postgresql_json(type_: JsonText, compiler: Any, **_: Any) -> str:
    return "JSONB" if type_.binary else "JSON"


@compiles(JsonText, "sqlite")
def _sqlite_json(type_: JsonText, compiler: Any, **_: Any) -> str:
    return "TEXT"


class has_any(sa.ColumnElement[bool]):  # noqa: N801  # named like an SQL function
    """An SQL condition: the JSON array in ``column`` contains at least one of ``values``."""

    # The parts in which SQLAlchemy looks for parameters, and which make up its cache key.
    _traverse_internals = [  # noqa: RUF012
        ("column", InternalTraversal.dp_clauseelement),
        ("values", InternalTraversal.dp_clauseelement_tuple),
    ]
    inherit_cache = True
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[str], *values: sa.ColumnElement[str]) -> None:
        self.column = column
        self.values = values


@compiles(has_any, "postgresql")
def _postgresql_has_any(element: has_any, compiler: SQLCompiler, **options: Any) -> str:
    values = ", ".join(compiler.process(value, **options) for value in element.values)
    # Not jsonb_exists_any(), which is the same except that it uses no index.
    return f"{compiler.process(element.column, **options)} ?| ARRAY[{values}]"


@compiles(has_any, "sqlite")
def _sqlite_has_any(element: has_any, compiler: SQLCompiler, **options: Any) -> str:
    values = ", ".join(compiler.process(value, **options) for value in element.values)
    column = compiler.process(element.column, **options)
    return f"EXISTS (SELECT 1 FROM json_each({column}) WHERE json_each.value IN ({values}))"  # noqa: S608  # the parts are compiled SQL
