"""``metrics/database`` reports statements, transactions, the pool and the server."""

import asyncio
from typing import Any

import asyncpg
import pytest

from projkit import ProjKit
from tests.conftest import Client, OpenClient, kit_in_mode, settings_for

pytestmark = pytest.mark.anyio
DATABASE = "/api/v1/monitoring/metrics/database"


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """Run every test of this module in both database modes."""
    return any_database_mode


async def metrics(client: Client) -> dict[str, Any]:
    """Return the report; the tests' client has a loopback address."""
    answer = await client.get(DATABASE)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report


async def test_statements_and_transactions(open_client: OpenClient) -> None:
    """Statements are counted by operation and table, transactions by outcome."""
    async with open_client() as client:
        project = await client.project()
        for _ in range(3):
            assert (await client.get(f"/api/v1/projects/{project['id']}")).status_code == 200
        report = await metrics(client)
    by_kind = {(each["operation"], each["table"]): each for each in report["statements"]}
    assert by_kind[("SELECT", "projkit_projects")]["count"] >= 3
    assert by_kind[("INSERT", "projkit_projects")]["count"] == 1
    for each in report["statements"]:
        assert 0 < each["mean_ms"] <= each["max_ms"]
        assert each["p50_ms"] <= each["p95_ms"] <= each["max_ms"]
    assert report["reachable"]
    assert report["round_trip_ms"] > 0
    assert report["server_version"]
    assert report["database_bytes"] > 0
    assert report["errors"] == {}
    assert report["dialect"] in {"postgresql", "sqlite"}
    if report["dialect"] == "postgresql":
        server = report["postgresql"]
        assert sum(server["connections"].values()) >= 1
        assert server["connections_total"] <= server["max_connections"]
        assert 0 <= server["cache_hit_ratio"] <= 1
        assert server["database_bytes"] == report["database_bytes"]
        assert server["longest_transaction_seconds"] >= 0


async def test_rolled_back(open_client: OpenClient) -> None:
    """A failed transaction counts as rolled back, and its statement under the class of its error."""
    async with open_client() as client:
        await client.project(external_id="one")
        before = await metrics(client)
        answer = await client.post(
            "/api/v1/projects", json={"name": "B", "external_id": "one"}, headers={"Idempotency-Key": "k"}
        )
        assert answer.status_code == 409
        report = await metrics(client)
    assert report["transactions"]["rolled_back"] == before["transactions"]["rolled_back"] + 1
    assert sum(report["errors"].values()) == 1


async def test_slow_statements(
    postgres_url: str, any_database_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow statement is reported with placeholders, never with a value."""
    async with (
        kit_in_mode(any_database_mode, postgres_url) as kit,
        Client(kit, kit.settings) as client,
    ):
        project = await client.project(name="canary")
        other = await asyncpg.connect(postgres_url)
        try:
            async with other.transaction():
                await other.execute("LOCK TABLE projkit_projects IN ACCESS EXCLUSIVE MODE")
                asked = asyncio.create_task(client.get(f"/api/v1/projects/{project['id']}?"))
                await asyncio.sleep(0.3)
            assert (await asked).status_code == 200
        finally:
            await other.close()
        report = await metrics(client)
    (slow,) = [each for each in report["slow_statements"] if "projkit_projects" in each["statement"]]
    assert slow["max_ms"] >= 250
    assert slow["count"] == 1
    assert "canary" not in slow["statement"]
    assert project["id"] not in slow["statement"]


async def test_the_pool(postgres_url: str) -> None:
    """The report includes the pool's size, use and waiting times."""
    settings = settings_for(postgres_url, database_pool_size=2)
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, settings) as client:
        await asyncio.gather(*(client.get("/api/v1/projects") for _ in range(20)))
        pool = (await metrics(client))["pool"]
    assert (pool["size"], pool["maximum"], pool["overflow"], pool["waiting"]) == (2, 2, 0, 0)
    assert pool["wait_max_ms"] >= pool["wait_p95_ms"] > 0


async def test_a_database_that_hangs(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not respond is reported as unreachable in bounded time, with the kit's own metrics."""
    settings = settings_for(postgres_url)
    kit = ProjKit(settings)
    async with kit.lifespan(), Client(kit, settings) as client:
        await client.get("/api/v1/projects")

        async def hang(_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("projkit.monitoring.database._TIMEOUT_SECONDS", 0.1)
        monkeypatch.setattr("projkit.db.postgresql.PostgresqlDatabase.ping", hang)
        report = await metrics(client)
    assert not report["reachable"]
    assert report["detail"] == "The database did not respond within 0.1 s."
    assert report["statements"]
