"""Checks with invalid exceptions or return values: each fails, and affects nothing else."""

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
    """An exception that ``except Exception`` does not catch."""


class MuteError(Exception):
    """An exception whose text raises."""

    def __str__(self) -> str:
        raise OwnBaseError


class NoDetailError(CheckFailedError):
    """A CheckFailedError without a detail."""

    def __init__(self) -> None: ...


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """Add a cause to an error."""
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
async def test_no_exception_ends_the_loop(
    open_health: OpenHealth, error: BaseException, detail: str, waits: bool
) -> None:
    """Any exception of a coroutine is a failed check; start-up completes, and the next run can pass."""
    broken = True

    async def function() -> None:
        if waits:
            await asyncio.sleep(0)
        if broken:
            raise error

    async with asyncio.timeout(PATIENCE):
        async with open_health(HealthCheck("mine", function, critical=True, period=0.02)) as health:
            await health.until("mine", "error", detail)
            assert (await health.get("/ready"))[0] == 503
            broken = False
            await health.until("mine", "ok")
            assert (await health.get("/ready"))[0] == 200


async def test_cause_is_logged_on_one_line(open_health: OpenHealth, caplog: pytest.LogCaptureFixture) -> None:
    """The cause of a failure is logged on one line of limited length."""

    def function() -> None:
        raise CheckFailedError("down") from ValueError("first\nsecond" + "x" * 10_000)

    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        await health.until("mine", "error", "down")
    (said,) = [each.getMessage() for each in caplog.records if each.name == "projkit.health"]
    assert "down (ValueError: first second" in said
    assert len(said) < 1000


async def test_failing_log_filter(open_health: OpenHealth) -> None:
    """A logging filter that raises does not end the loop."""

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
        async with open_health(HealthCheck("mine", function, period=0.02)) as health:
            await health.until("mine", "ok")
    finally:
        logger.removeFilter(refuse)


async def test_closing_before_the_first_run() -> None:
    """Closing a scheduler ends the wait for the first run."""

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


class HostMapping(Mapping[str, Any]):
    """A mapping that is not a dict, and can raise."""

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
        (HostMapping(), {"own": 7}),
        ({"queues": MappingProxyType({"own": HostMapping()})}, {"queues": {"own": {"own": 7}}}),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
async def test_any_mapping_is_data(
    open_health: OpenHealth, data: Mapping[str, Any], shown: dict[str, Any], fails: bool
) -> None:
    """Data can be any kind of mapping at any depth, of a passing and of a failing check."""

    def function() -> Mapping[str, Any]:
        if fails:
            raise CheckFailedError("down", data)
        return data

    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        found = await health.until("mine", "error" if fails else "ok")
        assert found["data"] == shown


@pytest.mark.parametrize("deep", [False, True])
async def test_data_is_copied(open_health: OpenHealth, deep: bool) -> None:
    """Changes to the data after a run do not affect the result."""
    inner: dict[str, Any] = {"depth": 3}
    data: dict[str, Any] = {"queue": inner}
    async with open_health(HealthCheck("mine", lambda: data, period=3600)) as health:
        await health.until("mine", "ok")
        (inner if deep else data)["more"] = {object()}
        assert (await health.check("mine"))["data"] == {"queue": {"depth": 3}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (HostMapping(KeyError("own")), "not JSON"),
        (HostMapping(OwnBaseError()), "raised"),
        ({"at": {1, 2}}, "not JSON"),
        ({1: 2}, "not JSON"),
        ({"big": "x" * 20_000}, "more than 16384 bytes"),
        (["no", "object"], "not JSON"),
    ],
)
async def test_invalid_data(open_health: OpenHealth, data: Any, said: str) -> None:
    """Invalid data of a failure is reported in the detail."""

    def function() -> None:
        raise CheckFailedError("down", data)

    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        assert "data" not in await health.until("mine", "error", said)


def generator() -> Iterator[None]:
    """Yield; a call runs nothing."""
    yield


async def async_generator() -> AsyncIterator[None]:
    """Yield; a call runs nothing."""
    yield


class Called:
    """An object whose call returns a generator."""

    def __call__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("function", [generator, async_generator, partial(generator), Called()])
async def test_generator_functions_are_rejected(open_health: OpenHealth, function: Callable[[], Any]) -> None:
    """A generator function is rejected, because calling it runs nothing."""
    with pytest.raises(ConfigurationError, match="mine is a generator function"):
        async with open_health(HealthCheck("mine", function)):
            pass


async def nested() -> Any:
    """Return a coroutine that is not awaited."""
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
async def test_work_that_was_not_run(open_health: OpenHealth, function: Callable[[], Any], kind: str) -> None:
    """A check that returns a generator or a nested coroutine has checked nothing and fails."""
    async with open_health(HealthCheck("mine", function, period=0.02)) as health:
        await health.until("mine", "error", f"returned a {kind}, which is not executed")
