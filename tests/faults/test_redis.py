"""While Redis is stopped, killed, unreachable, emptied or full, sessions get a 503 in time, and are never accepted."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from projkit.auth.passwords import Passwords
from projkit.auth.users import Users
from tests.faults.fault_scenario import (
    AUTH,
    BOUND_SECONDS,
    CACHE_SECONDS,
    PASSWORD,
    FaultScenario,
    TimedResponse,
    fault_scenario,
    timed,
)
from tests.faults.proxy import Proxy
from tests.redis_servers import Redises, alone, in_cluster, running

pytestmark = [
    pytest.mark.anyio,
    # asyncio leaves a socket to the garbage collector where a connect is given up in the moment of its success.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def servers() -> Iterator[Redises]:
    """A Redis server for one test."""
    with running(alone) as opened:
        yield opened


@pytest.fixture
async def scenario(servers: Redises, sqlite_url: str) -> AsyncIterator[FaultScenario]:
    """A kit on that server."""
    async with fault_scenario(sqlite_url, servers.url) as opened:
        yield opened


async def check_refused(scenario: FaultScenario) -> float:
    """Check that requests that need sessions get a 503 in bounded time, and others succeed; return the longest wait."""
    stateless, live, *refused = await asyncio.gather(
        scenario.request(scenario.stateless),
        scenario.request(path="/api/v1/health/live"),
        timed(scenario.log_in()),
        timed(scenario.refresh()),
        scenario.request(path=f"{AUTH}/logout", method="POST"),
        scenario.request(path=f"{AUTH}/sessions"),
        *(scenario.request() for _ in range(20)),
    )
    assert {each.status for each in refused} == {503}
    assert all(each.retry_after for each in refused)
    assert (stateless.status, live.status) == (200, 200)
    longest = max(each.seconds for each in refused)
    assert longest < BOUND_SECONDS
    return longest


@asynccontextmanager
async def client_of(url: str, owner: str) -> AsyncIterator[Redis | None]:
    """Open a client as a host may pass it, with bytes responses and no timeouts; None for the kit's own."""
    if owner == "own":
        yield None
        return
    async with Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None) as opened:
        yield opened


@pytest.mark.parametrize(("kind", "client"), [(alone, "own"), (alone, "host's"), (in_cluster, "own")])
async def test_stopped_and_continued(kind: Any, client: str, sqlite_url: str) -> None:
    """While Redis is stopped, only the cache accepts sessions, for its lifetime; afterwards all sessions are there."""
    with running(kind) as servers:
        async with (
            client_of(servers.url, client) as given,
            fault_scenario(sqlite_url, servers.url, given) as scenario,
        ):
            assert (await scenario.request()).status == 200
            for each in servers.masters:
                each.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            requests = []
            while time.monotonic() < stopped + 2 * CACHE_SECONDS:
                requests.append(asyncio.create_task(scenario.request()))
                await asyncio.sleep(0.02)
            outcomes = await asyncio.gather(*requests)
            assert {each.status for each in outcomes} <= {200, 503}
            assert {each.status for each in outcomes if each.began > stopped + CACHE_SECONDS} == {503}
            longest = await check_refused(scenario)
            for each in servers.masters:
                each.signal(signal.SIGCONT)
            took = await scenario.wait_until_recovered()
            assert (await scenario.refresh()).status_code == 200
            assert (await scenario.log_in()).status_code == 200
            print(f"{kind.__name__}: longest 503 {longest:.2f} s, recovered {took:.2f} s after SIGCONT")  # noqa: T201


async def test_killed_and_started_again(scenario: FaultScenario, servers: Redises) -> None:
    """While Redis is dead, requests get a 503; when it is back without data, sessions have ended and logins work."""
    servers.masters[0].kill()
    await asyncio.sleep(CACHE_SECONDS)
    longest = await check_refused(scenario)
    await asyncio.to_thread(servers.masters[0].start)
    began = time.monotonic()
    assert (await scenario.request()).status == 401
    assert (await scenario.refresh()).status_code == 401
    assert (await scenario.log_in()).status_code == 200
    took = time.monotonic() - began
    assert (await scenario.request()).status == 200
    print(f"killed: longest 503 {longest:.2f} s, recovered {took:.2f} s after the start")  # noqa: T201


async def test_emptied(scenario: FaultScenario, servers: Redises) -> None:
    """After FLUSHALL all sessions have ended, without a 500, and logins work."""
    servers.masters[0].ask("FLUSHALL")
    await asyncio.sleep(CACHE_SECONDS)
    assert (await scenario.request()).status == 401
    assert (await scenario.refresh()).status_code == 401
    assert (await scenario.request(path=f"{AUTH}/logout", method="POST")).status == 401
    assert (await scenario.log_in()).status_code == 200
    assert (await scenario.request()).status == 200


async def test_full(servers: Redises, sqlite_url: str) -> None:
    """A full Redis with noeviction keeps all sessions and accepts no new ones; logout still works."""
    server = servers.masters[0]
    # With an idle time of ten seconds, activity is recorded after one second.
    async with fault_scenario(sqlite_url, servers.url, session_idle_seconds=10) as scenario:
        server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG SET", "maxmemory", 1)
        await asyncio.sleep(1.1)
        assert (await scenario.request()).status == 200
        assert (await scenario.request(path=f"{AUTH}/sessions")).status == 200
        for answer in (await scenario.log_in(), await scenario.refresh()):
            assert (answer.status_code, answer.json()["code"]) == (503, "session_store_unavailable")
            assert answer.headers["retry-after"]
        ended = scenario.session
        assert (await scenario.request(path=f"{AUTH}/logout", method="POST")).status == 204
        assert (await scenario.request(ended)).status == 401
        server.ask("CONFIG SET", "maxmemory", 0)
        assert (await scenario.log_in()).status_code == 200
        assert (await scenario.request()).status == 200


async def test_the_password_stays_while_sessions_cannot_be_ended(
    scenario: FaultScenario, servers: Redises
) -> None:
    """A password change that cannot end the other sessions changes nothing."""
    change = {"old_password": PASSWORD, "new_password": "another horse battery"}
    server = servers.masters[0]
    server.kill()
    answer = await scenario.client.post(f"{AUTH}/password", json=change, headers=scenario.stateless)
    assert answer.status_code == 503
    await asyncio.to_thread(server.start)
    assert (await scenario.log_in()).status_code == 200
    answer = await scenario.client.post(f"{AUTH}/password", json=change, headers=scenario.session)
    assert answer.status_code == 204
    assert (await scenario.log_in()).status_code == 401
    assert (await scenario.log_in("another horse battery")).status_code == 200


async def test_redis_is_lost_while_the_password_changes(
    scenario: FaultScenario, servers: Redises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis is lost after the old password was verified, the password is not changed: no session outlives it."""
    server, hash_ = servers.masters[0], Passwords.hash

    async def losing(self: Passwords, password: str) -> str:
        server.kill()
        return await hash_(self, password)

    monkeypatch.setattr(Passwords, "hash", losing)
    change = {"old_password": PASSWORD, "new_password": "another horse battery"}
    answer = await scenario.client.post(f"{AUTH}/password", json=change, headers=scenario.session)
    assert (answer.status_code, answer.json()["code"]) == (503, "session_store_unavailable")
    await asyncio.to_thread(server.start)
    assert (await scenario.log_in("another horse battery")).status_code == 401
    assert (await scenario.log_in()).status_code == 200


async def test_redis_is_lost_when_the_password_has_changed(
    scenario: FaultScenario, servers: Redises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis is lost right after the change, the response says that the password is changed and what may live on."""
    server, set_password = servers.masters[0], Users.set_password

    async def losing(self: Users, *arguments: Any, **named: Any) -> None:
        await set_password(self, *arguments, **named)
        server.kill()

    monkeypatch.setattr(Users, "set_password", losing)
    change = {"old_password": PASSWORD, "new_password": "another horse battery"}
    answer = await scenario.client.post(f"{AUTH}/password", json=change, headers=scenario.session)
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("The password was changed, but a session")
    await asyncio.to_thread(server.start)
    assert (await scenario.log_in()).status_code == 401
    assert (await scenario.log_in("another horse battery")).status_code == 200


async def test_connections_cut(servers: Redises, sqlite_url: str) -> None:
    """A connection that is lost while idle affects no request; under repeated resets the worst response is a 503."""
    async with (
        Proxy(servers.masters[0].port) as proxy,
        fault_scenario(sqlite_url, f"redis://127.0.0.1:{proxy.port}", session_cache_seconds=0) as scenario,
    ):
        for _ in range(5):
            proxy.reset()
            await asyncio.sleep(0.01)
            assert (await scenario.request()).status == 200
        outcomes: list[TimedResponse] = []
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                outcomes.append(await scenario.request())

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        for _ in range(30):
            await asyncio.sleep(0.03)
            proxy.reset()
        done.set()
        await asyncio.gather(*tasks)
        assert {each.status for each in outcomes} <= {200, 503}
        assert max(each.seconds for each in outcomes) < BOUND_SECONDS
        took = await scenario.wait_until_recovered()
        print(f"cut 30 times: {len(outcomes)} requests, recovered after {took:.2f} s")  # noqa: T201


async def test_slow_and_half_open(servers: Redises, sqlite_url: str) -> None:
    """Slow replies are awaited, slower or missing ones cause a 503 in bounded time, and the kit recovers by itself."""
    async with (
        Proxy(servers.masters[0].port) as proxy,
        fault_scenario(sqlite_url, f"redis://127.0.0.1:{proxy.port}", session_cache_seconds=0) as scenario,
    ):
        proxy.delay = 0.05
        assert (await scenario.request()).status == 200
        proxy.delay = 2.0
        slow = await check_refused(scenario)
        proxy.delay = 0.0
        recovered = await scenario.wait_until_recovered()
        proxy.silent = True
        silent = await check_refused(scenario)
        proxy.silent = False
        took = await scenario.wait_until_recovered()
        print(  # noqa: T201
            f"slow: longest 503 {slow:.2f} s, recovered {recovered:.2f} s; "
            f"half-open: longest 503 {silent:.2f} s, recovered {took:.2f} s"
        )


async def test_cancelled_in_flight(servers: Redises, sqlite_url: str) -> None:
    """Of thousands of requests of two users, half of them cancelled in flight, none gets the other user's response."""
    picks = random.Random(4711)
    async with (
        Proxy(servers.masters[0].port) as proxy,
        fault_scenario(sqlite_url, f"redis://127.0.0.1:{proxy.port}", session_cache_seconds=0) as scenario,
    ):
        sessions = {}
        for name in ("alice", "bob"):
            sessions[name] = (await scenario.log_in(username=name)).json()["session_id"], scenario.session
        await scenario.client.post(f"{AUTH}/logout-all", headers=sessions["alice"][1])
        sessions["alice"] = (await scenario.log_in()).json()["session_id"], scenario.session
        proxy.delay = 0.001
        foreign: list[str] = []
        answered = given_up = 0

        async def ask(name: str) -> None:
            nonlocal answered
            session_id, headers = sessions[name]
            answer = await scenario.client.get(f"{AUTH}/sessions", headers=headers)
            answered += 1
            if answer.status_code != 200 or [each["id"] for each in answer.json()["items"]] != [session_id]:
                foreign.append(answer.text)

        for _ in range(100):
            tasks = [asyncio.create_task(ask(picks.choice(["alice", "bob"]))) for _ in range(20)]
            await asyncio.sleep(picks.uniform(0, 0.03))
            for each in picks.sample(tasks, 10):
                given_up += not each.done()
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        print(f"{answered} answers, {given_up} requests cancelled, {len(foreign)} foreign answers")  # noqa: T201
        assert foreign == []
        assert given_up > 100
        assert answered > 500
