"""When a Redis master behind Sentinels is lost, its replica takes over, and sessions recover by themselves."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from projkit.auth.sessions.port import sha256_hex
from tests.faults.fault_scenario import BOUND_SECONDS, CACHE_SECONDS, FaultScenario, fault_scenario
from tests.redis_servers import Redises, running, with_sentinels

pytestmark = [
    pytest.mark.anyio,
    # asyncio leaves a socket to the garbage collector where a connect is given up in the moment of its success.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def servers() -> Iterator[Redises]:
    """A master, its replica and three Sentinels."""
    with running(with_sentinels) as opened:
        yield opened


async def wait_for_failover(scenario: FaultScenario) -> float:
    """Wait until sessions are accepted again; check that meanwhile the worst is a 503 in bounded time."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        outcome = await scenario.request()
        assert outcome.status in {200, 503}
        assert outcome.seconds < BOUND_SECONDS
        if outcome.status == 200 and outcome.began - began > 2 * CACHE_SECONDS:
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    raise AssertionError("sessions do not recover")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_replica_takes_over(servers: Redises, sqlite_url: str, number: int) -> None:
    """After the master was killed or stopped, earlier sessions are accepted, and new ones are created."""
    async with fault_scenario(sqlite_url, servers.url) as scenario:
        master, replica = servers.masters[0], servers.replicas[0]
        assert master.ask("WAIT", 1, 5000) == 1
        master.signal(number)
        took = await wait_for_failover(scenario)
        assert replica.ask("ROLE")[0] == "master"
        assert (await scenario.refresh()).status_code == 200
        assert (await scenario.log_in()).status_code == 200
        if number == signal.SIGSTOP:
            # After it is continued, it claims for some seconds to be the master, which must have no effect.
            master.signal(signal.SIGCONT)
            for _ in range(10):
                made = await scenario.log_in()
                assert sha256_hex(made.json()["session_id"]) in replica.everything()
                assert (await scenario.request()).status == 200
        print(f"{signal.Signals(number).name}: sessions were back after {took:.1f} s")  # noqa: T201


@pytest.mark.parametrize(("number", "lost"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
async def test_a_sentinel_that_is_lost(servers: Redises, sqlite_url: str, number: int, lost: int) -> None:
    """If the first Sentinels are lost, the next one is used, within the time of one request."""
    for sentinel in servers.sentinels[:lost]:
        sentinel.signal(number)
    began = time.monotonic()
    async with fault_scenario(sqlite_url, servers.url, session_cache_seconds=0) as scenario:
        print(f"{signal.Signals(number).name}: logged in after {time.monotonic() - began:.2f} s")  # noqa: T201
        for _ in range(5):
            servers.masters[0].ask("CLIENT KILL", "TYPE", "normal")  # so that the Sentinels are queried again
            await scenario.wait_until_recovered()
