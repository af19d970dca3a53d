"""``system/info``: what runs here, and no secret."""

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.applications import Starlette

from projkit import ProjKit, Settings, __version__
from projkit.monitoring.system import framework_of, shown
from tests.auth.asking import ask
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
SYSTEM = "/api/v1/monitoring/system/info"
CANARY = "canary-canary-canary-canary-canary-canary"


async def info(app: Any, path: str = SYSTEM) -> dict[str, Any]:
    """What this machine is told."""
    answer = await ask(app, "GET", path, address="127.0.0.1")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def test_what_runs(sqlite_url: str) -> None:
    """Version, packages, process, time and parts are those of this process."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        found = await info(kit)
    assert found["version"] == __version__
    assert found["packages"]["starlette"]
    assert [each["pid"] for each in found["workers"]] == [found["pid"]]
    assert found["uptime_seconds"] >= 0
    assert found["enabled"]["database"] == "sqlite"
    assert found["enabled"]["redis"] is False
    assert found["settings"]["API_PREFIX"] == "/api/v1"
    assert found["host_framework"] is None


@pytest.mark.parametrize(("framework", "name"), [(FastAPI, "fastapi"), (Starlette, "starlette")])
async def test_mounted(sqlite_url: str, framework: Any, name: str) -> None:
    """The framework of the host is named, with its version."""
    kit = ProjKit(settings_for(sqlite_url))
    app = framework()
    app.mount("/kit", kit)
    async with kit.lifespan():
        assert (await info(app, f"/kit{SYSTEM}"))["host_framework"].startswith(f"{name} ")


def test_frameworks() -> None:
    """An application of a class of its own is known by what it descends from; one without a framework is not."""

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
    """Whatever a setting holds that is secret, in passwords of URLs as well, is not there."""
    settings = Settings(**SECRETS)
    found = shown(settings)
    assert set(found) == {name.upper() for name in Settings.model_fields}
    assert CANARY not in str(found)
    assert "sslmode=disable" in found["DATABASE_URL"]
    hidden = [name for name in Settings.model_fields if isinstance(getattr(settings, name), SecretStr)]
    assert {"secret", "redis_url", "metrics_token"} <= set(hidden)
