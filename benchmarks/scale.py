"""The pages that each query reads, by the number of projects: lists, searches, counts, the summary, and single rows.

``EXPLAIN (ANALYZE, BUFFERS)`` runs the kit's own statements on data of increasing size, with generic and with custom
plans. The exit code is 1 if a query reads more pages than its bound, or more at a greater size, unless its group is one
of ``UNBOUNDED``, which states why. A group that no longer exceeds its bound must be removed from there.

Every filter, every sort order and every statement must be in a case, so that a new one is not forgotten.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import product
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import asyncpg
import typer
from harness.scale_data import EXTREMES, LARGE, NOW, fill
from rich.console import Console
from rich.table import Table

from projkit.db import migrate
from projkit.db.tables import build_tables
from projkit.http.cursor import CursorCodec
from projkit.identity import Principal
from projkit.projects.listing import Listing
from projkit.projects.query import SORT_KEYS, ProjectQuery
from projkit.projects.statements import ProjectRow, project_statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from projkit.db.statement import Params, Statement

SERVER: Final = os.environ.get("BENCH_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432")
PAGE_BOUND: Final = 64  # one page of a list
QUERY_BOUND: Final = 200  # a search, a count, the summary
GROWTH: Final = 1.5
# Every index gets one or two levels higher.
LEVELS: Final = 8
PLANS: Final = ("custom", "generic")
TABLES: Final = build_tables("projkit_")
CURSORS: Final = CursorCodec.throwaway()
SORTS: Final = tuple(f"{sign}{key}" for key in SORT_KEYS for sign in ("", "-"))
console = Console(width=150)

# Each filter by itself; a parameter of the list that is missing here fails the run.
FILTERS: Final[dict[str, list[dict[str, Any]]]] = {
    "status": [{"status": (each,)} for each in ("active", "on_hold", "cancelled")],
    "priority": [{"priority": (each,)} for each in ("medium", "critical")],
    "tag": [{"tag": (each,)} for each in ("common", "some", "rare", "absent")],
    "q": [{"q": each} for each in ("customer", "zyzzyva", "xylophonist", "überprüfung", "cu", "qz")],
    "archived": [{"archived": each} for each in ("true", "any")],
    "created_after": [{"created_after": NOW - timedelta(days=each)} for each in (1, 990)],
    "created_before": [{"created_before": NOW - timedelta(days=each)} for each in (1, 990)],
    "updated_after": [{"updated_after": NOW - timedelta(days=each)} for each in (1, 990)],
    "updated_before": [{"updated_before": NOW - timedelta(days=each)} for each in (1, 990)],
    "due_after": [{"due_after": (NOW + timedelta(days=each)).date()} for each in (300, -990)],
    "due_before": [{"due_before": (NOW + timedelta(days=each)).date()} for each in (300, -990)],
    "external_id": [{"external_id": each} for each in ("ext-3", "absent")],
}
PAIRS: Final[tuple[dict[str, Any], ...]] = (
    {"status": ("active", "planning")},
    {"status": ("active",), "priority": ("high",)},
    {"status": ("cancelled",), "archived": "any"},
    {"status": ("active",), "tag": ("rare",)},
    {"status": ("active",), "q": "customer"},
    {"status": ("active",), "due_before": NOW.date()},
    {"tag": ("common",), "q": "zyzzyva"},
    {"created_after": NOW - timedelta(days=30), "created_before": NOW - timedelta(days=20)},
)
PAIR_SORTS: Final = ("-created_at", "-updated_at", "due_date", "name")
_OTHER_INDEX: Final = (
    "the filter and the order have no index in common, so that rows are read that do not match"
)
_COUNTED_ROWS: Final = "rows are counted in the table, because no index has all columns of the filter"
_NO_TEXT_INDEX: Final = "the text has no index"
_ALL_ROWS: Final = "all of the owner's rows are counted, in an index"
# The groups that exceed their bound, with the reason. Their statements are limited by DATABASE_STATEMENT_SECONDS only.
UNBOUNDED: Final[dict[str, str]] = {
    "count, q": _COUNTED_ROWS,
    "count, status, q": _COUNTED_ROWS,
    "count, tag": _COUNTED_ROWS,
    "count, tag, q": _COUNTED_ROWS,
    "list, created_after, other orders": _OTHER_INDEX,
    "list, created_before, other orders": _OTHER_INDEX,
    "list, due_after, by created_at": _OTHER_INDEX,
    "list, due_after, other orders": _OTHER_INDEX,
    "list, priority, by created_at": _OTHER_INDEX,
    "list, priority, other orders": _OTHER_INDEX,
    "list, status, other orders": _OTHER_INDEX,
    "list, tag, by created_at": _OTHER_INDEX,
    "list, tag, other orders": _OTHER_INDEX,
    "list, two filters": _OTHER_INDEX,
    "list, updated_after, by created_at": _OTHER_INDEX,
    "list, updated_after, other orders": _OTHER_INDEX,
    "search, q, by created_at": _NO_TEXT_INDEX,
    "search, q, other orders": _NO_TEXT_INDEX,
    "summary": _ALL_ROWS,
}
NOT_FILTERS: Final = {"sort", "limit", "cursor", "total"}
# The statements that read single rows by a key. All others that ProjectStatements has must be cases.
BY_KEY: Final = {
    "insert", "get", "update", "insert_imported", "update_imported", "restore_imported", "archive", "unarchive",
    "delete", "get_deleted", "restore", "_get_for_update", "_get_by_update",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A statement with its parameters, and the most pages that it may read."""

    group: str
    detail: str
    statement: Statement
    params: Params
    bound: int


@dataclass
class Group:
    """The results of the cases of one line of the report: the worst of each size."""

    bound: int
    counts: bool
    pages: dict[int, int] = field(default_factory=dict)
    milliseconds: dict[int, float] = field(default_factory=dict)
    worst: dict[int, str] = field(default_factory=dict)
    exceeding: dict[int, int] = field(default_factory=dict)
    cases: dict[int, int] = field(default_factory=dict)

    def add(self, rows: int, case: str, pages: int, milliseconds: float) -> None:
        """Add the result of a case."""
        self.cases[rows] = self.cases.get(rows, 0) + 1
        self.exceeding[rows] = self.exceeding.get(rows, 0) + (pages > self.bound)
        if pages >= self.pages.get(rows, -1):
            self.pages[rows], self.worst[rows] = pages, case
        self.milliseconds[rows] = max(milliseconds, self.milliseconds.get(rows, 0.0))

    @property
    def exceeds(self) -> bool:
        """Whether a case reads more pages than its bound, or than at the smallest size."""
        return any(pages > self.bound for pages in self.pages.values()) or self.grows

    @property
    def grows(self) -> bool:
        """Whether the pages increase with the size, other than with the projects that a count may count."""
        return self.growth > GROWTH and not self.counts

    @property
    def growth(self) -> float:
        """The pages at the greatest size relative to those at the smallest, without the indexes' new levels."""
        sizes = sorted(self.pages)
        return max(self.pages[sizes[-1]] - LEVELS, 0) / max(self.pages[sizes[0]], 1)


def main(
    largest: Annotated[
        int, typer.Option(min=4, max=7, help="The greatest number of rows, a power of ten.")
    ] = 5,
    only: Annotated[str, typer.Option(help="Run only groups whose name contains this text.")] = "",
    keep: Annotated[bool, typer.Option(help="Keep the databases.")] = False,
    verbose: Annotated[bool, typer.Option(help="Print every case that reads more than its bound.")] = False,
) -> None:
    """Measure, print the tables, and fail if a bound is exceeded."""
    require_all_cases()
    groups: dict[str, Group] = {}
    for exponent in range(4, largest + 1):
        asyncio.run(_measure(10**exponent, groups, only=only, keep=keep, verbose=verbose))
    if not _report(groups):
        raise typer.Exit(1)


def require_all_cases() -> None:
    """Check that each filter and each statement is in a case."""
    missing = set(ProjectQuery.model_fields) - set(FILTERS) - NOT_FILTERS
    statements = set(vars(project_statements(TABLES))) - BY_KEY - {"stats"}
    if missing or statements:
        raise SystemExit(f"without a bound: {', '.join(sorted(missing | statements))}")


async def _measure(rows: int, groups: dict[str, Group], *, only: str, keep: bool, verbose: bool) -> None:
    started = perf_counter()
    async with _database(f"projkit_scale_{rows}", keep=keep) as connection:
        table = TABLES.projects.name
        if not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):
            await fill(connection, table, rows)
            console.print(
                f"{rows:,} rows: created in {perf_counter() - started:.0f} s, {await _sizes(connection)}"
            )
        started = perf_counter()
        cases = [case for case in await _cases(connection) if only in case.group]
        for case, plan in product(cases, PLANS):
            if case.statement.plan_each_time and plan == "generic":
                continue
            pages, milliseconds = await _explain(connection, case, plan)
            detail = f"{case.detail}, {plan} plan"
            group = groups.setdefault(case.group, Group(case.bound, case.group.startswith("count")))
            group.add(rows, detail, pages, milliseconds)
            if verbose and pages > case.bound:
                console.print(
                    f"{rows:>10,} {pages:>8,} pages {milliseconds:>9.1f} ms  {case.group}: {detail}"
                )
        console.print(f"{rows:,} rows: {len(cases)} cases in {perf_counter() - started:.0f} s")


@asynccontextmanager
async def _database(name: str, *, keep: bool) -> AsyncIterator[asyncpg.Connection]:
    """Create a database with the kit's tables, connect to it, and drop it afterwards."""
    server = await asyncpg.connect(f"{SERVER}/postgres")
    try:
        if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await server.execute(f"CREATE DATABASE {name}")
        url = f"{SERVER}/{name}"
        await migrate.upgrade(url.replace("postgresql:", "postgresql+asyncpg:"))
        connection = await asyncpg.connect(url, server_settings={"jit": "off"})
        try:
            yield connection
        finally:
            await connection.close()
            if not keep:
                await server.execute(f"DROP DATABASE {name}")
    finally:
        await server.close()


async def _sizes(connection: asyncpg.Connection) -> str:
    """Describe the size of the table and its indexes."""
    query = (
        "SELECT relname, pg_relation_size(indexrelid) FROM pg_index JOIN pg_class ON oid = indexrelid "
        "WHERE indrelid = $1::regclass::oid ORDER BY 2 DESC"
    )
    table = TABLES.projects.name
    total = await connection.fetchval("SELECT pg_relation_size($1::regclass::oid)", table)
    indexes = await connection.fetch(query, table)
    named = ", ".join(f"{name.removeprefix('ix_')} {size / total:.0%}" for name, size in indexes)
    return (
        f"table {total / 1e6:.0f} MB, indexes {sum(size for _, size in indexes) / total:.0%} of it: {named}"
    )


async def _cases(connection: asyncpg.Connection) -> list[Case]:
    large = Principal(LARGE)
    middles = {key: await _middle(connection, large, key) for key in SORT_KEYS}
    cases: list[Case] = []
    single: list[dict[str, Any]] = [{}, *_single_filters()]
    for filters, sort in product(single, SORTS):
        kind = "search" if filters.get("q") else "list"
        order = "by created_at" if sort.endswith("created_at") else "other orders"
        name = ", ".join([kind, *filters, order])
        cases += _pages(large, {**filters, "sort": sort}, middles[sort.removeprefix("-")], name)
    for pair, sort in product(PAIRS, PAIR_SORTS):
        cases += _pages(large, {**pair, "sort": sort}, middles[sort.removeprefix("-")], "list, two filters")
    for owner, archived, sort in product(EXTREMES, ("false", "true", "any"), SORTS):
        name = f"list, owner {owner!r}"
        cases += _pages(Principal(owner), {"archived": archived, "sort": sort}, [], name)
    for owner, status in product(EXTREMES, ("active", "on_hold")):
        cases += _pages(Principal(owner), {"status": (status,)}, [], f"list, owner {owner!r}, status")
    cases += [_count(large, filters) for filters in (*single, *PAIRS)]
    for owner in EXTREMES:
        cases += [_count(Principal(owner), filters) for filters in ({}, {"archived": "any"})]
    statistics = {
        "today": NOW.date(),
        "in_a_week": NOW.date() + timedelta(7),
        "a_month_ago": NOW - timedelta(30),
    }
    for owner in (LARGE, *EXTREMES):
        params = {"tenant_id": "", "owner_id": owner, **statistics}
        cases.append(
            Case("summary", f"owner {owner!r}", project_statements(TABLES).stats, params, QUERY_BOUND)
        )
    row = middles["created_at"][0]
    key = {"tenant_id": "", "owner_id": LARGE, "id": row.id}
    cases.append(Case("get", "one project", project_statements(TABLES).get, key, PAGE_BOUND))
    return cases


def _single_filters() -> Iterator[dict[str, Any]]:
    for variants in FILTERS.values():
        yield from variants


async def _middle(connection: asyncpg.Connection, principal: Principal, key: str) -> list[ProjectRow]:
    """Return the rows at which deep pages begin: in the middle of the list, and among those without a key."""
    columns = ", ".join(f'"{name}"' for name in ProjectRow._fields)
    found = []
    for condition in ("IS NOT NULL", "IS NULL"):
        where = f"tenant_id = '' AND owner_id = $1 AND deleted_at IS NULL AND {key} {condition}"
        table = TABLES.projects.name
        offset = f"(SELECT count(*) / 2 FROM {table} WHERE {where})"
        query = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {key}, id OFFSET {offset} LIMIT 1"
        found += [ProjectRow(*row) for row in await connection.fetch(query, principal.subject)]
    return found


def _pages(
    principal: Principal, filters: dict[str, Any], deep: Iterable[ProjectRow], name: str
) -> Iterator[Case]:
    """Yield the first page of a list, and those after the ``deep`` rows."""
    query = ProjectQuery.model_validate(filters)
    bound = QUERY_BOUND if query.q else PAGE_BOUND
    first = Listing(principal, query, CURSORS, TABLES)
    yield Case(name, f"{_described(filters)}, first page", first.page, first.params, bound)
    for row in deep:
        if not _in_ranges(row, query):
            continue
        cursor = first.next_cursor(row)
        later = Listing(principal, query.model_copy(update={"cursor": cursor}), CURSORS, TABLES)
        yield Case(name, f"{_described(filters)}, deep page", later.page, later.params, bound)


def _in_ranges(row: ProjectRow, query: ProjectQuery) -> bool:
    """Return whether a page can begin after the row: its key is within the ranges of the query."""
    key, name = getattr(row, query.sort_key), query.sort_key.removesuffix("_at").removesuffix("_date")
    after, before = (getattr(query, f"{name}_{end}", None) for end in ("after", "before"))
    return (after is None or (key is not None and key > after)) and (
        before is None or (key is not None and key < before)
    )


def _count(principal: Principal, filters: dict[str, Any]) -> Case:
    listing = Listing(principal, ProjectQuery.model_validate(filters), CURSORS, TABLES)
    name = ", ".join(["count", *filters]) if principal.subject == LARGE else "count, other owners"
    detail = f"{_described(filters)} of {principal.subject!r}"
    return Case(name, detail, listing.capped_count, listing.params, QUERY_BOUND)


def _described(filters: dict[str, Any]) -> str:
    return " ".join(f"{name}={_text(value)}" for name, value in filters.items()) or "unfiltered"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(value)
    return value.date().isoformat() if isinstance(value, datetime) else str(value)


async def _explain(connection: asyncpg.Connection, case: Case, plan: str) -> tuple[int, float]:
    """Return the pages that a statement reads and the milliseconds that it takes, with this kind of plan."""
    compiled = case.statement.for_postgresql()
    values = ", ".join(_literal(value) for value in compiled.arguments(case.params))
    await connection.execute(f"SET plan_cache_mode = force_{plan}_plan")
    await connection.execute(f"PREPARE measured AS {compiled.sql}")
    try:
        command = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE measured({values})"
        (result,) = json.loads(await connection.fetchval(command))
    finally:
        await connection.execute("DEALLOCATE measured")
    top = result["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], result["Execution Time"]


def _literal(value: Any) -> str:
    if isinstance(value, (date, datetime)):
        value = value.isoformat()
    return "'" + str(value).replace("'", "''") + "'"


def _report(groups: dict[str, Group]) -> bool:
    """Print the results; return whether all bounds are met, except the known ones."""
    sizes = sorted({size for group in groups.values() for size in group.pages})
    last = sizes[-1]
    table = Table(title="pages read by the worst case of each group")
    for heading in (
        "group",
        "bound",
        *(f"{size:,} rows" for size in sizes),
        "growth",
        "ms",
        "exceeding",
        "worst case",
    ):
        table.add_column(heading, justify="left" if heading in ("group", "worst case") else "right")
    for name, group in sorted(groups.items()):
        table.add_row(
            name,
            str(group.bound),
            *(f"{group.pages[size]:,}" for size in sizes),
            f"{group.growth:.1f}",
            f"{group.milliseconds[last]:.1f}",
            f"{group.exceeding[last]} of {group.cases[last]}",
            group.worst[last],
            style="red" if group.exceeds and name not in UNBOUNDED else "yellow" if group.exceeds else None,
        )
    console.print(table)
    passed = True
    for name, group in sorted(groups.items()):
        if group.exceeds and name in UNBOUNDED:
            console.print(f"known: {name}: {UNBOUNDED[name]}")
        elif group.exceeds:
            console.print(f"exceeds its bound: {name}", style="red")
            passed = False
        elif name in UNBOUNDED:
            console.print(f"within its bound, so remove it from UNBOUNDED: {name}", style="red")
            passed = False
    return passed


if __name__ == "__main__":
    typer.run(main)
