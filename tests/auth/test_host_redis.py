"""Redis clients that hosts bring, on a real server."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import redis as synchronous
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from projkit import ConfigurationError, ProjKit
from projkit.testing.servers import free_port
from tests.auth.asgi_client import ask
from tests.auth.users import AUTH, Browser, add_user, log_in
from tests.conftest import settings_for
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio
LAST_DATABASE = 15
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "text": {"decode_responses": True},
    "RESP3": {"protocol": 3},
    "RESP3 as text": {"protocol": 3, "decode_responses": True},
    "other database": {"db": LAST_DATABASE},
    "retries": {"retry": Retry(ExponentialBackoff(cap=10, base=1), 10), "socket_timeout": None},
    "one connection": {"single_connection_client": True},
}


@pytest.fixture(params=OPTIONS)
def client(request: pytest.FixtureRequest, redis_alone: Redises) -> Callable[[], Redis]:
    """Return a function that creates a client as a host would."""
    return lambda: Redis.from_url(redis_alone.url, **OPTIONS[request.param])


async def test_sessions_in_a_hosts_client(client: Callable[[], Redis], sqlite_url: str) -> None:
    """Sessions work the same with any options of the client, which the kit leaves open."""
    redis = client()
    settings = settings_for(sqlite_url, session_store="redis", redis_prefix=f"{uuid4().hex}:")
    kit = ProjKit(settings, redis=redis)
    async with kit.lifespan():
        await add_user(kit)
        browser = Browser(kit)
        await browser.log_in()
        assert (await browser.whoami()).status == 200
        assert (await browser.send("POST", f"{AUTH}/refresh")).status == 200
        # Concurrent commands, of which some are cancelled, must not mix up replies.
        asked = [asyncio.create_task(browser.send("GET", f"{AUTH}/sessions")) for _ in range(10)]
        await asyncio.sleep(0)
        for task in asked[::3]:
            task.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {each.status for each in answers if not isinstance(each, BaseException)} == {200}
        assert any(isinstance(each, BaseException) for each in answers)
        assert (await browser.send("POST", f"{AUTH}/logout")).status == 204
        assert (await browser.send("GET", f"{AUTH}/sessions")).status == 401
        health = await ask(kit, "GET", "/api/v1/health")
        assert health.json()["redis_connection"] == "ok"
        info = await ask(kit, "GET", "/api/v1/monitoring/system/info", address="127.0.0.1")
        assert info.json()["enabled"]["sessions"] == "redis"
    assert await redis.ping()
    await redis.aclose()


async def test_retries_of_a_hosts_client_are_bounded(sqlite_url: str) -> None:
    """Without a server, a client that retries for a minute ends in a 503 all the same."""
    redis = Redis(port=free_port(), **OPTIONS["retries"])
    kit = ProjKit(settings_for(sqlite_url), redis=redis)
    async with asyncio.timeout(30), kit.lifespan():
        await add_user(kit)
        answer = await log_in(kit)
        assert (answer.status, answer.json()["code"]) == (503, "session_store_unavailable")
    await redis.aclose()


async def _coroutine() -> Redis:
    raise AssertionError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (synchronous.Redis(), r"not a synchronous Redis; create another client for the kit: redis\.asyncio\.Redis"),
        (synchronous.Redis, r"not redis\.client\.Redis; create one with"),
        ("redis://127.0.0.1", "not a URL; set PROJKIT_REDIS_URL"),
        (ConnectionPool(), r"not redis\.asyncio\.connection\.ConnectionPool; create one with"),
        (Redis().pipeline(), r"not redis\.asyncio\.client\.Pipeline"),
        (partial(synchronous.Redis), "not a synchronous Redis"),
        (_coroutine, "not a coroutine function"),
        (lambda: None, "NoneType; create one with"),
    ],
)  # fmt: skip
async def test_other_objects_are_rejected_by_name(given: Any, message: str, sqlite_url: str) -> None:
    """What is not an asynchronous client is rejected at startup, with the call that creates one."""
    kit = ProjKit(settings_for(sqlite_url), redis=given)
    with pytest.raises(ConfigurationError, match=message):
        await kit.startup()
