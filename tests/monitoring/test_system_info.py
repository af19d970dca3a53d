"""``system/info`` reports the environment and no secret."""

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.applications import Starlette

from projkit import ProjKit, Settings, __version__
from projkit.monitoring.system import framework_of, redacted_settings
from tests.auth.asgi_client import ask
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
SYSTEM = "/api/v1/monitoring/system/info"
CANARY = "canary-canary-canary-canary-canary-canary"


async def info(app: Any, path: str = SYSTEM) -> dict[str, Any]:
    """Return the report for a loopback client."""
    answer = await ask(app, "GET", path, address="127.0.0.1")
    assert answer.status == 200, answer.body
    report: dict[str, Any] = answer.json()
    return report


async def test_what_runs(sqlite_url: str) -> None:
    """Version, packages, workers, uptime and components are those of this process."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        report = await info(kit)
    assert report["version"] == __version__
    assert report["packages"]["starlette"]
    assert [each["pid"] for each in report["workers"]] == [report["pid"]]
    assert report["uptime_seconds"] >= 0
    assert report["enabled"]["database"] == "sqlite"
    assert report["enabled"]["redis"] is False
    assert report["settings"]["API_PREFIX"] == "/api/v1"
    assert report["host_framework"] is None


@pytest.mark.parametrize(("framework", "name"), [(FastAPI, "fastapi"), (Starlette, "starlette")])
async def test_mounted(sqlite_url: str, framework: Any, name: str) -> None:
    """The host's framework is reported with its version."""
    kit = ProjKit(settings_for(sqlite_url))
    app = framework()
    app.mount("/kit", kit)
    async with kit.lifespan():
        assert (await info(app, f"/kit{SYSTEM}"))["host_framework"].startswith(f"{name} ")


def test_frameworks() -> None:
    """The framework of a subclassed application is known; other objects have none."""

    class Mine(FastAPI):
        pass

    assert str(framework_of(Mine())).startswith("fastapi ")
    assert framework_of(object()) is None


SECRETS = {
    "database_url": f"postgresql://user:{CANARY}@host/name?password={CANARY}&sslmode=disable",
    "redis_url": f"redis://:{CANARY}@host/0",
    "celery_broker_url": f"amqp://user:{CANARY}@host//",
    "secret": CANARY,
    "legacy_secret": f'["{CANARY}-legacy"]',
    "metrics_token": CANARY,
    "oidc_providers": {
        "acme": {"issuer": f"https://user:{CANARY}@issuer", "client_id": "c", "client_secret": CANARY}
    },
    "public_url": f"https://user:{CANARY}@host",
}


def test_no_secret_is_shown() -> None:
    """No secret setting is reported, and no password in a URL."""
    settings = Settings(**SECRETS)
    redacted = redacted_settings(settings)
    assert set(redacted) == {name.upper() for name in Settings.model_fields}
    assert CANARY not in str(redacted)
    assert "sslmode=disable" in redacted["DATABASE_URL"]
    hidden = [name for name in Settings.model_fields if isinstance(getattr(settings, name), SecretStr)]
    assert {"secret", "redis_url", "metrics_token"} <= set(hidden)
