"""``metrics/performance`` reports the requests that were made."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from projkit import ProjKit
from projkit.telemetry import history as history_module
from projkit.testing.internals import Internals
from tests.auth.asgi_client import ask, bearer
from tests.conftest import settings_for, token_for

pytestmark = pytest.mark.anyio
PERFORMANCE = "/api/v1/monitoring/metrics/performance"


async def performance(kit: ProjKit) -> dict[str, Any]:
    """Return the report for a caller with the scope."""
    answer = await ask(
        kit, "GET", PERFORMANCE, [bearer(token_for(kit.settings, "ops", ("monitoring:read",)))]
    )
    assert answer.status == 200, answer.body
    assert answer.header("cache-control") == "no-store"
    report: dict[str, Any] = answer.json()
    return report


def of(window: dict[str, Any], route: str) -> dict[str, Any]:
    """Return the part of a window that is about one endpoint."""
    (endpoint,) = [each for each in window["endpoints"] if each["route"] == route]
    assert isinstance(endpoint, dict)
    return endpoint


async def test_counts(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, errors and latencies are reported by endpoint and in total, since the start and over each window."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        for _ in range(3):
            await ask(kit, "GET", "/api/v1/health/live")
        await ask(kit, "GET", "/none")

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr("projkit.projects.service.ProjectService.list", broken)
        alice = [bearer(token_for(kit.settings, "alice"))]
        assert (await ask(kit, "GET", "/api/v1/projects", alice)).status == 500
        report = await performance(kit)
    for window in (
        report,
        *(report[f"last_{minutes}"] for minutes in ("1_minute", "5_minutes", "15_minutes")),
    ):
        assert (window["requests"], window["errors"], window["error_rate"]) == (5, 1, 0.2)
        live = of(window, "/api/v1/health/live")
        assert (live["method"], live["count"], live["error_rate"], live["target_ms"]) == ("GET", 3, 0, 10)
        assert 0 < live["p50_ms"] <= live["p95_ms"] <= live["p99_ms"] <= live["max_ms"]
        failed = of(window, "/api/v1/projects")
        assert (failed["errors"], failed["target_ms"]) == (1, 40)
        assert datetime.fromisoformat(failed["last_error_at"]).tzinfo is not None
        assert of(window, "__unknown__")["count"] == 1
    assert (report["scope"], [each["pid"] for each in report["workers"]]) == ("process", [report["pid"]])
    assert report["active_requests"] == 1, "the request for the report itself"
    assert sum(interval["requests"] for interval in report["history"]) == 5


async def test_windows(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window includes the requests within it and no older ones."""
    now = 1_000_000
    for module in ("history", "workers"):
        monkeypatch.setattr(f"projkit.telemetry.{module}.now_ms", lambda: now)
    monkeypatch.setattr("projkit.monitoring.performance.now_ms", lambda: now)
    monkeypatch.setattr(history_module.Sampler, "_run", lambda _: asyncio.sleep(0))  # samples are taken here
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        Internals(kit).monitoring.history.record()
        for minute in range(20):
            for _ in range(minute + 1):
                await ask(kit, "GET", "/api/v1/health/live")
            for _ in range(6):
                now += 10_000
                Internals(kit).monitoring.history.record()
        report = await performance(kit)
    live = "/api/v1/health/live"
    assert of(report, live)["count"] == 210
    assert of(report["last_1_minute"], live)["count"] == 20
    assert of(report["last_5_minutes"], live)["count"] == 20 + 19 + 18 + 17 + 16
    assert of(report["last_15_minutes"], live)["count"] == sum(range(6, 21))
    assert report["last_15_minutes"]["seconds"] == pytest.approx(900, abs=11)
    assert len(report["history"]) <= history_module.KEPT_SECONDS / history_module.PERIOD_SECONDS + 2


async def test_probes_that_fail(sqlite_url: str) -> None:
    """A probe's 503 reports a failing dependency and does not count as an error."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        kit.drain()
        assert (await ask(kit, "GET", "/api/v1/health/ready")).status == 503
        report = await performance(kit)
    assert (report["requests"], report["errors"]) == (1, 0)
    assert of(report, "/api/v1/health/ready")["last_error_at"] is None


async def test_quiet_windows(sqlite_url: str) -> None:
    """Without requests there are no latencies and no endpoints."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        report = await performance(kit)
    assert report["requests"] == 0
    assert report["error_rate"] == 0
    assert [report[name] for name in ("mean_ms", "p50_ms", "p99_ms", "max_ms")] == [None] * 4
    assert report["endpoints"] == []


@pytest.mark.parametrize(
    ("env", "address", "headers", "status"),
    [
        ("development", "127.0.0.1", [], 200),
        ("development", "::1", [], 200),
        ("development", "127.0.0.1", [("x-forwarded-for", "127.0.0.1")], 401),
        ("development", "127.0.0.1", [("X-Forwarded-Proto", "https")], 401),
        ("development", "127.0.0.1", [("forwarded", "for=127.0.0.1")], 401),
        ("development", "203.0.113.5", [], 401),
        ("production", "127.0.0.1", [], 401),
    ],
)
@pytest.mark.parametrize(
    "path", [PERFORMANCE, "/api/v1/monitoring/metrics/database", "/api/v1/monitoring/system/info", "/metrics"]
)
async def test_loopback(
    shared_url: str, env: str, address: str, headers: list[tuple[str, str]], status: int, path: str
) -> None:
    """Only loopback clients need no credentials, only in development, and not through a proxy."""
    kit = ProjKit(settings_for(shared_url, env=env))
    async with kit.lifespan():
        answer = await ask(kit, "GET", path, headers, address=address)
    assert answer.status == status


@pytest.fixture(scope="module")
def shared_url(sqlite_template: Any) -> str:
    """Return the URL of a migrated database that no test writes to."""
    return f"sqlite:///{sqlite_template}"


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(("monitoring:read",), 200), (("admin",), 200), (("metrics:read",), 403), (("projects:read",), 403)],
)
async def test_scopes(shared_url: str, scopes: tuple[str, ...], status: int) -> None:
    """Other clients need the scope."""
    kit = ProjKit(settings_for(shared_url))
    async with kit.lifespan():
        answer = await ask(kit, "GET", PERFORMANCE, [bearer(token_for(kit.settings, "ops", scopes))])
    assert answer.status == status


METRICS_TOKEN = "a token for Prometheus alone, long enough"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/metrics", [("authorization", f"Bearer {METRICS_TOKEN}")], 200),
        ("/metrics", [("Authorization", f"bearer {METRICS_TOKEN}")], 200),
        ("/metrics", [("authorization", f"Bearer {METRICS_TOKEN}x")], 401),
        ("/metrics", [("authorization", METRICS_TOKEN)], 401),
        ("/metrics", [("authorization", f"Bearer {METRICS_TOKEN}")] * 2, 401),
        ("/metrics", [], 401),
        (PERFORMANCE, [("authorization", f"Bearer {METRICS_TOKEN}")], 401),
        ("/api/v1/projects", [("authorization", f"Bearer {METRICS_TOKEN}")], 401),
    ],
)
async def test_metrics_token(shared_url: str, path: str, headers: list[tuple[str, str]], status: int) -> None:
    """METRICS_TOKEN grants access to the metrics and nothing else."""
    kit = ProjKit(settings_for(shared_url, env="production", metrics_token=METRICS_TOKEN))
    async with kit.lifespan():
        assert (await ask(kit, "GET", path, headers)).status == status


async def test_a_kit_that_cannot_start() -> None:
    """If the database does not respond, loopback clients still get the reports and the reason."""
    kit = ProjKit(settings_for("postgresql://postgres@127.0.0.1:9/none", database_connect_seconds=1))
    await ask(kit, "GET", "/api/v1/health/live")
    answer = await ask(kit, "GET", PERFORMANCE, address="127.0.0.1")
    assert (answer.status, answer.json()["requests"]) == (200, 1)
    answer = await ask(kit, "GET", "/api/v1/monitoring/metrics/database", address="127.0.0.1")
    assert (answer.status, answer.json()["reachable"]) == (200, False)
    assert (await ask(kit, "GET", "/metrics", address="127.0.0.1")).status == 200
