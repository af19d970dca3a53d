"""The health endpoints: their responses by state and caller."""

import asyncio
from typing import Any

import httpx2
import pytest

from projkit import ConfigurationError, ProjKit, __version__
from projkit.db import revisions
from projkit.health import HealthCheck
from projkit.health.schemas import DetailedHealth, HealthJson, HealthSummary
from projkit.redis.connect import close_redis, open_redis
from projkit.testing import bearer
from tests.conftest import SECRET, Client, settings_for
from tests.health.conftest import HEALTH, PATIENCE, OpenHealth
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio
HEALTH_JSON = "application/health+json"


async def passing() -> None:
    """Pass."""


async def failing() -> None:
    """Fail."""
    raise OSError


async def test_healthy_kit(open_health: OpenHealth) -> None:
    """A healthy kit responds as the contract defines, and responses are not cacheable."""
    async with open_health() as health:
        assert await health.get() == (
            200,
            {"status": "ok", "redis_connection": "not_configured", "database_connection": "ok"},
        )
        for path in ("/live", "/ready"):
            assert await health.get(path) == (200, {"status": "ok"})
        for path in ("", "/live", "/ready", "/detailed"):
            answer = await health.client.get(HEALTH + path)
            assert answer.headers["cache-control"] == "no-store"
            assert "retry-after" not in answer.headers


async def test_details(open_health: OpenHealth) -> None:
    """The details contain every check, the machine and the process, and match the schema."""
    async with open_health() as health:
        for name in ("database", "migrations", "disk", "event_loop"):
            await health.until(name, "ok")
        status, content = await health.get("/detailed")
        assert DetailedHealth.model_validate(content).model_dump(mode="json", exclude_unset=True) == content
        assert (status, content["status"], content["state"]) == (200, "ok", "ready")
        assert content["uptime_seconds"] > 0
        assert {name: check["critical"] for name, check in content["checks"].items()} == {
            "database": True, "migrations": False, "disk": False, "event_loop": False, "redis": False, "celery": False,
        }  # fmt: skip
        for name in ("redis", "celery"):
            assert content["checks"][name]["status"] == "not_configured"
        assert content["checks"]["migrations"]["data"] == {"revision": revisions.head()}
        assert content["checks"]["database"]["observed_at"].endswith("Z")
        system = content["system"]
        assert set(system) == {
            "cpu_percent", "cpu", "load_average", "memory", "process", "disk", "event_loop_lag_ms",
        }  # fmt: skip
        assert system["process"]["rss_bytes"] > 1 << 20
        assert system["disk"]["total_bytes"] > system["disk"]["free_bytes"] > 0
        assert content["traffic"]["error_rate"] == 0


async def test_health_json(open_health: OpenHealth) -> None:
    """In application/health+json each check is a measurement, with an output if it does not pass."""
    async with open_health(HealthCheck("bad", failing), HealthCheck("good", passing)) as health:
        await health.until("bad", "error")
        await health.until("good", "ok")
        answer = await health.client.get(f"{HEALTH}/detailed", headers={"Accept": HEALTH_JSON})
        assert answer.headers["content-type"] == HEALTH_JSON
        content = answer.json()
        HealthJson.model_validate(content)
        assert (content["status"], content["version"], content["releaseId"]) == ("warn", "1", __version__)
        (bad,), (good,) = content["checks"]["bad:responseTime"], content["checks"]["good:responseTime"]
        assert (bad["status"], bad["output"]) == ("warn", "raised OSError")
        assert (good["status"], good["observedUnit"], "output" in good) == ("pass", "ms", False)
        assert content["checks"]["database:responseTime"][0]["componentType"] == "datastore"
        assert content["checks"]["uptime"][0]["observedUnit"] == "s"
        assert content["checks"]["memory:utilization"][0]["observedUnit"] == "percent"


ACCEPTED = {
    "": False,
    "*/*": False,
    "application/*": False,
    "application/json": False,
    HEALTH_JSON: True,
    "Application/Health+JSON; q=0.5": True,
    f"application/json, {HEALTH_JSON}": True,
    f"application/json, {HEALTH_JSON};q=0.9": False,
    f"application/json;q=0.8, {HEALTH_JSON};q=0.9": True,
    f"application/json;q=0, {HEALTH_JSON};q=0": False,
    f"*/*;q=0.1, {HEALTH_JSON}": True,
    f"*/*, {HEALTH_JSON};q=0.1": False,
    f"{HEALTH_JSON};q=nonsense": False,
    "text/html": False,
}


async def test_media_type(open_health: OpenHealth) -> None:
    """Accept selects the representation by quality and specificity, and Vary names it."""
    async with open_health() as health:
        for accept, as_health_json in ACCEPTED.items():
            answer = await health.client.get(f"{HEALTH}/detailed", headers={"Accept": accept})
            wanted = HEALTH_JSON if as_health_json else "application/json"
            assert answer.headers["content-type"] == wanted, accept
            assert ("releaseId" in answer.json()) == as_health_json
            assert "Accept" in answer.headers["vary"]


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, {"nobody", "local", "reader", "operator", "bad"}),
        ({"env": "production"}, {"operator"}),
        ({"env": "production", "health_details": "always"}, {"nobody", "local", "reader", "operator", "bad"}),
        ({"health_details": "authorized"}, {"local", "operator"}),
        ({"health_details": "never"}, set()),
    ],
)
async def test_callers_with_details(sqlite_url: str, settings: dict[str, Any], shown: set[str]) -> None:
    """Callers without permission get the status alone, with the same code, whatever they send."""
    kit = ProjKit(settings_for(sqlite_url, **settings))
    kit.add_health_check("mine", failing, critical=True)
    callers = {
        "nobody": {},
        "local": {},
        "reader": bearer(kit, "alice"),
        "operator": bearer(kit, "alice", ["monitoring:read"]),
        "bad": {"Authorization": "Bearer nonsense"},
    }
    async with kit.lifespan():
        found = set()
        for name, headers in callers.items():
            address = ("127.0.0.1" if name == "local" else "192.0.2.1", 1234)
            transport = httpx2.ASGITransport(app=kit, client=address)
            async with httpx2.AsyncClient(transport=transport, base_url="http://host") as client:
                for accept, poor in (("application/json", "error"), (HEALTH_JSON, "fail")):
                    answer = await client.get(f"{HEALTH}/detailed", headers={**headers, "Accept": accept})
                    assert (answer.status_code, answer.json()["status"]) == (503, poor)
                    if answer.json() != {"status": poor}:
                        assert "mine" in answer.text
                        found.add(name)
    assert found == shown


async def test_credentials_that_cannot_be_checked(open_health: OpenHealth) -> None:
    """If the caller cannot be authenticated in time, the response has the status alone."""

    async def hangs(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    settings: dict[str, Any] = {"env": "production", "health_details": "authorized"}
    async with open_health(given={"get_principal": hangs}, **settings) as health:
        async with asyncio.timeout(PATIENCE):
            assert await health.get("/detailed") == (200, {"status": "ok"})


async def test_before_the_start_and_while_draining(open_health: OpenHealth, sqlite_url: str) -> None:
    """Before the start and while draining everything but liveness is 503, and the state says why."""
    settings = settings_for(sqlite_url)
    fresh = ProjKit(settings)
    async with Client(fresh, settings, None) as client:
        answer = await client.get(f"{HEALTH}/detailed")
        assert (answer.status_code, answer.json()["state"]) == (503, "starting")
        assert answer.json()["checks"]["database"]["status"] == "unknown"
        assert (await client.get(f"{HEALTH}/live")).status_code == 200
    await fresh.shutdown()
    async with open_health() as health:
        health.kit.drain()
        for path in ("", "/ready", "/detailed"):
            answer = await health.client.get(HEALTH + path)
            assert (answer.status_code, answer.json()["status"]) == (503, "error")
            assert answer.headers["retry-after"]
        content = answer.json()
        assert (content["state"], content["checks"]["database"]["status"]) == ("draining", "ok")
        assert (await health.get("/live")) == (200, {"status": "ok"})


@pytest.fixture(params=["dead", "empty"])
def unusable(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """An unusable database, the check that reports it, and a part of its detail."""
    if request.param == "dead":
        return "postgresql://u:hidden@127.0.0.1:1/n", "database", "is unavailable"
    return request.getfixturevalue("empty_postgres_url"), "migrations", "projkit migrate"


async def test_a_kit_that_cannot_start(unusable: tuple[str, str, str]) -> None:
    """If the kit cannot start, health responds and reports the reason."""
    url, name, detail = unusable
    kit = ProjKit(settings_for(url))
    async with Client(kit, kit.settings) as client:
        await client.get("/api/v1/projects")
        answer = await client.get(f"{HEALTH}/detailed")
        assert (answer.status_code, answer.json()["state"]) == (503, "starting")
        found = answer.json()["checks"][name]
        assert found["status"] == "error"
        assert detail in found["detail"]
        assert "hidden" not in answer.text
        summary = await client.get(HEALTH)
        assert (summary.status_code, summary.json()) == (
            503,
            {"status": "error", "redis_connection": "not_configured", "database_connection": "error"},
        )
        assert HealthSummary.model_validate(summary.json()).model_dump() == summary.json()
        assert (await client.get(f"{HEALTH}/ready")).json() == {"status": "error"}
        assert (await client.get(f"{HEALTH}/live")).status_code == 200
    await kit.shutdown()


async def test_probes_cause_no_calls(open_health: OpenHealth) -> None:
    """A thousand concurrent probes cause no call of a dependency."""
    calls = 0

    async def counted() -> None:
        nonlocal calls
        calls += 1

    async with open_health(HealthCheck("mine", counted, critical=True, period=3600)) as health:
        answers = await asyncio.gather(
            *(health.get(path) for path in ("", "/live", "/ready", "/detailed") for _ in range(250))
        )
        assert {status for status, _ in answers} == {200}
        assert calls == 1


async def test_root_paths(open_health: OpenHealth) -> None:
    """/livez and /readyz are served if enabled, and belong to the host otherwise."""
    for wanted in (True, False):
        async with open_health(health_root_paths=wanted) as health:
            for path in ("/livez", "/readyz"):
                assert (await health.client.get(path)).status_code == (200 if wanted else 404)
            assert ("/readyz" in health.kit.openapi()["paths"]) == wanted


async def test_configured_critical_checks(open_health: OpenHealth) -> None:
    """HEALTH_CRITICAL selects the critical checks, both the kit's and the host's."""
    checks = HealthCheck("a", failing, critical=True, period=0.02), HealthCheck("b", failing, period=0.02)
    async with open_health(*checks, health_critical="b") as health:
        await health.until("b", "error")
        assert (await health.get("/ready"))[0] == 503
        found = (await health.get("/detailed"))[1]["checks"]
        assert [name for name, check in found.items() if check["critical"]] == ["b"]
    async with open_health(*checks, health_critical="") as health:
        await health.until("a", "error")
        assert (await health.get("/ready")) == (200, {"status": "degraded"})


@pytest.mark.parametrize("unknown", ["nonsense", "redis", "celery", "clock"])
async def test_unknown_critical_check(sqlite_url: str, unknown: str) -> None:
    """An unknown name in HEALTH_CRITICAL is rejected at start-up, with the setting and the known names."""
    kit = ProjKit(settings_for(sqlite_url, health_critical=("database", unknown)))
    kit.add_health_check("mine", passing)
    with pytest.raises(ConfigurationError, match=f"unknown health check, {unknown}; .*database.*mine"):
        await kit.startup()


@pytest.mark.parametrize("store", ["redis", "database"])
@pytest.mark.parametrize("whose", ["ours", "host's"])
async def test_redis_is_critical_if_it_stores_sessions(
    open_health: OpenHealth, redis_alone: Redises, store: str, whose: str
) -> None:
    """Redis is critical exactly if it stores the sessions, whether the kit or the host opened the client."""
    changes: dict[str, Any] = {"redis_url": redis_alone.url}
    if store == "database":
        changes["session_store"] = store
    client = open_redis(redis_alone.url)
    async with open_health(given={"redis": client} if whose == "host's" else {}, **changes) as health:
        found = await health.until("redis", "ok")
        assert found["critical"] == (store == "redis")
        assert (await health.get())[1]["redis_connection"] == "ok"
    await client.ping()  # it was not closed
    await close_redis(client)


def test_openapi_document() -> None:
    """The OpenAPI document describes the endpoints, and both media types of the details."""
    document = ProjKit(settings_for("sqlite:///unused.db", secret=SECRET)).openapi()
    for path in ("", "/live", "/ready", "/detailed"):
        responses = document["paths"][HEALTH + path]["get"]["responses"]
        assert set(responses) == ({"200"} if path == "/live" else {"200", "503"})
    for answer in responses.values():
        assert set(answer["content"]) == {"application/json", HEALTH_JSON}
