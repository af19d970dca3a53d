"""The endpoints of health: what they answer, in which state, and to whom."""

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


async def well() -> None:
    """All is well."""


async def broken() -> None:
    """Nothing is."""
    raise OSError


async def test_all_is_well(open_health: OpenHealth) -> None:
    """Each endpoint answers as the contract says, and nothing of it may be kept."""
    async with open_health() as patient:
        assert await patient.get() == (
            200,
            {"status": "ok", "redis_connection": "not_configured", "database_connection": "ok"},
        )
        for path in ("/live", "/ready"):
            assert await patient.get(path) == (200, {"status": "ok"})
        for path in ("", "/live", "/ready", "/detailed"):
            answer = await patient.client.get(HEALTH + path)
            assert answer.headers["cache-control"] == "no-store"
            assert "retry-after" not in answer.headers


async def test_the_details(open_health: OpenHealth) -> None:
    """The details have every check, the machine and the process, and are what the document says."""
    async with open_health() as patient:
        for name in ("database", "migrations", "disk", "event_loop"):
            await patient.until(name, "ok")
        status, content = await patient.get("/detailed")
        DetailedHealth.model_validate(content, extra="forbid")
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
            "cpu_percent", "load_average", "memory", "process", "disk", "event_loop_lag_ms",
        }  # fmt: skip
        assert system["process"]["rss_bytes"] > 1 << 20
        assert system["disk"]["total_bytes"] > system["disk"]["free_bytes"] > 0
        assert content["traffic"]["error_rate"] == 0


async def test_health_json(open_health: OpenHealth) -> None:
    """As application/health+json each check is a measurement with its component, and words where it does not pass."""
    async with open_health(HealthCheck("bad", broken), HealthCheck("good", well)) as patient:
        await patient.until("bad", "error")
        await patient.until("good", "ok")
        answer = await patient.client.get(f"{HEALTH}/detailed", headers={"Accept": HEALTH_JSON})
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


async def test_the_media_type(open_health: OpenHealth) -> None:
    """Accept decides between the two forms, by quality and by the most specific range; Vary says so."""
    async with open_health() as patient:
        for accept, as_health_json in ACCEPTED.items():
            answer = await patient.client.get(f"{HEALTH}/detailed", headers={"Accept": accept})
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
async def test_to_whom_details_are_shown(sqlite_url: str, settings: dict[str, Any], shown: set[str]) -> None:
    """Whoever may not see the details gets the status alone, under the same code, whatever they bring."""
    kit = ProjKit(settings_for(sqlite_url, **settings))
    kit.add_health_check("mine", broken, critical=True)
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


async def test_credentials_that_cannot_be_looked_at(open_health: OpenHealth) -> None:
    """Who cannot be recognized in time, since a store does not answer, is told as much as anybody, and in time."""

    async def hangs(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    settings: dict[str, Any] = {"env": "production", "health_details": "authorized"}
    async with open_health(given={"get_principal": hangs}, **settings) as patient:
        async with asyncio.timeout(PATIENCE):
            assert await patient.get("/detailed") == (200, {"status": "ok"})


async def test_before_the_start_and_while_draining(open_health: OpenHealth, sqlite_url: str) -> None:
    """Before the kit has started and from the moment it drains all is 503 but liveness, and the state says why."""
    settings = settings_for(sqlite_url)
    fresh = ProjKit(settings)
    async with Client(fresh, settings, None) as client:
        answer = await client.get(f"{HEALTH}/detailed")
        assert (answer.status_code, answer.json()["state"]) == (503, "starting")
        assert answer.json()["checks"]["database"]["status"] == "unknown"
        assert (await client.get(f"{HEALTH}/live")).status_code == 200
    await fresh.shutdown()
    async with open_health() as patient:
        patient.kit.drain()
        for path in ("", "/ready", "/detailed"):
            answer = await patient.client.get(HEALTH + path)
            assert (answer.status_code, answer.json()["status"]) == (503, "error")
            assert answer.headers["retry-after"]
        content = answer.json()
        assert (content["state"], content["checks"]["database"]["status"]) == ("draining", "ok")
        assert (await patient.get("/live")) == (200, {"status": "ok"})


@pytest.fixture(params=["dead", "empty"])
def unusable(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """A database that cannot be used, the check that tells of it, and what it says."""
    if request.param == "dead":
        return "postgresql://u:hidden@127.0.0.1:1/n", "database", "does not answer"
    return request.getfixturevalue("empty_postgres_url"), "migrations", "projkit migrate"


async def test_a_kit_that_cannot_start(unusable: tuple[str, str, str]) -> None:
    """Where the kit cannot start health is there all the same, and says what it knows."""
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
        HealthSummary.model_validate(summary.json(), extra="forbid")
        assert (await client.get(f"{HEALTH}/ready")).json() == {"status": "error"}
        assert (await client.get(f"{HEALTH}/live")).status_code == 200
    await kit.shutdown()


async def test_probes_cause_no_calls(open_health: OpenHealth) -> None:
    """A thousand probes at once cause no more calls of a dependency than none."""
    calls = 0

    async def counted() -> None:
        nonlocal calls
        calls += 1

    async with open_health(HealthCheck("mine", counted, critical=True, period=3600)) as patient:
        answers = await asyncio.gather(
            *(patient.get(path) for path in ("", "/live", "/ready", "/detailed") for _ in range(250))
        )
        assert {status for status, _ in answers} == {200}
        assert calls == 1


async def test_root_paths(open_health: OpenHealth) -> None:
    """/livez and /readyz are there where they are asked for, and are the host's otherwise."""
    for wanted in (True, False):
        async with open_health(health_root_paths=wanted) as patient:
            for path in ("/livez", "/readyz"):
                assert (await patient.client.get(path)).status_code == (200 if wanted else 404)
            assert ("/readyz" in patient.kit.openapi()["paths"]) == wanted


async def test_what_is_critical_can_be_set(open_health: OpenHealth) -> None:
    """HEALTH_CRITICAL says which checks readiness needs, the host's and the kit's own alike."""
    checks = HealthCheck("a", broken, critical=True, period=0.02), HealthCheck("b", broken, period=0.02)
    async with open_health(*checks, health_critical="b") as patient:
        await patient.until("b", "error")
        assert (await patient.get("/ready"))[0] == 503
        found = (await patient.get("/detailed"))[1]["checks"]
        assert [name for name, check in found.items() if check["critical"]] == ["b"]
    async with open_health(*checks, health_critical="") as patient:
        await patient.until("a", "error")
        assert (await patient.get("/ready")) == (200, {"status": "degraded"})


@pytest.mark.parametrize("unknown", ["nonsense", "redis", "celery", "clock"])
async def test_an_unknown_critical_check(sqlite_url: str, unknown: str) -> None:
    """A name that no check has here is a mistake that start-up tells, with the setting and the names there are."""
    kit = ProjKit(settings_for(sqlite_url, health_critical=("database", unknown)))
    kit.add_health_check("mine", well)
    with pytest.raises(ConfigurationError, match=f"unknown health check, {unknown}; .*database.*mine"):
        await kit.startup()


@pytest.mark.parametrize("store", ["redis", "database"])
@pytest.mark.parametrize("whose", ["ours", "host's"])
async def test_redis_is_critical_where_it_holds_the_sessions(
    open_health: OpenHealth, redis_alone: Redises, store: str, whose: str
) -> None:
    """Redis has a value of its own, and is critical exactly where sessions are in it, whoever opened it."""
    changes: dict[str, Any] = {"redis_url": redis_alone.url}
    if store == "database":
        changes["session_store"] = store
    client = open_redis(redis_alone.url)
    async with open_health(given={"redis": client} if whose == "host's" else {}, **changes) as patient:
        found = await patient.until("redis", "ok")
        assert found["critical"] == (store == "redis")
        assert (await patient.get())[1]["redis_connection"] == "ok"
    await client.ping()  # nobody has closed it
    await close_redis(client)


def test_the_document_has_both_forms() -> None:
    """The OpenAPI document describes the four endpoints, and of the details both media types."""
    document = ProjKit(settings_for("sqlite:///unused.db", secret=SECRET)).openapi()
    for path in ("", "/live", "/ready", "/detailed"):
        responses = document["paths"][HEALTH + path]["get"]["responses"]
        assert set(responses) == ({"200"} if path == "/live" else {"200", "503"})
    for answer in responses.values():
        assert set(answer["content"]) == {"application/json", HEALTH_JSON}
