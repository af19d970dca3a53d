"""Refresh tokens and revocations on two workers, with each kind of session store."""

import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from projkit import ProjKit, Settings
from projkit.auth.users import Users
from projkit.auth.wiring import session_store
from projkit.clock import utc_now
from projkit.db.connect import open_database
from projkit.db.tables import tables_of
from projkit.redis.connect import close_redis, open_redis
from tests.conftest import settings_for, token_for
from tests.faults.conftest import serve
from tests.faults.fault_scenario import AUTH, PASSWORD, add_users, bearer
from tests.services import Postgres, database_url

pytestmark = pytest.mark.anyio
CLIENTS = 32
Answers = list[httpx2.Response]


class Workers:
    """Two servers with the same sessions."""

    def __init__(self, settings: Settings, urls: list[str]) -> None:
        self.settings = settings
        self.urls = urls
        # For how long one may accept a session that the other one has ended.
        self.seconds = 0.0 if settings.redis_url is None else 1.0
        self._names = (f"user {number}" for number in itertools.count())

    async def new_user(self) -> str:
        """Add a user; return the name, which is also the subject."""
        name = next(self._names)
        await add_users(self.settings, PASSWORD, name)
        return name

    async def disable(self, username: str) -> None:
        """Disable a user, as ``projkit user disable`` does."""
        tables = tables_of(self.settings)
        async with AsyncExitStack() as stack:
            database = await open_database(self.settings, tables)
            stack.push_async_callback(database.close)
            redis = None
            if self.settings.redis_url is not None:
                redis = open_redis(self.settings.redis_url.get_secret_value())
                stack.push_async_callback(close_redis, redis)
            user = await Users(database, tables, clock=utc_now).set_disabled(username, disabled=True)
            store = session_store(self.settings, database, tables, redis)
            await store.revoke_all(user.tenant_id, user.subject)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "redis"])
def workers(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    """Two workers with each kind of store; with Redis the users are in SQLite."""
    with ExitStack() as stack:
        url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path_factory.mktemp('workers') / 'projkit.db')}"
        variables: dict[str, Any] = {"PROJKIT_LOGIN_LIMIT_ADDRESS": "10000/minute"}
        changes: dict[str, Any] = {}
        if request.param == "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            name = postgres.create(migrated=True)
            stack.callback(postgres.drop, name)
            url = database_url(name)
        elif request.param == "redis":
            changes = {
                "redis_url": request.getfixturevalue("redis_alone").url,
                "redis_prefix": f"{uuid4().hex}:",
            }
            variables |= {f"PROJKIT_{key.upper()}": value for key, value in changes.items()}
        with ThreadPoolExecutor() as threads:
            servers = list(threads.map(lambda _: stack.enter_context(serve(url, **variables)), range(2)))
        yield Workers(settings_for(url, **changes), [server.url for server in servers])


@pytest.fixture
async def both(workers: Workers) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """A client of each worker."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client_of(url)) for url in workers.urls]


def client_of(url: str) -> httpx2.AsyncClient:
    """Return a client with a long timeout that keeps no connections, which a worker might close meanwhile."""
    return httpx2.AsyncClient(base_url=url, timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))


async def log_in(client: httpx2.AsyncClient, username: str) -> dict[str, Any]:
    """Log in and return the response's content."""
    answer = await client.post(f"{AUTH}/login", json={"username": username, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


async def refresh(client: httpx2.AsyncClient, token: str) -> httpx2.Response:
    """Exchange a refresh token."""
    return await client.post(f"{AUTH}/refresh", json={"refresh_token": token})


async def status(client: httpx2.AsyncClient, access_token: str) -> int:
    """Return the status of a request with an access token."""
    return (await client.get("/api/v1/projects?limit=1", headers=bearer(access_token))).status_code


async def check_ended(
    workers: Workers, both: list[httpx2.AsyncClient], ended: float, *access_tokens: str
) -> None:
    """Check that the tokens are rejected, after ``ended`` plus the delay that the store allows at the latest."""
    for client, token in itertools.product(both, access_tokens):
        while True:
            began = time.monotonic()
            outcome = await status(client, token)
            if outcome == 401:
                break
            assert (outcome, began - ended <= workers.seconds) == (200, True)
        assert await status(client, token) == 401


async def test_one_successor(workers: Workers, both: list[httpx2.AsyncClient]) -> None:
    """32 clients that exchange one token concurrently on two workers get the same successor, and it is valid."""
    issued = await log_in(both[0], await workers.new_user())
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=workers.urls[number % 2], timeout=30))
            for number in range(CLIENTS)
        ]
        await asyncio.gather(*(client.get("/api/v1/health/live") for client in clients))
        answers: Answers = await asyncio.gather(
            *(refresh(client, issued["refresh_token"]) for client in clients)
        )
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    successors = {answer.json()["refresh_token"] for answer in answers}
    assert len(successors) == 1
    assert {answer.json()["session_id"] for answer in answers} == {issued["session_id"]}
    for client in both:
        assert await status(client, answers[0].json()["access_token"]) == 200
    assert (await refresh(both[1], successors.pop())).status_code == 200


async def test_a_retry_gets_the_same(workers: Workers, both: list[httpx2.AsyncClient]) -> None:
    """A client that lost the response and retries on another worker gets the same successor again."""
    issued = await log_in(both[0], await workers.new_user())
    first = await refresh(both[0], issued["refresh_token"])
    again = await refresh(both[1], issued["refresh_token"])
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["refresh_token"] == first.json()["refresh_token"] != issued["refresh_token"]
    assert (await refresh(both[0], again.json()["refresh_token"])).status_code == 200


async def test_an_older_one_ends_everything(workers: Workers, both: list[httpx2.AsyncClient]) -> None:
    """Reuse of a token older than the previous one ends family, session and access tokens, on both workers."""
    name = await workers.new_user()
    issued = await log_in(both[0], name)
    bystander = await log_in(both[1], name)
    second = (await refresh(both[0], issued["refresh_token"])).json()
    third = (await refresh(both[1], second["refresh_token"])).json()
    access = [each["access_token"] for each in (issued, second, third)]
    for client, token in itertools.product(both, access):
        assert await status(client, token) == 200
    assert (await refresh(both[1], issued["refresh_token"])).status_code == 401
    await check_ended(workers, both, time.monotonic(), *access)
    for each in (issued, second, third):
        assert (await refresh(both[0], each["refresh_token"])).status_code == 401
    assert await status(both[0], bystander["access_token"]) == 200


@pytest.mark.parametrize("way", ["logout", "logout-all", "password", "sessions", "disabled", "host"])
async def test_an_end_holds_on_every_worker(
    workers: Workers, both: list[httpx2.AsyncClient], way: str
) -> None:
    """Each way to end sessions takes effect on both workers, also for access tokens that have not expired."""
    name = await workers.new_user()
    here, there = [await log_in(client, name) for client in both]
    plain = token_for(workers.settings, name)
    for client, token in itertools.product(both, (here["access_token"], there["access_token"], plain)):
        assert await status(client, token) == 200
    credentials = bearer(here["access_token"])
    ended, stays = [here, there], []
    if way == "disabled":
        await workers.disable(name)
    elif way == "host":  # in a process of the host that serves no requests
        kit = ProjKit(workers.settings)
        async with kit.lifespan():
            assert await kit.sessions.end_all(name) == 2
    elif way == "sessions":
        answer = await both[0].delete(f"{AUTH}/sessions/{there['session_id']}", headers=credentials)
        assert answer.status_code == 204
        ended, stays = [there], [here]
    else:
        change = {"old_password": PASSWORD, "new_password": "another horse battery"}
        answer = await both[0].post(
            f"{AUTH}/{way}", headers=credentials, json=change if way == "password" else None
        )
        assert answer.status_code == 204, answer.text
        if way != "logout-all":
            ended, stays = ([here], [there]) if way == "logout" else ([there], [here])
    moment = time.monotonic()
    await check_ended(workers, both, moment, *(each["access_token"] for each in ended))
    if way in {"logout-all", "password", "disabled", "host"}:  # older tokens without a session end with them
        await check_ended(workers, both, moment, plain)
    for each in ended:
        assert (await refresh(both[1], each["refresh_token"])).status_code == 401
    for each in stays:
        assert await status(both[1], each["access_token"]) == 200
        assert (await refresh(both[1], each["refresh_token"])).status_code == 200
    if way == "disabled":
        answer = await both[1].post(f"{AUTH}/login", json={"username": name, "password": PASSWORD})
        assert answer.status_code == 401
