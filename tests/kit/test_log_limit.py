"""Log lines that repeat during an outage are limited, and none is lost from the count."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from projkit import ProjKit
from projkit.db.errors import log_limit as database_limit
from projkit.db.errors import unavailable
from projkit.errors import UnavailableError
from projkit.http.problem import traceback_limit
from projkit.log_limit import LINES_PER_PERIOD, LogLimit
from projkit.redis.connect import RedisCommands
from projkit.redis.connect import log_limit as redis_limit
from tests.auth.asgi_client import ask
from tests.conftest import settings_for

LOGGER = logging.getLogger("projkit.test")


@pytest.fixture(autouse=True)
def counted() -> None:
    """Start each test with nothing counted by the tests before it."""
    for limit in (database_limit, redis_limit, traceback_limit):
        limit.reset_after_fork()


class Later:
    """A clock and timers that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def start(self, seconds: float, function: Callable[[], None]) -> "Later":
        """Start a timer."""
        self.timers.append((self.now + seconds, function))
        return self

    def cancel(self) -> None:
        """Do nothing: a timer that fires after its period ended has no effect."""

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        due = [each for each in self.timers if each[0] <= self.now]
        self.timers = [each for each in self.timers if each[0] > self.now]
        for _, function in due:
            function()


@pytest.fixture
def later() -> Later:
    """A clock at zero."""
    return Later()


@pytest.fixture
def limit(later: Later, caplog: pytest.LogCaptureFixture) -> LogLimit:
    """A limit with that clock."""
    caplog.set_level(logging.INFO)
    return LogLimit(LOGGER, "failures", clock=lambda: later.now, start_timer=later.start)


def test_every_line_is_logged_or_counted(
    limit: LogLimit, later: Later, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a thousand lines five are logged, and the rest is counted at the end of the period, without another event."""
    for number in range(1000):
        limit.warning("refused", "failure %d", number)
    assert caplog.messages == [f"failure {number}" for number in range(5)]
    later.move(10)
    assert caplog.messages[5:] == ["failures (refused): 995 more in the last 10 s"]
    assert caplog.records[5].__dict__["left_out"] == 995
    later.move(60)
    limit.warning("refused", "again")
    assert caplog.messages[6:] == ["again"]


def test_kinds_are_limited_separately(
    limit: LogLimit, later: Later, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of one kind hides no other."""
    for _ in range(20):
        limit.warning("refused", "refused")
    limit.warning("reset", "reset")
    assert caplog.messages == ["refused"] * 5 + ["reset"]
    later.move(10)
    assert caplog.messages[6:] == ["failures (refused): 15 more in the last 10 s"]


def test_an_outage_that_lasts(limit: LogLimit, later: Later, caplog: pytest.LogCaptureFixture) -> None:
    """Each period has its lines and its count, and the sum is the number of events."""
    for _ in range(100):
        limit.warning("refused", "failure")
        later.move(1)
    later.move(10)
    left_out = sum(record.__dict__.get("left_out", 0) for record in caplog.records)
    assert caplog.messages.count("failure") + left_out == 100
    assert caplog.messages.count("failure") <= 11 * LINES_PER_PERIOD


def test_few_lines_start_no_timer(limit: LogLimit, later: Later, caplog: pytest.LogCaptureFixture) -> None:
    """Lines below the limit are logged, whatever their number over time."""
    for _ in range(10):
        for _ in range(5):
            limit.warning("refused", "failure")
        later.move(10)
    assert caplog.messages == ["failure"] * 50
    assert not later.timers


def test_kinds_are_bounded(limit: LogLimit, later: Later, caplog: pytest.LogCaptureFixture) -> None:
    """However many kinds there are, the lines of a period are bounded; when the period has ended, new ones count."""
    for number in range(1000):
        limit.warning(f"kind {number}", "failure")
    assert caplog.messages == ["failure"] * (100 + LINES_PER_PERIOD)
    later.move(10)
    assert caplog.messages[-1] == "failures (other): 895 more in the last 10 s"
    limit.warning("new", "new")
    assert caplog.messages[-1] == "new"


def test_flush(limit: LogLimit, later: Later, caplog: pytest.LogCaptureFixture) -> None:
    """A process that ends logs what it has left out, once."""
    for _ in range(7):
        limit.warning("refused", "failure")
    limit.flush()
    limit.flush()
    later.move(10)
    assert caplog.messages[5:] == ["failures (refused): 2 more in the last 10 s"]


def test_real_processes() -> None:
    """The count is logged at the exit of a process, and not again by a process that was forked from it."""
    script = (
        "import logging, os, sys\n"
        "from projkit.log_limit import LogLimit\n"
        "logging.basicConfig(format='%(message)s')\n"
        "limit = LogLimit(logging.getLogger('x'), 'failures')\n"
        "for _ in range(8): limit.warning('refused', 'failure')\n"
        "if os.fork() == 0: sys.exit(0)\n"
        "os.wait()\n"
    )
    # Python 3.12 and newer warn of forks in a process with threads, such as that of the limit's timer.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert done.stderr.splitlines() == ["failure"] * 5 + ["failures (refused): 3 more in the last 10 s"]


def test_a_failing_database(caplog: pytest.LogCaptureFixture) -> None:
    """Of the warnings of failed statements few are logged, and the others counted."""
    for _ in range(50):
        unavailable(ConnectionRefusedError("connection refused"))
    lines = [each for each in caplog.messages if "database unavailable: ConnectionRefusedError" in each]
    assert len(lines) == LINES_PER_PERIOD
    database_limit.flush()
    assert caplog.messages[-1] == "database unavailable (ConnectionRefusedError): 45 more in the last 10 s"


@pytest.mark.anyio
async def test_a_failing_redis(caplog: pytest.LogCaptureFixture) -> None:
    """So are those of failed Redis commands."""
    commands = RedisCommands(Redis.from_url("redis://127.0.0.1:1"), UnavailableError)
    for _ in range(20):
        with pytest.raises(UnavailableError):
            await commands.run("GET", "key")
    assert (
        sum("Redis is unavailable: ConnectionError" in each for each in caplog.messages) == LINES_PER_PERIOD
    )
    redis_limit.flush()
    assert caplog.messages[-1] == "Redis is unavailable (ConnectionError): 15 more in the last 10 s"


@pytest.mark.anyio
async def test_unexpected_exceptions(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each failed request has a line with its id; tracebacks are limited and counted."""

    def get_principal(_: object) -> None:
        raise LookupError("broken")

    kit = ProjKit(settings_for(sqlite_url), get_principal=get_principal)
    ids = [f"r-{number}" for number in range(12)]
    async with kit.lifespan():
        for each in ids:
            await ask(kit, "GET", "/api/v1/projects", [("x-request-id", each)])
    lines = [record for record in caplog.records if "unhandled LookupError" in record.message]
    assert [record.__dict__["request_id"] for record in lines] == ids
    assert sum(record.exc_info is not None for record in lines) == LINES_PER_PERIOD
    traceback_limit.flush()
    assert caplog.messages[-1] == "tracebacks (LookupError in /api/v1/projects): 7 more in the last 10 s"
