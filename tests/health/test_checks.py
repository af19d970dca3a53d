"""Checks of the host's own: whatever they do, no probe waits for it, and health shows it as what it is."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from projkit import ConfigurationError, ProjKit
from projkit.health import CheckFailedError, HealthCheck
from tests.conftest import settings_for
from tests.health.conftest import PATIENCE, OpenHealth

pytestmark = pytest.mark.anyio
QUICK: Any = {"timeout": 0.05, "period": 0.02}
SECRET_TEXT = "postgresql://me:hidden@host/db"


async def well() -> None:
    """All is well."""


def raising(error: BaseException) -> Callable[[], Any]:
    """A function that raises."""

    def function() -> None:
        raise error

    return function


class Called:
    """An object whose call is a coroutine."""

    async def __call__(self) -> str:
        return "called"


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (well, {}),
        (lambda: None, {}),
        (lambda: "fine", {"detail": "fine"}),
        (lambda: {"depth": 3}, {"data": {"depth": 3}}),
        (lambda: well(), {}),  # noqa: PLW0108  # a function that gives an awaitable
        (lambda: asyncio.sleep(0, "slept"), {"detail": "slept"}),
        (partial(asyncio.sleep, 0, "partial"), {"detail": "partial"}),
        (Called(), {"detail": "called"}),
    ],
)
async def test_whatever_returns_is_well(
    open_health: OpenHealth, function: Callable[[], Any], shown: dict[str, Any]
) -> None:
    """A function, a coroutine function and a function that gives an awaitable are checks alike."""
    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        found = await patient.until("mine", "ok")
        assert {name: found[name] for name in ("detail", "data") if name in found} == shown
        assert found["critical"] is False
        assert 0 <= found["latency_ms"] < PATIENCE * 1000


async def cancelled() -> None:
    """Ends as a cancelled one does."""
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
async def test_whatever_raises_is_an_error(
    open_health: OpenHealth, function: Callable[[], Any], detail: str
) -> None:
    """What a check raises is an error that tells its kind and no more, and it is looked at again."""
    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        found = await patient.until("mine", "error", detail)
        assert "hidden" not in str(found)
        assert len(found["detail"]) <= 500
        assert (await patient.get("/ready")) == (200, {"status": "degraded"})
        later = await patient.until("mine", "error")
        assert later["observed_at"] >= found["observed_at"]


async def test_a_critical_check_decides(open_health: OpenHealth) -> None:
    """A critical check that fails turns readiness and health to 503, liveness never; and back."""
    broken = threading.Event()

    def function() -> bool:
        return not broken.is_set()

    async with open_health(HealthCheck("mine", function, critical=True, period=0.02)) as patient:
        assert (await patient.get("/ready")) == (200, {"status": "ok"})  # start-up has seen it
        broken.set()
        await patient.until("mine", "error")
        for path in ("", "/ready", "/detailed"):
            status, content = await patient.get(path)
            assert (status, content["status"]) == (503, "error")
        assert (await patient.get("/live")) == (200, {"status": "ok"})
        broken.clear()
        await patient.until("mine", "ok")
        assert (await patient.get("/ready")) == (200, {"status": "ok"})


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What hanging threads wait for; they end with the test."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_coroutine_that_hangs(open_health: OpenHealth) -> None:
    """One that does not answer in time is cancelled, fails, and is tried again at the next period."""
    hang, started = True, 0

    async def function() -> None:
        nonlocal started
        started += 1
        if hang:
            await asyncio.get_running_loop().create_future()

    async with open_health(HealthCheck("mine", function, critical=True, **QUICK)) as patient:
        found = await patient.until("mine", "error", "timed out after 0.05 s")
        assert found["latency_ms"] >= 50
        assert (await patient.get("/ready"))[0] == 503
        before = started
        hang = False
        await patient.until("mine", "ok")
        assert started > before


async def test_a_coroutine_that_ignores_its_cancellation(open_health: OpenHealth) -> None:
    """It is not started a second time while it runs, is shown as hanging, and keeps no shutdown waiting."""
    started = 0

    async def function() -> None:
        nonlocal started
        started += 1
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async with open_health(HealthCheck("mine", function, **QUICK)) as patient:
        await patient.until("mine", "error", "running since 20")
        first = (await patient.check("mine"))["observed_at"]
        async with asyncio.timeout(PATIENCE):
            while (await patient.check("mine"))["observed_at"] == first:
                await asyncio.sleep(0.01)
        assert started == 1
        stopping = time.monotonic()
    assert time.monotonic() - stopping < PATIENCE / 3


async def test_a_thread_that_hangs(open_health: OpenHealth, held: threading.Event) -> None:
    """A blocking function is not started a second time while it blocks, and is well again when it returns."""
    started = 0

    def function() -> None:
        nonlocal started
        started += 1
        held.wait(PATIENCE)

    async with open_health(
        HealthCheck("mine", function, critical=True, **QUICK), HealthCheck("other", well, period=0.02)
    ) as patient:
        await patient.until("mine", "error", "running since 20")
        await patient.until("other", "ok")
        assert (await patient.get("/ready")) == (503, {"status": "error"})
        assert started == 1
        held.set()
        await patient.until("mine", "ok")
        assert started > 1


async def test_an_awaitable_that_comes_too_late(open_health: OpenHealth, held: threading.Event) -> None:
    """What a thread that was given up returns in the end is not awaited any more."""
    awaited = False

    async def late() -> None:
        nonlocal awaited
        awaited = True

    def function() -> Awaitable[None]:
        held.wait(PATIENCE)
        return late()

    async with open_health(HealthCheck("mine", function, timeout=0.05, period=0.5)) as patient:
        await patient.until("mine", "error", "timed out")
        held.set()
        await asyncio.sleep(0.05)
        assert not awaited
        await patient.until("mine", "ok")
        assert awaited


async def test_a_coroutine_that_blocks_the_event_loop(open_health: OpenHealth) -> None:
    """It is told how long it has kept everybody waiting, and fails where that is longer than its time-out."""

    async def blocks(seconds: float) -> None:
        time.sleep(seconds)

    async with open_health(
        HealthCheck("long", partial(blocks, 0.15), timeout=0.1, period=1.0),
        HealthCheck("short", partial(blocks, 0.15), timeout=10, period=10),
    ) as patient:
        assert "ms" in (await patient.until("long", "error", "blocked the event loop for 1"))["detail"]
        await patient.until("short", "ok", "blocked the event loop for 1")


async def test_the_log_tells_each_turn_once(
    open_health: OpenHealth, caplog: pytest.LogCaptureFixture
) -> None:
    """A check that turns bad is logged once with its cause, and once when it is well again."""
    caplog.set_level(logging.INFO, "projkit.health")
    broken = True
    looked = 0

    def function() -> None:
        nonlocal looked
        looked += 1
        if broken:
            raise ValueError("the cause")

    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        await patient.until("mine", "error")
        while looked < 5:
            await asyncio.sleep(0.01)
        broken = False
        await patient.until("mine", "ok")
    said = [record for record in caplog.records if record.name == "projkit.health"]
    assert [(record.levelname, "mine" in record.message) for record in said] == [
        ("WARNING", True),
        ("INFO", True),
    ]
    assert "the cause" in caplog.text


@pytest.mark.parametrize(("critical", "status"), [(True, "error"), (False, "degraded")])
async def test_a_result_that_is_too_old(open_health: OpenHealth, critical: bool, status: str) -> None:
    """What was seen more than three periods ago is unknown, and counts as failing, though nobody looks any more."""
    async with open_health(HealthCheck("mine", well, critical=critical, **QUICK)) as patient:
        await patient.until("mine", "ok")
        scheduler = patient.kit._current.check_scheduler()
        assert scheduler is not None
        scheduler._check_loops["mine"].task.cancel()
        async with asyncio.timeout(PATIENCE):
            while (await patient.get("/ready"))[1] == {"status": "ok"}:
                await asyncio.sleep(0.01)
        assert (await patient.get("/ready"))[1] == {"status": status}
        found = await patient.check("mine")
        assert (found["status"], found["detail"]) == ("unknown", "no result for three periods")
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
        ({"function": "well"}, "a function to call, not str"),
    ],
)
def test_wrong_checks_are_refused(sqlite_url: str, wrong: dict[str, Any], match: str) -> None:
    """A name that is no name or is taken, a time-out that never comes and what cannot be called are refused."""
    kit = ProjKit(settings_for(sqlite_url))
    kit.add_health_check("taken", well)
    with pytest.raises(ConfigurationError, match=match):
        kit.add_health_check(**{"name": "mine", "function": well, **wrong})


async def test_a_check_that_comes_later(open_health: OpenHealth) -> None:
    """A check may be added while the kit runs, from its event loop and from any thread."""
    async with open_health() as patient:
        patient.kit.add_health_check("first", well, critical=True, period=0.02)
        await asyncio.to_thread(patient.kit.add_health_check, "second", well, period=0.02)
        assert (await patient.until("first", "ok"))["critical"] is True
        await patient.until("second", "ok")


def test_an_event_loop_that_just_ends(sqlite_url: str) -> None:
    """A loop that closes under the kit is kept waiting by no check, whatever that does with its cancellation."""

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
