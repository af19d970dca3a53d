"""A Redis master that is lost behind Sentinels: its replica takes over, and sessions go on by themselves."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from projkit.auth.sessions.port import sha256_hex
from tests.faults.scene import BOUND, CACHE, Scene, playing
from tests.redis_servers import Redises, running, with_sentinels

pytestmark = [
    pytest.mark.anyio,
    # asyncio leaves a socket to the garbage collector where a connect is given up in the moment of its success.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def servers() -> Iterator[Redises]:
    """A master, its replica, and three Sentinels."""
    with running(with_sentinels) as opened:
        yield opened


async def goes_on(scene: Scene) -> float:
    """Asks until sessions are good again, with nothing worse than a bounded 503 meanwhile; tells how long it took."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        outcome = await scene.ask()
        assert outcome.status in {200, 503}
        assert outcome.seconds < BOUND
        if outcome.status == 200 and outcome.began - began > 2 * CACHE:
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    raise AssertionError("sessions do not come back")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_replica_takes_over(servers: Redises, sqlite_url: str, number: int) -> None:
    """After the master was killed, or stopped, the sessions from before are good, and new ones are made."""
    async with playing(sqlite_url, servers.url) as scene:
        master, replica = servers.masters[0], servers.replicas[0]
        assert master.ask("WAIT", 1, 5000) == 1
        master.signal(number)
        took = await goes_on(scene)
        assert replica.ask("ROLE")[0] == "master"
        assert (await scene.refresh()).status_code == 200
        assert (await scene.log_in()).status_code == 200
        if number == signal.SIGSTOP:
            # Back again, it thinks for some seconds that it is the master; nobody may believe it.
            master.signal(signal.SIGCONT)
            for _ in range(10):
                made = await scene.log_in()
                assert sha256_hex(made.json()["session_id"]) in replica.everything()
                assert (await scene.ask()).status == 200
        print(f"{signal.Signals(number).name}: sessions were back after {took:.1f} s")  # noqa: T201


@pytest.mark.parametrize(("number", "lost"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
async def test_a_sentinel_that_is_lost(servers: Redises, sqlite_url: str, number: int, lost: int) -> None:
    """With the first Sentinels gone the next one is asked, within the time that a request has."""
    for sentinel in servers.sentinels[:lost]:
        sentinel.signal(number)
    began = time.monotonic()
    async with playing(sqlite_url, servers.url, session_cache_seconds=0) as scene:
        print(f"{signal.Signals(number).name}: logged in after {time.monotonic() - began:.2f} s")  # noqa: T201
        for _ in range(5):
            servers.masters[0].ask("CLIENT KILL", "TYPE", "normal")  # so that they are asked again
            await scene.recovers()
