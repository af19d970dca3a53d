"""``metrics/database``: the connection pool, statements and transactions, and the server's own statistics."""

import asyncio
import json
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, Literal

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.dialects.postgresql import INTERVAL

from projkit.db.port import Database, required_row
from projkit.db.statement import Statement
from projkit.db.table_names import TableNames
from projkit.errors import ProjkitError
from projkit.telemetry.buckets import SIZE, milliseconds, percentile
from projkit.telemetry.families import (
    DATABASE_ERRORS,
    MAX,
    POOL,
    POOL_WAIT,
    SLOW_STATEMENTS,
    STATEMENTS,
    SUM,
    TRANSACTIONS,
)
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.store import Table

_TIMEOUT_SECONDS: Final = 2.0


class Pool(BaseModel):
    """The connections of all workers: this worker's now, the others' at their last sample."""

    size: int = Field(description="Open connections.")
    maximum: int
    checked_out: int
    overflow: int
    waiting: int = Field(description="Callers waiting for a connection.")
    wait_p95_ms: float | None
    wait_max_ms: float | None


class StatementMetrics(BaseModel):
    """The statements of one kind: an operation on a table."""

    operation: str
    table: str
    count: int
    mean_ms: float
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float


class SlowStatement(BaseModel):
    """A statement that took longer than 0.2 s. Its text has placeholders, never values."""

    statement: str
    count: int
    mean_ms: float
    max_ms: float


class PostgresqlMetrics(BaseModel):
    """Statistics that PostgreSQL reports."""

    connections: dict[str, int] = Field(description="Connections to this database, by state.")
    connections_total: int = Field(description="Connections to the whole server.")
    max_connections: int
    cache_hit_ratio: float | None
    database_bytes: int
    dead_tuples: int = Field(description="Dead rows of the kit's tables, which a vacuum removes.")
    live_tuples: int = Field(description="Rows of the kit's tables.")
    longest_transaction_seconds: float | None


class DatabaseMetrics(BaseModel):
    """The database and how the kit uses it."""

    scope: Literal["process", "all_workers"]
    dialect: str | None
    reachable: bool
    detail: str | None = Field(default=None, description="The reason, if the database is not reachable.")
    server_version: str | None
    round_trip_ms: float | None = Field(
        description="The round-trip time of a trivial statement, measured during this request."
    )
    database_bytes: int | None
    pool: Pool
    statements: list[StatementMetrics]
    slow_statements: list[SlowStatement]
    errors: dict[str, int] = Field(description="Failed statements, by class of error.")
    transactions: dict[str, int] = Field(description="`committed` and `rolled_back`.")
    postgresql: PostgresqlMetrics | None


class DatabaseReport:
    """Report on the database.

    Args:
        recorder: the kit's metrics.
        database: returns the connection pool of the running event loop; None if the kit is not running.
        names: the names of the kit's tables.
    """

    def __init__(
        self, recorder: Recorder, database: Callable[[], Database | None], names: TableNames
    ) -> None:
        self._recorder = recorder
        self._database = database
        self._postgresql_statement = _postgresql_statement(names)

    async def full(self) -> DatabaseMetrics:
        """Create the report; if the database does not respond in time, without the server's part."""
        database = self._database()
        server: dict[str, Any] = {"reachable": False, "detail": "The service has not started."}
        if database is not None:
            server = await self._query_server(database)
            self._recorder.record_pool_connections(database.connections())
        table = await asyncio.to_thread(self._recorder.read)
        return DatabaseMetrics(
            **{
                "server_version": None,
                "round_trip_ms": None,
                "database_bytes": None,
                "postgresql": None,
                **server,
            },
            scope="process" if self._recorder.directory is None else "all_workers",
            dialect=None if database is None else database.dialect,
            pool=_pool(table),
            statements=_statements(table),
            slow_statements=_slow_statements(table),
            errors={labels[0]: int(cells[0]) for labels, cells in _rows(table, DATABASE_ERRORS.name)},
            transactions={
                outcome: int(table.get((TRANSACTIONS.name, (outcome,)), [0.0])[0])
                for outcome in ("committed", "rolled_back")
            },
        )

    async def _query_server(self, database: Database) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                started = perf_counter()
                await database.ping()
                round_trip = perf_counter() - started
                if database.dialect == "postgresql":
                    statistics = await _query_postgresql(database, self._postgresql_statement)
                else:
                    statistics = await _query_sqlite(database)
        except ProjkitError as error:
            return {"reachable": False, "detail": error.detail}
        except TimeoutError:
            return {
                "reachable": False,
                "detail": f"The database did not respond within {_TIMEOUT_SECONDS:g} s.",
            }
        return {"reachable": True, "round_trip_ms": round(round_trip * 1000, 3), **statistics}


def _scalar(name: str, column: Any, table: sa.FromClause, *where: Any) -> Any:
    return sa.select(column).select_from(table).where(*where).scalar_subquery().label(name)


def _postgresql_statement(names: TableNames) -> Statement:
    activity = sa.table("pg_stat_activity", sa.column("state"), sa.column("datname"), sa.column("xact_start"))
    database = sa.table(
        "pg_stat_database", sa.column("blks_hit"), sa.column("blks_read"), sa.column("datname")
    )
    tables = sa.table(
        "pg_stat_user_tables",
        *(sa.column(name) for name in ("relid", "schemaname", "relname", "n_dead_tup", "n_live_tup")),
    )
    in_schema = (
        tables.c.schemaname == sa.literal_column(f"'{names.schema}'")
        if names.schema
        else sa.func.pg_table_is_visible(tables.c.relid)
    )
    prefix = sa.literal_column(f"'{names.prefix}'", sa.Text())
    kits = sa.and_(in_schema, sa.func.starts_with(tables.c.relname, prefix))
    here = sa.func.current_database()
    state = sa.func.coalesce(activity.c.state, "background")
    by_state = sa.select(state.label("state"), sa.func.count().label("number")).where(
        activity.c.datname == here
    )
    states = by_state.group_by(state).subquery()
    hits, reads = sa.func.sum(database.c.blks_hit), sa.func.sum(database.c.blks_read)
    age = sa.func.max(sa.func.clock_timestamp() - activity.c.xact_start, type_=INTERVAL())
    return Statement(
        sa.select(
            sa.func.current_setting("server_version").label("version"),
            sa.func.current_setting("max_connections").label("max_connections"),
            # As text, because the host of an engine chooses its parser of JSON.
            _scalar(
                "connections",
                sa.cast(sa.func.json_object_agg(states.c.state, states.c.number), sa.Text()),
                states,
            ),
            _scalar("total", sa.func.count(), activity),
            _scalar("ratio", hits / sa.func.nullif(hits + reads, 0), database, database.c.datname == here),
            sa.func.pg_database_size(here).label("bytes"),
            _scalar("dead", sa.func.coalesce(sa.func.sum(tables.c.n_dead_tup), 0), tables, kits),
            _scalar("live", sa.func.coalesce(sa.func.sum(tables.c.n_live_tup), 0), tables, kits),
            _scalar("longest", sa.extract("epoch", age), activity, activity.c.datname == here),
        )
    )


_SQLITE: Final = Statement(
    sa.select(
        sa.func.sqlite_version().label("version"),
        sa.text("(SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)"),
    )
)


async def _query_postgresql(database: Database, statement: Statement) -> dict[str, Any]:
    row = required_row(await database.fetch_one(statement, {}))
    version, maximum, connections, total, ratio, size, dead, live, longest = row
    return {
        "server_version": version.split()[0],
        "database_bytes": size,
        "postgresql": PostgresqlMetrics(
            connections=json.loads(connections or "{}"),
            connections_total=total,
            max_connections=int(maximum),
            cache_hit_ratio=None if ratio is None else round(float(ratio), 4),
            database_bytes=size,
            dead_tuples=int(dead),
            live_tuples=int(live),
            longest_transaction_seconds=None if longest is None else round(float(longest), 3),
        ),
    }


async def _query_sqlite(database: Database) -> dict[str, Any]:
    version, size = required_row(await database.fetch_one(_SQLITE, {}))
    return {"server_version": version, "database_bytes": size}


def _rows(table: Table, family: str) -> list[tuple[tuple[str, ...], list[float]]]:
    return sorted((labels, cells) for (name, labels), cells in table.items() if name == family)


def _pool(table: Table) -> Pool:
    states = {labels[0]: int(cells[0]) for labels, cells in _rows(table, POOL.name)}
    waits = table.get((POOL_WAIT.name, ()), [0.0] * POOL_WAIT.width)
    has_waits = any(waits[:SIZE])
    return Pool(
        size=states.get("open", 0),
        maximum=states.get("maximum", 0),
        checked_out=states.get("checked_out", 0),
        overflow=states.get("overflow", 0),
        waiting=states.get("waiting", 0),
        wait_p95_ms=milliseconds(percentile(waits, 0.95, waits[MAX])) if has_waits else None,
        wait_max_ms=milliseconds(waits[MAX]) if has_waits else None,
    )


def _statements(table: Table) -> list[StatementMetrics]:
    metrics = []
    for (operation, collection), cells in _rows(table, STATEMENTS.name):
        count = int(sum(cells[:SIZE]))
        if count:
            metrics.append(
                StatementMetrics(
                    operation=operation,
                    table=collection,
                    count=count,
                    mean_ms=round(cells[SUM] / count * 1000, 3),
                    p50_ms=milliseconds(percentile(cells, 0.5, cells[MAX])),
                    p95_ms=milliseconds(percentile(cells, 0.95, cells[MAX])),
                    max_ms=round(cells[MAX] * 1000, 3),
                )
            )
    return metrics


def _slow_statements(table: Table) -> list[SlowStatement]:
    slow = [
        SlowStatement(
            statement=text,
            count=int(count),
            mean_ms=round(seconds / count * 1000, 3),
            max_ms=round(longest * 1000, 3),
        )
        for (text,), (count, seconds, longest) in _rows(table, SLOW_STATEMENTS.name)
    ]
    return sorted(slow, key=lambda each: -each.max_ms)
