"""Lists: filters, five sort orders, and keyset pages that cost the same at any position.

A page continues at a row value, ``(key, id) > (:key, :id)``. Both databases seek to it in the index, even among a
hundred thousand equal keys, which ``key >= :key AND (key > :key OR id > :id)`` would scan.

Archived projects and the others have separate indexes, so that neither are read for the other ones; a list of both is
merged from two.

Projects without a due date come last in both directions. They are a second segment of the list, which has its own index
range and is joined by UNION ALL: neither database can read one index in both directions with NULLs at the end. It is
sorted by the due date too, which is null throughout, because that is the order of the index.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final, cast
from uuid import UUID

import orjson
import sqlalchemy as sa

from projkit.db.statement import Params, Row, Statement, bind, equals
from projkit.db.tables import Tables
from projkit.db.types import has_any
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects.query import ProjectQuery
from projkit.projects.schemas import RANK
from projkit.projects.scoping import owned, scope_params
from projkit.projects.statements import ProjectRow, constant, resource_columns

_TRIGRAM: Final = re.compile(r"[^\W_]{3}")
MAX_TOTAL: Final = 10_000  # how far projects are counted by default

_RANGES: Final = (
    ("created_after", "created_at", ">"),
    ("created_before", "created_at", "<"),
    ("updated_after", "updated_at", ">"),
    ("updated_before", "updated_at", "<"),
    ("due_after", "due_date", ">"),
    ("due_before", "due_date", "<"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts of a query that determine its SQL: all but the values."""

    # Their values, which are few, so that a plan for all values of the parameters is one for these.
    statuses: tuple[str, ...] = ()
    priorities: tuple[int, ...] = ()
    tags: int = 0
    search: bool = False
    indexable: bool = False  # whether an index of trigrams can find the searched text
    archived: str = "false"
    ranges: tuple[str, ...] = ()
    external_id: bool = False
    sort_key: str = "created_at"
    descending: bool = True
    after: str = ""  # "", "key" (after a row with a key) or "null" (after a row without one)

    @property
    def varies_in_frequency(self) -> bool:
        """Whether values that are not part of the shape determine how many projects match, and so the best plan."""
        others = any(column != self.sort_key for name, column, _ in _RANGES if name in self.ranges)
        return bool(self.tags or self.search or others)


class Listing:
    """A query of one caller, as statements and parameters."""

    __slots__ = ("_context", "_cursors", "_query", "_shape", "_tables", "params")

    def __init__(
        self, principal: Principal, query: ProjectQuery, cursors: CursorCodec, tables: Tables
    ) -> None:
        self._query = query
        self._cursors = cursors
        self._tables = tables
        params, self._shape, self._context = _plan(principal, query)
        if query.cursor is not None:
            self._shape = _continue(self._shape, params, cursors.decode(query.cursor, self._context))
        self.params: Params = params

    @property
    def page(self) -> Statement:
        """Statement that reads one row more than the page has, to find out whether there is a next page."""
        return page_statement(self._tables, self._shape)

    @property
    def exact_count(self) -> Statement:
        """Statement that counts all matching projects, whatever the page."""
        return count_statement(self._tables, self._shape, capped=False)

    @property
    def capped_count(self) -> Statement:
        """Statement that counts the matching projects, at most one more than ``MAX_TOTAL``."""
        return count_statement(self._tables, self._shape, capped=True)

    def next_cursor(self, last: Row) -> str:
        """Return the cursor of the page after ``last``."""
        row = ProjectRow(*last)
        key = getattr(row, self._query.sort_key)
        if isinstance(key, (date, datetime)):
            key = key.isoformat()
        return self._cursors.encode([key, str(row.id)], self._context)


def search_text(name: str, description: str) -> str:
    """Return the text in which ``q`` is searched: both texts, case-folded whatever the database's locale."""
    return fold(f"{name}\n{description}")


def fold(text: str) -> str:
    """Return text for case-insensitive comparison (Unicode §3.13)."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _plan(principal: Principal, query: ProjectQuery) -> tuple[dict[str, Any], Shape, bytes]:
    params: dict[str, Any] = scope_params(principal)
    params["rows"] = query.limit + 1
    if not query.model_fields_set - {"limit", "cursor", "total"}:
        return params, _PLAIN, orjson.dumps([principal.tenant_id, principal.subject])
    statuses = sorted({str(status) for status in query.status})
    priorities = sorted({RANK[priority] for priority in query.priority})
    tags = sorted(set(query.tag))
    params.update({f"tag_{index}": value for index, value in enumerate(tags)})
    search = fold(query.q)
    if search:
        # A backslash would depend on standard_conforming_strings.
        escaped = search.replace("/", "//").replace("%", "/%").replace("_", "/_")
        params["pattern"] = f"%{escaped}%"
    ranges = []
    for name, _, _ in _RANGES:
        value = getattr(query, name)
        if value is not None:
            params[name] = value
            ranges.append(name)
    if query.external_id is not None:
        params["external_id"] = query.external_id
    shape = Shape(
        statuses=tuple(statuses),
        priorities=tuple(priorities),
        tags=len(tags),
        search=bool(search),
        indexable=_TRIGRAM.search(search) is not None,
        archived=query.archived,
        ranges=tuple(ranges),
        external_id=query.external_id is not None,
        sort_key=query.sort_key,
        descending=query.descending,
    )
    context = [
        principal.tenant_id, principal.subject, query.sort, query.archived, statuses, priorities, tags, search,
        [[name, params[name]] for name in ranges], query.external_id,
    ]  # fmt: skip
    if shape == _PLAIN:
        context = context[:2]
    return params, shape, orjson.dumps(context)


_PLAIN: Final = Shape()


def _continue(shape: Shape, params: dict[str, Any], position: list[Any]) -> Shape:
    key, identifier = position
    params["after_id"] = UUID(identifier)
    if key is None:
        return _with_after(shape, "null")
    if shape.sort_key in ("created_at", "updated_at"):
        key = datetime.fromisoformat(key)
    elif shape.sort_key == "due_date":
        key = date.fromisoformat(key)
    params["after_key"] = key
    return _with_after(shape, "key")


@lru_cache(maxsize=512)
def _with_after(shape: Shape, after: str) -> Shape:
    return Shape(
        shape.statuses, shape.priorities, shape.tags, shape.search, shape.indexable, shape.archived, shape.ranges,
        shape.external_id, shape.sort_key, shape.descending, after,
    )  # fmt: skip


@lru_cache(maxsize=512)
def count_statement(tables: Tables, shape: Shape, *, capped: bool) -> Statement:
    table = tables.projects
    one: sa.Label[Any] = sa.literal_column("1").label("one")
    parts = [sa.select(one).select_from(table).where(*_filters(table, part)) for part in _by_archived(shape)]
    matching = parts[0] if len(parts) == 1 else sa.select(sa.union_all(*parts).subquery("either"))
    if capped:
        matching = matching.limit(sa.literal_column(str(MAX_TOTAL + 1), sa.Integer()))
    counted = sa.select(sa.func.count()).select_from(matching.subquery("matching"))
    return Statement(counted, plan_each_time=shape.varies_in_frequency)


@lru_cache(maxsize=512)
def page_statement(tables: Tables, shape: Shape) -> Statement:
    return Statement(_list(tables.projects, shape), plan_each_time=shape.varies_in_frequency)


def _list(table: sa.Table, shape: Shape) -> sa.Select[Any]:
    if shape.sort_key != "due_date":
        return _segment(table, shape, table.c[shape.sort_key])
    if shape.after == "null":
        return _undated(table, shape)
    dated = _segment(table, shape, table.c.due_date)
    undated = _undated(table, _with_after(shape, ""))
    both = sa.union_all(
        sa.select(dated.add_columns(sa.literal_column("0").label("segment")).subquery("dated")),
        sa.select(undated.add_columns(sa.literal_column("1").label("segment")).subquery("undated")),
    ).subquery("both")
    order = [both.c.segment, *_directed(shape, both.c.due_date, both.c.id)]
    return sa.select(*(both.c[name] for name in ProjectRow._fields)).order_by(*order).limit(_rows())


def _segment(table: sa.Table, shape: Shape, key: sa.Column[Any]) -> sa.Select[Any]:
    conditions: list[sa.ColumnElement[bool]] = []
    if shape.after:
        row, last = (
            sa.tuple_(key, table.c.id),
            sa.tuple_(bind(key, "after_key"), bind(table.c.id, "after_id")),
        )
        conditions.append(row < last if shape.descending else row > last)
    if key.nullable:
        conditions.append(key.is_not(None))
    return _page(table, shape, key, conditions)


def _undated(table: sa.Table, shape: Shape) -> sa.Select[Any]:
    conditions: list[sa.ColumnElement[bool]] = [table.c.due_date.is_(None)]
    if shape.after:
        row, last = table.c.id, bind(table.c.id, "after_id")
        conditions.append(row < last if shape.descending else row > last)
    return _page(table, shape, table.c.due_date, conditions)


def _page(
    table: sa.Table, shape: Shape, key: sa.Column[Any], conditions: list[sa.ColumnElement[bool]]
) -> sa.Select[Any]:
    """Return the first rows that meet the filters and the conditions, in the order of the key and the id."""
    parts = [
        sa.select(*resource_columns(table))
        .where(*_filters(table, part), *conditions)
        .order_by(*_directed(shape, key, table.c.id))
        .limit(_rows())
        for part in _by_archived(shape)
    ]
    if len(parts) == 1:
        return parts[0]
    both = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery("either")
    columns = [both.c[name] for name in ProjectRow._fields]
    order = _directed(shape, both.c[key.name], both.c.id)
    return sa.select(*columns).order_by(*order).limit(_rows())


def _by_archived(shape: Shape) -> list[Shape]:
    """Return the shapes of the parts of a list, each of which has indexes of its own."""
    return (
        [replace(shape, archived=each) for each in ("false", "true")] if shape.archived == "any" else [shape]
    )


def _directed(shape: Shape, *columns: sa.ColumnElement[Any]) -> list[sa.ColumnElement[Any]]:
    return [column.desc() if shape.descending else column.asc() for column in columns]


def _rows() -> sa.BindParameter[int]:
    return sa.bindparam("rows", type_=sa.Integer())


def _filters(table: sa.Table, shape: Shape) -> list[sa.ColumnElement[bool]]:
    conditions = [owned(table), table.c.deleted_at.is_(None)]

    if shape.statuses:
        conditions.append(table.c.status.in_([constant(status) for status in shape.statuses]))
    if shape.priorities:
        conditions.append(table.c.priority.in_([constant(rank) for rank in shape.priorities]))
    if shape.tags:
        tags = [sa.bindparam(f"tag_{index}", type_=sa.Text()) for index in range(shape.tags)]
        conditions.append(has_any(cast("sa.ColumnElement[str]", table.c.tags), *tags))
    if shape.search:
        pattern = bind(table.c.search_text, "pattern")
        # Without a trigram, an index of trigrams would be read from one end to the other.
        text = table.c.search_text if shape.indexable else table.c.search_text.concat(sa.literal_column("''"))
        conditions.append(text.like(pattern, escape="/"))
    if shape.archived != "any":
        absent = table.c.archived_at.is_(None)
        conditions.append(absent if shape.archived == "false" else sa.not_(absent))
    for name, column_name, operator in _RANGES:
        if name in shape.ranges:
            column = table.c[column_name]
            conditions.append(column.op(operator, is_comparison=True)(bind(column, name)))
    if shape.external_id:
        conditions.append(equals(table.c.external_id))
    return conditions
