"""SQLAlchemy Core statements that are compiled once and then run as SQL text on the driver."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.dialects.sqlite.aiosqlite import dialect as aiosqlite_dialect
from sqlalchemy.sql.visitors import cloned_traverse, iterate

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler

Params = Mapping[str, Any]
Row = Sequence[Any]
Processor = Callable[[Any], Any]
_PREFIX: Final = "param_"


class Compiled:
    """A statement compiled for one dialect: the SQL, the order of its parameters, and the conversions of values."""

    __slots__ = (
        "_binds",
        "_constants",
        "_results",
        "collection",
        "names",
        "operation",
        "plan_each_time",
        "sql",
    )

    def __init__(self, clause: sa.Executable, dialect: sa.Dialect, *, plan_each_time: bool = False) -> None:
        self.plan_each_time = plan_each_time
        self.operation, self.collection = _operation_and_table(clause)
        compiled = cast("SQLCompiler", cast("sa.ClauseElement", clause).compile(dialect=dialect))
        self.sql = str(compiled)
        self.names = tuple(compiled.positiontup or ())
        # Literal values within the statement, such as the 1 of ``version + 1``.
        self._constants = {
            name: bind.value for name in self.names if not (bind := compiled.binds[name]).required
        }
        self._binds: tuple[tuple[int, Processor], ...] = tuple(
            (index, processor)
            for index, name in enumerate(self.names)
            if (processor := compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        )
        columns = clause.exported_columns if isinstance(clause, sa.sql.expression.ReturnsRows) else ()
        self._results: tuple[tuple[int, Processor], ...] = tuple(
            (index, processor)
            for index, column in enumerate(columns)
            if (processor := column.type.dialect_impl(dialect).result_processor(dialect, None))
        )

    def arguments(self, params: Params) -> list[Any]:
        """Return ``params`` in the order of the SQL's placeholders, converted for the driver."""
        if self._constants:
            params = {**self._constants, **params}
        values = [params[name] for name in self.names]
        for index, processor in self._binds:
            values[index] = processor(values[index])
        return values

    def row(self, record: Row) -> Row:
        """Convert a row of the driver to Python's types."""
        if not self._results:
            return record
        values = list(record)
        for index, processor in self._results:
            values[index] = processor(values[index])
        return values


class Statement:
    """A Core statement that keeps its compiled forms.

    Create it once, at import or at startup, with a named bind parameter for each value that varies.

    With ``plan_each_time``, PostgreSQL plans it for the values of each execution, in the fast mode. Otherwise it keeps
    a plan after five executions, which is for values of average frequency.
    """

    __slots__ = ("_engine", "_postgresql", "_sqlite", "clause", "plan_each_time")

    def __init__(self, clause: sa.Executable, *, plan_each_time: bool = False) -> None:
        self.clause = clause
        self.plan_each_time = plan_each_time
        self._postgresql: Compiled | None = None
        self._sqlite: Compiled | None = None
        self._engine: sa.Executable | None = None

    def for_postgresql(self) -> Compiled:
        """Return the statement compiled for asyncpg."""
        if self._postgresql is None:
            self._postgresql = Compiled(self.clause, postgresql(), plan_each_time=self.plan_each_time)
        return self._postgresql

    def for_sqlite(self) -> Compiled:
        """Return the statement compiled for :mod:`sqlite3`."""
        if self._sqlite is None:
            self._sqlite = Compiled(self.clause, sqlite())
        return self._sqlite

    def for_engine(self) -> sa.Executable:
        """Return the statement for an ``AsyncEngine``, to be run with :func:`engine_params`.

        SQLAlchemy reserves parameters named after columns for its VALUES and SET clauses, so here all names get a
        prefix.
        """
        if self._engine is None:
            self._engine = cast("Any", cloned_traverse)(self.clause, {}, {"bindparam": _prefix})
        return self._engine


def _operation_and_table(clause: sa.Executable) -> tuple[str, str]:
    """Return OpenTelemetry's ``db.operation.name`` and ``db.collection.name``.

    If a statement contains another, as under row-level security, they are those of the inner one.
    """
    table = ""
    for element in iterate(cast("sa.ClauseElement", clause)):
        if isinstance(element, sa.Insert | sa.Update | sa.Delete):
            return type(element).__name__.upper(), cast("sa.TableClause", element.table).name
        if isinstance(element, sa.Table) and not table:
            table = element.name
    return "SELECT", table


def bind(column: sa.Column[Any], name: str | None = None) -> sa.BindParameter[Any]:
    """Return a parameter of the column's type, with the column's name unless ``name`` is given."""
    return sa.bindparam(name or column.name, type_=column.type)


def equals(column: sa.Column[Any], name: str | None = None) -> sa.ColumnElement[bool]:
    """Return the condition that the column equals its parameter, as made by :func:`bind`."""
    return column == bind(column, name)


def engine_params(params: Params) -> dict[str, Any]:
    """Return ``params`` with the prefixed names of :meth:`Statement.for_engine`."""
    return {_PREFIX + name: value for name, value in params.items()}


def _prefix(bind: sa.BindParameter[Any]) -> None:
    if bind.required:
        bind.key = _PREFIX + bind.key


@cache
def postgresql() -> sa.Dialect:
    """Return SQLAlchemy's asyncpg dialect, of which only the compiler is used."""
    return cast("sa.Dialect", asyncpg_dialect())  # type: ignore[no-untyped-call]


@cache
def sqlite() -> sa.Dialect:
    """Return SQLAlchemy's aiosqlite dialect, of which only the compiler is used."""
    return cast("sa.Dialect", aiosqlite_dialect())
