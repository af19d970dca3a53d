"""A database that a kit shares with its host, and with other kits: each finds its own as it left it."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projkit import ProjKit, Settings
from projkit.db import migrate
from tests.conftest import PATIENT, SECRET, Client, settings_for
from tests.db.conftest import RlsDatabase
from tests.host_engines import host_engine

pytestmark = pytest.mark.anyio

# What a session keeps until it is reset: settings, advisory locks, channels, temporary tables, scope and role.
SETTINGS = (
    "SELECT json_object_agg(name, setting)::text FROM (SELECT name, setting FROM pg_settings "
    "WHERE source IN ('session', 'client') AND name !~ '^transaction_' ORDER BY name) AS settings"
)
SESSION = (
    SETTINGS,
    "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    "SELECT count(*) FROM pg_listening_channels()",
    "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "SELECT concat(current_setting('projkit.owner_id', true), current_setting('projkit.tenant_id', true))",
    "SELECT concat_ws(',', current_user, session_user, current_schemas(false)::text)",
)


async def session(engine: AsyncEngine) -> list[Any]:
    """Return the backend and the state of the session of the host's only connection."""

    async def read(connection: AsyncConnection, sql: str) -> Any:
        return (await connection.exec_driver_sql(sql)).scalar()

    async with engine.connect() as connection:
        return [await read(connection, sql) for sql in ("SELECT pg_backend_pid()", *SESSION)]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_hosts_connections_come_back_unchanged(rls_database: RlsDatabase, driver: str) -> None:
    """After requests, errors and checks of a kit, the host's connection has its own settings, no locks and no scope."""
    settings = Settings(
        secret=SECRET,
        database_url=rls_database.url,
        row_level_security=True,
        max_concurrent_requests=0,
        **PATIENT,
    )
    async with host_engine(rls_database.url, driver, pool_size=1, max_overflow=0) as engine:
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SET search_path TO public, pg_catalog")
            await connection.exec_driver_sql("SET statement_timeout TO '61s'")
            await connection.commit()
        before = await session(engine)
        kit = ProjKit(settings, engine=engine)
        async with kit.lifespan(), Client(kit, settings) as client:
            project = await client.project(external_id="1")
            headers = {"Idempotency-Key": "once"}
            answers = [
                await client.post("/api/v1/projects", json={"name": "A", "external_id": "1"}),
                await client.post("/api/v1/projects", json={"name": "A"}, headers=headers),
                await client.get(f"/api/v1/projects/{project['id']}"),
                await client.get("/api/v1/projects"),
                await client.get("/api/v1/monitoring/metrics/database", headers={"Authorization": ""}),
            ]
            assert [answer.status_code for answer in answers] == [409, 201, 200, 200, 200]
        assert await session(engine) == before


async def test_kits_do_not_share_idempotency_keys(empty_postgres_url: str) -> None:
    """The same caller uses the same key in two kits on one database at the same time, and both create a project."""
    url = settings_for(empty_postgres_url).database_url
    kits = []
    different: list[dict[str, Any]] = [
        {"table_prefix": "a_"},
        {"table_prefix": "b_"},
        {"table_prefix": "a_", "database_schema": "kit"},
    ]
    for options in different:
        await migrate.upgrade(url, **options, new=True)
        kits.append(ProjKit(settings_for(empty_postgres_url, **options, **PATIENT)))
    first, second, third = kits
    async with first.lifespan(), second.lifespan(), third.lifespan():
        clients = [Client(kit, kit.settings) for kit in kits]
        for number in range(10):
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/api/v1/projects", json={"name": "A"}, headers={"Idempotency-Key": str(number)}
                    )
                    for client in clients
                )
            )
            assert [answer.status_code for answer in answers] == [201] * 3
        for client in clients:
            await client.aclose()
