"""The history of a check: since when it fails, and its latest changes."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from projkit import ProjKit
from projkit.health import CheckFailedError, HealthCheck
from projkit.health.schemas import DetailedHealth
from tests.conftest import Client, settings_for
from tests.health.conftest import PATIENCE, OpenHealth

pytestmark = pytest.mark.anyio
DETAILED = "/api/v1/health/detailed"


def names(value: Any) -> Any:
    """Return the names of all fields of a document, without their values."""
    if isinstance(value, dict):
        return {name: names(each) for name, each in value.items()}
    return [names(each) for each in value] if isinstance(value, list | tuple) else None


async def test_changes_of_a_check(open_health: OpenHealth) -> None:
    """The details tell since when a check fails, however often it has failed since, and its last ten changes."""
    works, runs = True, 0

    def function() -> None:
        nonlocal runs
        runs += 1
        if not works:
            raise CheckFailedError(f"failed in run {runs}")

    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        for _ in range(6):
            await health.until("mine", "ok")
            assert (await health.check("mine"))["failing_since"] is None
            works = False
            await health.until("mine", "error")
            first, before = await health.check("mine"), runs
            async with asyncio.timeout(PATIENCE):
                while runs < before + 3:
                    await asyncio.sleep(0.01)
            found = await health.check("mine")
            assert found["failing_since"] == first["failing_since"] <= first["observed_at"]
            assert found["observed_at"] > first["observed_at"]
            works = True
        await health.until("mine", "ok")
        _, content = await health.get("/detailed")
        assert names(DetailedHealth.model_validate(content).model_dump(exclude_unset=True)) == names(content)
        changes = content["checks"]["mine"]["changes"]
    assert [each["status"] for each in changes] == ["ok", "error"] * 5
    assert sorted((each["at"] for each in changes), reverse=True) == [each["at"] for each in changes]
    assert all(
        each.get("detail", "").startswith("failed in run" * (each["status"] == "error")) for each in changes
    )


async def test_a_kit_that_cannot_start() -> None:
    """A kit that cannot start has failed since the first attempt."""
    kit = ProjKit(settings_for("postgresql://u@127.0.0.1:1/n", database_connect_seconds=0.1))
    seen: list[dict[str, Any]] = []
    async with Client(kit, kit.settings) as client:
        for _ in range(2):
            await client.get("/api/v1/projects")
            seen.append((await client.get(DETAILED)).json()["checks"]["database"])
            await asyncio.sleep(1.1)  # until the next attempt is made
    await kit.shutdown()
    assert seen[0]["observed_at"] < seen[1]["observed_at"]
    assert seen[0]["failing_since"] == seen[1]["failing_since"] == seen[0]["observed_at"]
    assert [each["status"] for each in seen[1]["changes"]] == ["error"]


async def test_monitoring(sqlite_url: str) -> None:
    """The performance report has the state of each check, and since when it fails."""
    kit = ProjKit(settings_for(sqlite_url))
    kit.add_health_check("mine", lambda: False, critical=True)
    async with kit.lifespan(), Client(kit, kit.settings) as client:
        since = (await client.get(DETAILED)).json()["checks"]["mine"]["failing_since"]
        report = (await client.get("/api/v1/monitoring/metrics/performance")).json()
    checks = {each["name"]: each for each in report["checks"]}
    assert checks["database"] == {
        "name": "database",
        "critical": True,
        "healthy": True,
        "failing_since": None,
    }
    mine = checks["mine"]
    assert (mine["critical"], mine["healthy"]) == (True, False)
    assert datetime.fromisoformat(mine["failing_since"]) == datetime.fromisoformat(since)
