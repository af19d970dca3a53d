"""Checks of the host's: whatever they do, no probe waits for them, and their status is correct."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from projkit import ConfigurationError, ProjKit
from projkit.health import CheckFailedError, HealthCheck
from projkit.testing.internals import Internals
from tests.conftest import settings_for
from tests.health.conftest import PATIENCE, OpenHealth

pytestmark = pytest.mark.anyio
QUICK: Any = {"timeout": 0.05, "period": 0.02}
SECRET_TEXT = "postgresql://me:hidden@host/db"


async def passing() -> None:
    """Pass."""


def raising(error: BaseException) -> Callable[[], Any]:
    """Create a function that raises an error."""

    def function() -> None:
        raise error

    return function


class Called:
    """An object whose call returns a coroutine."""

    async def __call__(self) -> str:
        return "called"


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (passing, {}),
        (lambda: None, {}),
        (lambda: "fine", {"detail": "fine"}),
        (lambda: {"depth": 3}, {"data": {"depth": 3}}),
        (lambda: passing(), {}),  # noqa: PLW0108  # a function that gives an awaitable
        (lambda: asyncio.sleep(0, "slept"), {"detail": "slept"}),
        (partial(asyncio.sleep, 0, "partial"), {"detail": "partial"}),
        (Called(), {"detail": "called"}),
    ],
)
async def test_returning_checks_pass(
    open_health: OpenHealth, function: Callable[[], Any], shown: dict[str, Any]
) -> None:
    """Functions, coroutine functions and functions that return an awaitable pass if they return."""
    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        found = await health.until("mine", "ok")
        assert {name: found[name] for name in ("detail", "data") if name in found} == shown
        assert found["critical"] is False
        assert 0 <= found["latency_ms"] < PATIENCE * 1000


async def cancelled() -> None:
    """Raise CancelledError."""
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("function", "detail"),
    [
        (raising(ValueError(SECRET_TEXT)), "raised ValueError"),
        (raising(CheckFailedError("the cache is cold")), "the cache is cold"),
        (raising(SystemExit(1)), "raised SystemExit"),
        (raising(KeyboardInterrupt()), "raised KeyboardInterrupt"),
        (raising(StopIteration()), "raised StopIteration"),
        (lambda: False, "returned False"),
        (lambda: {"at": object()}, "returned data that is not JSON"),
        (lambda: {"big": "x" * 20_000}, "returned more than 16384 bytes of JSON"),
        (cancelled, "cancelled"),
        (raising(CheckFailedError("two\nlines " + "x" * 1000)), "two lines xxx"),
    ],
)
async def test_raising_checks_fail(open_health: OpenHealth, function: Callable[[], Any], detail: str) -> None:
    """An exception of a check is an error that shows only its class, and the check runs again."""
    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        found = await health.until("mine", "error", detail)
        assert "hidden" not in str(found)
        assert len(found["detail"]) <= 500
        assert (await health.get("/ready")) == (200, {"status": "degraded"})
        later = await health.until("mine", "error")
        assert later["observed_at"] >= found["observed_at"]


async def test_critical_check(open_health: OpenHealth) -> None:
    """A failing critical check turns readiness and health to 503, but not liveness, until it recovers."""
    broken = threading.Event()

    def function() -> bool:
        return not broken.is_set()

    async with open_health(HealthCheck("mine", function, critical=True, period=0.02)) as health:
        assert (await health.get("/ready")) == (200, {"status": "ok"})  # start-up has seen it
        broken.set()
        await health.until("mine", "error")
        for path in ("", "/ready", "/detailed"):
            status, content = await health.get(path)
            assert (status, content["status"]) == (503, "error")
        assert (await health.get("/live")) == (200, {"status": "ok"})
        broken.clear()
        await health.until("mine", "ok")
        assert (await health.get("/ready")) == (200, {"status": "ok"})


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event that hanging threads wait for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_coroutine_that_hangs(open_health: OpenHealth) -> None:
    """A coroutine that exceeds its timeout is cancelled, fails, and runs again at the next period."""
    hang, started = True, 0

    async def function() -> None:
        nonlocal started
        started += 1
        if hang:
            await asyncio.get_running_loop().create_future()

    async with open_health(HealthCheck("mine", function, critical=True, **QUICK)) as health:
        found = await health.until("mine", "error", "timed out after 0.05 s")
        assert found["latency_ms"] >= 50
        assert (await health.get("/ready"))[0] == 503
        before = started
        hang = False
        await health.until("mine", "ok")
        assert started > before


async def test_a_coroutine_that_ignores_its_cancellation(open_health: OpenHealth) -> None:
    """It is not started again while it runs, is shown as running, and does not delay shutdown."""
    started = 0

    async def function() -> None:
        nonlocal started
        started += 1
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async with open_health(HealthCheck("mine", function, **QUICK)) as health:
        await health.until("mine", "error", "running since 20")
        first = (await health.check("mine"))["observed_at"]
        async with asyncio.timeout(PATIENCE):
            while (await health.check("mine"))["observed_at"] == first:
                await asyncio.sleep(0.01)
        assert started == 1
        stopping = time.monotonic()
    assert time.monotonic() - stopping < PATIENCE / 3


async def test_a_thread_that_hangs(open_health: OpenHealth, held: threading.Event) -> None:
    """A blocking function is not started again while it blocks, and recovers when it returns."""
    started = 0

    def function() -> None:
        nonlocal started
        started += 1
        held.wait(PATIENCE)

    async with open_health(
        HealthCheck("mine", function, critical=True, **QUICK), HealthCheck("other", passing, period=0.02)
    ) as health:
        await health.until("mine", "error", "running since 20")
        await health.until("other", "ok")
        assert (await health.get("/ready")) == (503, {"status": "error"})
        assert started == 1
        held.set()
        await health.until("mine", "ok")
        assert started > 1


async def test_late_awaitable(open_health: OpenHealth, held: threading.Event) -> None:
    """An awaitable that a function returns after its timeout is not awaited."""
    awaited = False

    async def late() -> None:
        nonlocal awaited
        awaited = True

    def function() -> Awaitable[None]:
        held.wait(PATIENCE)
        return late()

    async with open_health(HealthCheck("mine", function, timeout=0.05, period=0.5)) as health:
        await health.until("mine", "error", "timed out")
        held.set()
        await asyncio.sleep(0.05)
        assert not awaited
        await health.until("mine", "ok")
        assert awaited


async def test_a_coroutine_that_blocks_the_event_loop(open_health: OpenHealth) -> None:
    """The blocked time is reported, and the check fails if it exceeds the timeout."""

    async def blocks(seconds: float) -> None:
        time.sleep(seconds)

    async with open_health(
        HealthCheck("long", partial(blocks, 0.15), timeout=0.1, period=1.0),
        HealthCheck("short", partial(blocks, 0.15), timeout=10, period=10),
    ) as health:
        assert "ms" in (await health.until("long", "error", "blocked the event loop for 1"))["detail"]
        await health.until("short", "ok", "blocked the event loop for 1")


async def test_changes_are_logged_once(open_health: OpenHealth, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged once with its cause, and a recovery once."""
    caplog.set_level(logging.INFO, "projkit.health")
    broken = True
    looked = 0

    def function() -> None:
        nonlocal looked
        looked += 1
        if broken:
            raise ValueError("the cause")

    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        await health.until("mine", "error")
        while looked < 5:
            await asyncio.sleep(0.01)
        broken = False
        await health.until("mine", "ok")
    said = [record for record in caplog.records if record.name == "projkit.health"]
    assert [(record.levelname, "mine" in record.message) for record in said] == [
        ("WARNING", True),
        ("INFO", True),
    ]
    assert "the cause" in caplog.text


@pytest.mark.parametrize(("critical", "status"), [(True, "error"), (False, "degraded")])
async def test_stale_result(open_health: OpenHealth, critical: bool, status: str) -> None:
    """A result older than three periods is unknown and counts as failing, even if the check no longer runs."""
    async with open_health(HealthCheck("mine", passing, critical=critical, **QUICK)) as health:
        await health.until("mine", "ok")
        scheduler = Internals(health.kit).running.check_scheduler
        assert scheduler is not None
        scheduler.check_loops["mine"].task.cancel()
        async with asyncio.timeout(PATIENCE):
            while (await health.check("mine"))["status"] == "ok":
                await asyncio.sleep(0.01)
            while (await health.get("/ready"))[1] != {"status": status}:
                await asyncio.sleep(0.01)  # another check can time out on a busy machine
        found = await health.check("mine")
        assert found["status"] == "unknown"
        assert found["detail"].startswith(
            f"not seen: this process, {os.getpid()}, has not completed the check for "
        )
        assert found["age_seconds"] >= 0.15


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"name": ""}, "printable name"),
        ({"name": "a\nb"}, "printable name"),
        ({"name": "x" * 65}, "printable name"),
        ({"name": 7}, "printable name"),
        ({"name": "database"}, "already"),
        ({"name": "celery"}, "already"),
        ({"name": "taken"}, "already"),
        ({"timeout": 0}, "timeout of more than 0"),
        ({"timeout": float("nan")}, "timeout of more than 0"),
        ({"period": -1}, "period of more than 0"),
        ({"period": True}, "period of more than 0"),
        ({"function": "passing"}, "a function to call, not str"),
    ],
)
def test_invalid_checks(sqlite_url: str, wrong: dict[str, Any], match: str) -> None:
    """Invalid or duplicate names, invalid timeouts and objects that are not callable are rejected."""
    kit = ProjKit(settings_for(sqlite_url))
    kit.add_health_check("taken", passing)
    with pytest.raises(ConfigurationError, match=match):
        kit.add_health_check(**{"name": "mine", "function": passing, **wrong})


async def test_adding_a_check_while_running(open_health: OpenHealth) -> None:
    """A check can be added while the kit runs, from its event loop and from any thread."""
    async with open_health() as health:
        health.kit.add_health_check("first", passing, critical=True, period=0.02)
        await asyncio.to_thread(health.kit.add_health_check, "second", passing, period=0.02)
        assert (await health.until("first", "ok"))["critical"] is True
        await health.until("second", "ok")


def test_closing_event_loop(sqlite_url: str) -> None:
    """No check delays an event loop that closes, even if it ignores its cancellation."""

    async def ignores() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    kit = ProjKit(settings_for(sqlite_url))
    kit.add_health_check("ignores", ignores, timeout=3600)
    kit.add_health_check("hangs", lambda: time.sleep(0.5), timeout=3600)

    ended = []

    def use() -> None:
        for _ in range(2):
            asyncio.run(kit.startup())
            ended.append(True)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended == [True, True]
