"""Redis stopped, killed, cut off, emptied or full: whoever has a session gets a bounded 503, and is never let in."""

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
from projkit.auth.users import User, Users
from tests.faults.proxy import Proxy
from tests.faults.scene import AUTH, BOUND, CACHE, PASSWORD, Outcome, Scene, playing, timed
from tests.redis_servers import Redises, alone, in_cluster, running

pytestmark = [
    pytest.mark.anyio,
    # asyncio leaves a socket to the garbage collector where a connect is given up in the moment of its success.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def servers() -> Iterator[Redises]:
    """A Redis of one test's own."""
    with running(alone) as opened:
        yield opened


@pytest.fixture
async def scene(servers: Redises, sqlite_url: str) -> AsyncIterator[Scene]:
    """A kit on it."""
    async with playing(sqlite_url, servers.url) as opened:
        yield opened


async def all_is_refused(scene: Scene) -> float:
    """Everything that needs sessions is a 503 in bounded time, everything else is as ever; gives the longest wait."""
    plain, live, *refused = await asyncio.gather(
        scene.ask(scene.plain),
        scene.ask(path="/api/v1/health/live"),
        timed(scene.log_in()),
        timed(scene.refresh()),
        scene.ask(path=f"{AUTH}/logout", method="POST"),
        scene.ask(path=f"{AUTH}/sessions"),
        *(scene.ask() for _ in range(20)),
    )
    assert {each.status for each in refused} == {503}
    assert all(each.retry_after for each in refused)
    assert (plain.status, live.status) == (200, 200)
    longest = max(each.seconds for each in refused)
    assert longest < BOUND
    return longest


@asynccontextmanager
async def client_of(url: str, whose: str) -> AsyncIterator[Redis | None]:
    """None for the kit's own client, or what a host may hand in: bytes for answers, and no time-outs."""
    if whose == "own":
        yield None
        return
    async with Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None) as opened:
        yield opened


@pytest.mark.parametrize(("kind", "client"), [(alone, "own"), (alone, "host's"), (in_cluster, "own")])
async def test_stopped_and_continued(kind: Any, client: str, sqlite_url: str) -> None:
    """Stopped by SIGSTOP, at most the cache lets anybody in, for a second; continued, all sessions are there."""
    with running(kind) as servers:
        async with (
            client_of(servers.url, client) as given,
            playing(sqlite_url, servers.url, given) as scene,
        ):
            assert (await scene.ask()).status == 200
            for each in servers.masters:
                each.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            asked = []
            while time.monotonic() < stopped + 2 * CACHE:
                asked.append(asyncio.create_task(scene.ask()))
                await asyncio.sleep(0.02)
            outcomes = await asyncio.gather(*asked)
            assert {each.status for each in outcomes} <= {200, 503}
            assert {each.status for each in outcomes if each.began > stopped + CACHE} == {503}
            longest = await all_is_refused(scene)
            for each in servers.masters:
                each.signal(signal.SIGCONT)
            took = await scene.recovers()
            assert (await scene.refresh()).status_code == 200
            assert (await scene.log_in()).status_code == 200
            print(f"{kind.__name__}: longest 503 {longest:.2f} s, recovered {took:.2f} s after SIGCONT")  # noqa: T201


async def test_killed_and_started_again(scene: Scene, servers: Redises) -> None:
    """Killed, it is a 503; back without its data, the sessions have ended, and a login works again."""
    servers.masters[0].kill()
    await asyncio.sleep(CACHE)
    longest = await all_is_refused(scene)
    await asyncio.to_thread(servers.masters[0].start)
    began = time.monotonic()
    assert (await scene.ask()).status == 401
    assert (await scene.refresh()).status_code == 401
    assert (await scene.log_in()).status_code == 200
    took = time.monotonic() - began
    assert (await scene.ask()).status == 200
    print(f"killed: longest 503 {longest:.2f} s, recovered {took:.2f} s after the start")  # noqa: T201


async def test_emptied(scene: Scene, servers: Redises) -> None:
    """After FLUSHALL the sessions have ended, none of them with a 500, and a login works again."""
    servers.masters[0].ask("FLUSHALL")
    await asyncio.sleep(CACHE)
    assert (await scene.ask()).status == 401
    assert (await scene.refresh()).status_code == 401
    assert (await scene.ask(path=f"{AUTH}/logout", method="POST")).status == 401
    assert (await scene.log_in()).status_code == 200
    assert (await scene.ask()).status == 200


async def test_full(servers: Redises, sqlite_url: str) -> None:
    """Full and told to evict nothing, it keeps all sessions and takes no new ones; logging out still works."""
    server = servers.masters[0]
    # An idle time of ten seconds has use noted after one.
    async with playing(sqlite_url, servers.url, session_idle_seconds=10) as scene:
        server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG SET", "maxmemory", 1)
        await asyncio.sleep(1.1)
        assert (await scene.ask()).status == 200
        assert (await scene.ask(path=f"{AUTH}/sessions")).status == 200
        for answer in (await scene.log_in(), await scene.refresh()):
            assert (answer.status_code, answer.json()["code"]) == (503, "session_store_unavailable")
            assert answer.headers["retry-after"]
        ended = scene.session
        assert (await scene.ask(path=f"{AUTH}/logout", method="POST")).status == 204
        assert (await scene.ask(ended)).status == 401
        server.ask("CONFIG SET", "maxmemory", 0)
        assert (await scene.log_in()).status_code == 200
        assert (await scene.ask()).status == 200


async def test_the_password_stays_while_sessions_cannot_be_ended(scene: Scene, servers: Redises) -> None:
    """A change of password that could not end the other sessions changes nothing."""
    change = {"old_password": PASSWORD, "new_password": "another horse battery"}
    server = servers.masters[0]
    server.kill()
    answer = await scene.client.post(f"{AUTH}/password", json=change, headers=scene.plain)
    assert answer.status_code == 503
    await asyncio.to_thread(server.start)
    assert (await scene.log_in()).status_code == 200
    answer = await scene.client.post(f"{AUTH}/password", json=change, headers=scene.session)
    assert answer.status_code == 204
    assert (await scene.log_in()).status_code == 401
    assert (await scene.log_in("another horse battery")).status_code == 200


async def test_redis_is_lost_while_the_password_changes(
    scene: Scene, servers: Redises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost when the old password has been looked at, Redis keeps it from being changed: no session outlives it."""
    server, hash_ = servers.masters[0], Passwords.hash

    async def losing(self: Passwords, password: str) -> str:
        server.kill()
        return await hash_(self, password)

    monkeypatch.setattr(Passwords, "hash", losing)
    change = {"old_password": PASSWORD, "new_password": "another horse battery"}
    answer = await scene.client.post(f"{AUTH}/password", json=change, headers=scene.session)
    assert (answer.status_code, answer.json()["code"]) == (503, "session_store_unavailable")
    await asyncio.to_thread(server.start)
    assert (await scene.log_in("another horse battery")).status_code == 401
    assert (await scene.log_in()).status_code == 200


async def test_redis_is_lost_when_the_password_has_changed(
    scene: Scene, servers: Redises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Redis is lost right after it, the answer says that the password is changed, and what may live on."""
    server, set_password = servers.masters[0], Users.set_password

    async def losing(self: Users, user: User, password_hash: str) -> None:
        await set_password(self, user, password_hash)
        server.kill()

    monkeypatch.setattr(Users, "set_password", losing)
    change = {"old_password": PASSWORD, "new_password": "another horse battery"}
    answer = await scene.client.post(f"{AUTH}/password", json=change, headers=scene.session)
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("The password is changed, but a session")
    await asyncio.to_thread(server.start)
    assert (await scene.log_in()).status_code == 401
    assert (await scene.log_in("another horse battery")).status_code == 200


async def test_connections_cut(servers: Redises, sqlite_url: str) -> None:
    """A connection that was lost while idle costs nobody anything; cut again and again, 503 is the worst."""
    async with (
        Proxy(servers.masters[0].port) as proxy,
        playing(sqlite_url, f"redis://127.0.0.1:{proxy.port}", session_cache_seconds=0) as scene,
    ):
        for _ in range(5):
            proxy.reset()
            await asyncio.sleep(0.01)
            assert (await scene.ask()).status == 200
        outcomes: list[Outcome] = []
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                outcomes.append(await scene.ask())

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        for _ in range(30):
            await asyncio.sleep(0.03)
            proxy.reset()
        done.set()
        await asyncio.gather(*tasks)
        assert {each.status for each in outcomes} <= {200, 503}
        assert max(each.seconds for each in outcomes) < BOUND
        took = await scene.recovers()
        print(f"cut 30 times: {len(outcomes)} requests, recovered after {took:.2f} s")  # noqa: T201


async def test_slow_and_half_open(servers: Redises, sqlite_url: str) -> None:
    """Slow answers are waited for, slower ones and none at all are a bounded 503, and it recovers by itself."""
    async with (
        Proxy(servers.masters[0].port) as proxy,
        playing(sqlite_url, f"redis://127.0.0.1:{proxy.port}", session_cache_seconds=0) as scene,
    ):
        proxy.delay = 0.05
        assert (await scene.ask()).status == 200
        proxy.delay = 2.0
        slow = await all_is_refused(scene)
        proxy.delay = 0.0
        recovered = await scene.recovers()
        proxy.silent = True
        silent = await all_is_refused(scene)
        proxy.silent = False
        took = await scene.recovers()
        print(  # noqa: T201
            f"slow: longest 503 {slow:.2f} s, recovered {recovered:.2f} s; "
            f"half-open: longest 503 {silent:.2f} s, recovered {took:.2f} s"
        )


async def test_cancelled_in_flight(servers: Redises, sqlite_url: str) -> None:
    """Of thousands of requests of two users, half of them given up in mid-air, none gets the other's answer."""
    picks = random.Random(4711)
    async with (
        Proxy(servers.masters[0].port) as proxy,
        playing(sqlite_url, f"redis://127.0.0.1:{proxy.port}", session_cache_seconds=0) as scene,
    ):
        sessions = {}
        for name in ("alice", "bob"):
            sessions[name] = (await scene.log_in(username=name)).json()["session_id"], scene.session
        await scene.client.post(f"{AUTH}/logout-all", headers=sessions["alice"][1])
        sessions["alice"] = (await scene.log_in()).json()["session_id"], scene.session
        proxy.delay = 0.001
        foreign: list[str] = []
        answered = given_up = 0

        async def ask(name: str) -> None:
            nonlocal answered
            session_id, headers = sessions[name]
            answer = await scene.client.get(f"{AUTH}/sessions", headers=headers)
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
        print(f"{answered} answers, {given_up} requests given up, {len(foreign)} foreign answers")  # noqa: T201
        assert foreign == []
        assert given_up > 100
        assert answered > 500
