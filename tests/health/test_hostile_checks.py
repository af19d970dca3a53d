"""Checks that raise or return what no check should: each is shown as failing, and nothing else fails of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest

from projkit import ConfigurationError
from projkit.errors import DatabaseUnavailableError
from projkit.health import CheckFailedError, HealthCheck
from projkit.health.check_scheduler import CheckScheduler
from projkit.health.system import SystemSampler
from tests.health.conftest import PATIENCE, OpenHealth

pytestmark = pytest.mark.anyio


class OwnBaseError(BaseException):
    """What no `except Exception` catches."""


class MuteError(Exception):
    """What fails to say what it is."""

    def __str__(self) -> str:
        raise OwnBaseError


class NoDetailError(CheckFailedError):
    """What was never told why it failed, and so has nothing to show."""

    def __init__(self) -> None: ...


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """An error with its cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (OwnBaseError(), "raised OwnBaseError"),
        (GeneratorExit(), "raised GeneratorExit"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt"),
        (SystemExit(), "raised SystemExit"),
        (asyncio.CancelledError(), "cancelled"),
        (MuteError(), "raised MuteError"),
        (NoDetailError(), "raised NoDetailError"),
        (CheckFailedError(ValueError("an exception")), "an exception"),
        (CheckFailedError(TimeoutError()), "TimeoutError"),
        (CheckFailedError(MuteError()), "MuteError"),
        (caused(CheckFailedError("down"), MuteError()), "down"),
        (DatabaseUnavailableError(MuteError()), "MuteError"),  # type: ignore[arg-type]
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else each,
)
async def test_nothing_that_is_raised_ends_a_watch(
    open_health: OpenHealth, error: BaseException, detail: str, waits: bool
) -> None:
    """Whatever a coroutine raises is an error, start-up ends all the same, and the next look finds it well."""
    broken = True

    async def function() -> None:
        if waits:
            await asyncio.sleep(0)
        if broken:
            raise error

    async with asyncio.timeout(PATIENCE):
        async with open_health(HealthCheck("mine", function, critical=True, period=0.02)) as patient:
            await patient.until("mine", "error", detail)
            assert (await patient.get("/ready"))[0] == 503
            broken = False
            await patient.until("mine", "ok")
            assert (await patient.get("/ready"))[0] == 200


async def test_a_cause_is_logged_in_a_line(open_health: OpenHealth, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells the cause of a failure, without what would be too long or would begin a new line."""

    def function() -> None:
        raise CheckFailedError("down") from ValueError("first\nsecond" + "x" * 10_000)

    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        await patient.until("mine", "error", "down")
    (said,) = [each.getMessage() for each in caplog.records if each.name == "projkit.health"]
    assert "down (ValueError: first second" in said
    assert len(said) < 1000


async def test_a_log_that_fails(open_health: OpenHealth) -> None:
    """A filter of the host's that raises is no reason to look no more."""

    def refuse(_: logging.LogRecord) -> bool:
        raise ValueError

    looked = 0

    def function() -> None:
        nonlocal looked
        looked += 1
        if looked < 3:
            raise ValueError

    logger = logging.getLogger("projkit.health")
    logger.addFilter(refuse)
    try:
        async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
            await patient.until("mine", "ok")
    finally:
        logger.removeFilter(refuse)


async def test_a_watch_that_ends_before_it_has_looked() -> None:
    """Nobody waits for the first look of a check that is not looked at any more."""

    async def hangs() -> None:
        await asyncio.sleep(PATIENCE * 2)

    check = HealthCheck("mine", hangs, critical=True, timeout=PATIENCE * 2)
    scheduler = CheckScheduler([check], SystemSampler())
    scheduler.start()
    waiting = asyncio.create_task(scheduler.wait_for_critical())
    await scheduler.close()
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert scheduler.snapshot()[0].latest is None


class Own(Mapping[str, Any]):
    """A mapping that is no dict, and may fail to tell what is in it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __getitem__(self, key: str) -> int:
        return 7

    def __iter__(self) -> Iterator[str]:
        if self.error is not None:
            raise self.error
        return iter(["own"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (MappingProxyType({"depth": 3}), {"depth": 3}),
        (Own(), {"own": 7}),
        ({"queues": MappingProxyType({"own": Own()})}, {"queues": {"own": {"own": 7}}}),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
async def test_any_mapping_is_data(
    open_health: OpenHealth, data: Mapping[str, Any], shown: dict[str, Any], fails: bool
) -> None:
    """Data may be of any kind of mapping, at any depth, of a check that returns and of one that fails."""

    def function() -> Mapping[str, Any]:
        if fails:
            raise CheckFailedError("down", data)
        return data

    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        found = await patient.until("mine", "error" if fails else "ok")
        assert found["data"] == shown


@pytest.mark.parametrize("deep", [False, True])
async def test_data_is_shown_as_it_was(open_health: OpenHealth, deep: bool) -> None:
    """What the host does with its data after a look changes nothing of what is shown."""
    inner: dict[str, Any] = {"depth": 3}
    data: dict[str, Any] = {"queue": inner}
    async with open_health(HealthCheck("mine", lambda: data, period=3600)) as patient:
        await patient.until("mine", "ok")
        (inner if deep else data)["more"] = {object()}
        assert (await patient.check("mine"))["data"] == {"queue": {"depth": 3}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Own(KeyError("own")), "not JSON"),
        (Own(OwnBaseError()), "raised"),
        ({"at": {1, 2}}, "not JSON"),
        ({1: 2}, "not JSON"),
        ({"big": "x" * 20_000}, "more than 16384 bytes"),
        (["no", "object"], "not JSON"),
    ],
)
async def test_data_that_cannot_be_shown(open_health: OpenHealth, data: Any, said: str) -> None:
    """Of a failure whose data is none the details say so."""

    def function() -> None:
        raise CheckFailedError("down", data)

    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        assert "data" not in await patient.until("mine", "error", said)


def generator() -> Iterator[None]:
    """Nothing of it runs when it is called."""
    yield


async def async_generator() -> AsyncIterator[None]:
    """Nothing of it runs when it is called."""
    yield


class Called:
    """An object whose call is a generator."""

    def __call__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("function", [generator, async_generator, partial(generator), Called()])
async def test_a_generator_function_is_refused(open_health: OpenHealth, function: Callable[[], Any]) -> None:
    """A function of which a call runs nothing is no check."""
    with pytest.raises(ConfigurationError, match="mine is a generator function"):
        async with open_health(HealthCheck("mine", function)):
            pass


async def nested() -> Any:
    """Gives a coroutine that nobody awaits."""
    return asyncio.sleep(0)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda: generator(), "generator"),  # noqa: PLW0108  # what is no generator function itself
        (lambda: async_generator(), "async_generator"),  # noqa: PLW0108
        (nested, "coroutine"),
        (lambda: nested(), "coroutine"),  # noqa: PLW0108
    ],
)
async def test_work_that_nobody_does_is_no_success(
    open_health: OpenHealth, function: Callable[[], Any], kind: str
) -> None:
    """A check that has only made a generator, or a coroutine of a coroutine, has looked at nothing and fails."""
    async with open_health(HealthCheck("mine", function, period=0.02)) as patient:
        await patient.until("mine", "error", f"returned a {kind} that was not run")
