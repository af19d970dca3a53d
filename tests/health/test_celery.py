"""The Celery check without workers: its configuration, and unavailable brokers."""

import subprocess
import sys
from collections import UserDict
from importlib.machinery import ModuleSpec
from typing import Any

import celery
import pytest

from projkit import ConfigurationError, ProjKit
from projkit.health import celery as check
from projkit.health.celery import celery_check
from projkit.health.checks import CheckFailedError
from projkit.testing.internals import Internals
from tests.conftest import settings_for
from tests.health.conftest import OpenHealth, run_checks, silent_server
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio
NOBODY = {"depth": 0, "consumers": 0, "answering": 0}


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts for the broker and the workers."""
    monkeypatch.setattr(check, "_CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(check, "_REPLY_SECONDS", 0.2)


async def test_unavailable_broker() -> None:
    """An unavailable broker is an error whose detail contains no password."""
    async with run_checks([celery_check(None, "amqp://guest:hidden@127.0.0.1:1//")]) as checks:
        seen = await checks.until("celery", "error", "broker unavailable")
        assert "hidden" not in seen.detail
        assert not checks.state("celery").critical


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
async def test_silent_broker(scheme: str) -> None:
    """A broker that accepts and never responds is an error in bounded time."""
    async with silent_server() as port:
        given = celery_check(None, f"{scheme}://guest:hidden@127.0.0.1:{port}//0")
        async with run_checks([given], timeout=0.5) as checks:
            seen = await checks.until("celery", "error")
            assert "hidden" not in seen.detail
            assert seen.latency_ms < 5000


@pytest.mark.parametrize("form", ["app", "function", "url"])
async def test_ways_to_configure_the_broker(open_health: OpenHealth, redis_alone: Redises, form: str) -> None:
    """An app, a function that returns one and a URL get the same check, which fails without workers."""
    url = redis_alone.url.replace("/0", "/5")
    app = celery.Celery(broker=url, set_as_current=False)
    app.conf.task_default_queue = "mine"
    given: dict[str, Any] = {"app": {"celery_app": app}, "function": {"celery_app": lambda: app}, "url": {}}[
        form
    ]
    changes: dict[str, Any] = {"celery_broker_url": url} if form == "url" else {}
    before = redis_alone.everything()
    async with open_health(given=given, **changes) as health:
        found = await health.until("celery", "error", "no worker responded")
        queue = "celery" if form == "url" else "mine"
        assert found["data"] == {"workers": 0, "queues": {queue: NOBODY}}
        assert (await health.get("/ready")) == (200, {"status": "degraded"})
    assert set(redis_alone.everything().splitlines()) <= set(before.splitlines()), "it leaves nothing behind"
    app.close()


def test_celery_that_is_not_installed(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured broker without the package is rejected at start-up, with the fix."""

    def find(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(check, "find_spec", find)
    kit = ProjKit(settings_for(sqlite_url, celery_broker_url="amqp://127.0.0.1"))
    with pytest.raises(ConfigurationError, match=r'pip install "projkit\[celery\]"'):
        Internals(kit).health.create_scheduler(None, None)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (7, "a builtins.int"),
        (celery.Celery, "the class Celery"),
        (UserDict(), "a collections.UserDict"),
    ],
)
def test_invalid_celery_app(sqlite_url: str, given: Any, name: str) -> None:
    """An object that is neither an app nor a function is rejected by name."""
    kit = ProjKit(settings_for(sqlite_url), celery_app=given)
    with pytest.raises(
        ConfigurationError, match=rf"celery\.Celery or a function that returns one, not {name}"
    ):
        Internals(kit).health.create_scheduler(None, None)


async def _coroutine() -> celery.Celery:
    raise AssertionError


@pytest.mark.parametrize(("function", "name"), [(lambda: 7, "int"), (_coroutine, "coroutine")])
def test_functions_that_return_no_app(function: Any, name: str) -> None:
    """A function that does not return an app fails the check by name, not as an unavailable broker."""
    with pytest.raises(CheckFailedError, match=f"celery_app returned a {name} instead of a celery.Celery"):
        celery_check(function, None).function()


def test_celery_is_imported_only_if_configured() -> None:
    """A kit without a broker imports neither Celery nor kombu."""
    code = (
        "import asyncio, sys\nfrom projkit.testing import open_kit\n"
        "async def main():\n    async with open_kit():\n        await asyncio.sleep(0.2)\n"
        "asyncio.run(main())\nassert not {'celery', 'kombu'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
