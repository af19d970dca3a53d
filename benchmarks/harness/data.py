"""The rows of the benchmarks, the same ones in the peers' table and in projkit's.

2,000 owners share 200,000 projects (the largest owner has some 3,500, the median 60), and one more owner has 100,000.
PostgreSQL generates the rows in the order of their creation, so that an owner's rows are scattered over the table, as
they are in a table that grew over time.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from peers.common import DATABASE_URL, FIELDS, TABLE
from peers.models import Base
from sqlalchemy import create_mock_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


OWNERS = 2_000
PROJECTS = 200_000
DEEP_PROJECTS = 100_000
READER = "owner-0000"  # the largest of the 2,000
STRANGER = "owner-0001"
DEEP = "owner-deep"
WRITER = "owner-writer"  # this owner's rows are deleted before every run

_GENERATE = f"""
INSERT INTO {TABLE} ({", ".join(FIELDS)})
SELECT
    (lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3)
        || substr('89ab', 1 + dice % 4, 1) || substr(hash, 4, 15))::uuid,
    owner_id,
    (ARRAY['Rebuild', 'Migrate', 'Launch', 'Audit', 'Translate', 'Redesign', 'Automate', 'Document'])[1 + dice % 8]
        || ' ' || (ARRAY['customer portal', 'billing', 'warehouse', 'mobile app', 'onboarding', 'intranet',
        'data lake', 'call centre', 'web shop', 'payroll'])[1 + (dice / 8) % 10] || ' no. ' || dice % 5000,
    repeat('What is left: agree on the scope with the department, and write down who decides. ', dice % 5),
    CASE WHEN completed THEN 'completed'
         ELSE (ARRAY['planning', 'active', 'active', 'on_hold', 'cancelled'])[1 + dice % 5] END,
    (ARRAY['low', 'medium', 'medium', 'medium', 'high', 'critical'])[1 + (dice / 3) % 6],
    to_jsonb((ARRAY['internal', 'q1', 'q2', 'customer', 'legal', 'urgent', 'europe', 'budget'])
        [1 + dice % 5 : dice % 5 + dice % 4]),
    (created_at + interval '7 days')::date,
    CASE WHEN dice % 3 > 0 THEN (created_at + interval '7 days' + random() * interval '300 days')::date END,
    jsonb_build_object('cost_centre', 1000 + dice % 500, 'contact', 'person-' || dice % 900,
        'approved', dice % 2 = 0),
    CASE WHEN dice % 3 = 0 THEN 'ext-' || n END,
    CASE WHEN dice % 10 = 0 AND owner_id <> '{DEEP}' THEN updated_at END,
    CASE WHEN completed THEN updated_at END,
    created_at,
    updated_at,
    1 + dice % 6
FROM (
    SELECT *, created_at + random() * age AS updated_at, dice % 7 < 2 AS completed
    FROM (
        SELECT owner_id, n, md5(owner_id || '/' || n) AS hash, (random() * 1e9)::int AS dice,
            date_trunc('day', now()) - age AS created_at, age
        FROM unnest($1::text[], $2::int[]) AS owners (owner_id, size)
        CROSS JOIN LATERAL generate_series(1, size) AS n
        CROSS JOIN LATERAL (SELECT random() * (n > 0)::int * interval '1000 days' AS age) AS born_before
    ) AS born
) AS grown
ORDER BY created_at
"""


def owner_sizes() -> dict[str, int]:
    """Return the number of projects of each owner: few owners have many, many have few."""
    weights = [(rank + 10) ** -0.9 for rank in range(OWNERS)]
    sizes = [int(PROJECTS * weight / sum(weights)) for weight in weights]
    sizes[0] += PROJECTS - sum(sizes)
    return {f"owner-{rank:04}": size for rank, size in enumerate(sizes)} | {DEEP: DEEP_PROJECTS}


@asynccontextmanager
async def connected(url: str = DATABASE_URL) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection to the benchmark's database."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def make_database(*, fresh: bool = False) -> None:
    """Create the benchmark's database if it is missing; with ``fresh``, drop an existing one first."""
    parts = urlsplit(DATABASE_URL)
    name = parts.path.lstrip("/")
    async with connected(urlunsplit(parts._replace(path="/postgres"))) as connection:
        if fresh:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')


async def load_peers() -> bool:
    """Fill the peers' table unless it has the rows; return whether it was filled."""
    async with connected() as connection:
        if await _is_loaded(connection, TABLE):
            return False
        await connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await connection.execute(_ddl())
        await connection.execute("SELECT setseed(0.42)")
        sizes = owner_sizes()
        await connection.execute(_GENERATE, list(sizes), list(sizes.values()))
        await settle(connection, TABLE)
    return True


async def load_kit(table: str, copy: str) -> bool:
    """Copy the peers' rows into projkit's table unless it has them; return whether they were copied."""
    async with connected() as connection:
        if await _is_loaded(connection, table):
            return False
        await connection.execute(f"TRUNCATE {table}")
        await connection.execute(copy)
        await settle(connection, table)
    return True


async def delete_writes(*tables: str) -> None:
    """Delete the rows that earlier runs wrote, and vacuum the tables."""
    async with connected() as connection:
        for table in tables:
            await connection.execute(f"DELETE FROM {table} WHERE owner_id = $1", WRITER)
            await settle(connection, table)


async def newest(owner: str, limit: int) -> list[dict[str, object]]:
    """Return the owner's newest projects that are not archived, as the list endpoint should."""
    query = (
        f"SELECT {', '.join(FIELDS)} FROM {TABLE} WHERE owner_id = $1 AND archived_at IS NULL "
        "ORDER BY created_at DESC, id LIMIT $2"
    )
    async with connected() as connection:
        return [dict(row) for row in await connection.fetch(query, owner, limit)]


async def some_ids(owner: str, limit: int) -> list[str]:
    """Return ids of the owner's projects, a sample of all of them, always the same one."""
    query = f"SELECT id::text FROM {TABLE} WHERE owner_id = $1 ORDER BY md5(id::text) LIMIT $2"
    async with connected() as connection:
        return [row["id"] for row in await connection.fetch(query, owner, limit)]


async def _is_loaded(connection: asyncpg.Connection, table: str) -> bool:
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return False
    count = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE owner_id <> $1", WRITER)
    return bool(count == PROJECTS + DEEP_PROJECTS)


async def settle(connection: asyncpg.Connection, table: str) -> None:
    """Vacuum and checkpoint, so that PostgreSQL does not do it during a measurement."""
    await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.execute("CHECKPOINT")


def _ddl() -> str:
    statements: list[str] = []
    engine: Any = create_mock_engine(
        "postgresql://",
        lambda clause, *_, **__: statements.append(str(clause.compile(dialect=engine.dialect))),
    )
    Base.metadata.create_all(engine, checkfirst=False)
    return ";".join(statements)
