"""While PostgreSQL or Redis is stopped, the validations end in bounded time and name what does not respond."""

import asyncio
import signal
import time

import pytest

from projkit import ProjKit
from projkit.errors import DatabaseUnavailableError, SessionStoreUnavailableError
from tests.auth.asgi_client import Answer, ask
from tests.conftest import settings_for
from tests.faults.conftest import Cluster
from tests.redis_servers import alone, running
from tests.validation.helpers import by_name, count_rows, failed

pytestmark = [
    pytest.mark.anyio,
    # asyncio leaves a socket to the garbage collector if a connect is cancelled at the moment of its success.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
URL = "/api/v1/monitoring/validate"
BOUND = 20.0  # seconds: 12 of steps and 3 of cleanup, or three checks of 6; and a busy machine
ALIVE = {"call getLiveness", "read the OpenAPI document", "read the public keys", "read the session"}


async def timed(kit: ProjKit, what: str) -> Answer:
    """Validate as a loopback client, which needs no credentials, and print the duration."""
    began = time.monotonic()
    answer = await ask(kit, "GET", f"{URL}/{what}", address="127.0.0.1")
    seconds = time.monotonic() - began
    print(f"{what}: {answer.status} after {seconds:.2f} s, failed: {sorted(failed(answer))}")  # noqa: T201
    assert seconds < BOUND
    return answer


async def until_ok(kit: ProjKit, what: str) -> None:
    """Repeat the validation until it succeeds."""
    ends = time.monotonic() + 30
    while (await timed(kit, what)).status != 200:
        assert time.monotonic() < ends
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("mode", ["fast", "transactional"])
async def test_postgresql_stopped_and_continued(cluster: Cluster, mode: str) -> None:
    """While PostgreSQL is stopped, only what uses it fails; once it continues, all succeeds and no rows are left."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncpg reports each lost connection
    kit = ProjKit(settings_for(cluster.url, database_mode=mode))
    async with kit.lifespan():
        before = await count_rows(cluster.url)
        for what in ("endpoints", "authentication"):
            assert (await timed(kit, what)).status == 200
        cluster.signal(signal.SIGSTOP)
        endpoints = await timed(kit, "endpoints")
        authentication = await timed(kit, "authentication")
        cluster.signal(signal.SIGCONT)
        assert (endpoints.status, authentication.status) == (503, 503)
        assert {"create", "list"} <= failed(endpoints)
        # An engine waits a second time for the connection that it discards.
        wanted = "database_unavailable" if mode == "fast" else ("database_unavailable", "timed out")
        assert by_name(endpoints)["create"]["detail"].startswith(wanted)
        assert not failed(endpoints) & ALIVE
        assert failed(authentication) == {"revocation", "session"}
        for name in ("revocation", "session"):
            assert by_name(authentication)[name]["detail"] == DatabaseUnavailableError.title
        for what in ("endpoints", "authentication"):
            await until_ok(kit, what)
        rows = await count_rows(cluster.url)
        assert (rows["projkit_projects"], rows["projkit_idempotency_keys"]) == (0, 0)
        # A session whose removal got no response expires within a minute.
        assert rows["projkit_sessions"] <= before["projkit_sessions"] + 1


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_redis_stopped(sqlite_url: str, number: signal.Signals) -> None:
    """With Redis stopped or killed, only the session check fails."""
    with running(alone) as servers:
        kit = ProjKit(settings_for(sqlite_url, redis_url=servers.url))
        async with kit.lifespan():
            before = await count_rows(sqlite_url)
            assert (await timed(kit, "authentication")).status == 200
            servers.masters[0].signal(number)
            authentication, endpoints = await asyncio.gather(
                timed(kit, "authentication"), timed(kit, "endpoints")
            )
            assert (authentication.status, failed(authentication)) == (503, {"session"})
            assert by_name(authentication)["session"]["detail"] == SessionStoreUnavailableError.title
            assert not failed(endpoints) & (ALIVE | {"create", "list", "delete again"})
            assert await count_rows(sqlite_url) == before
            if number is signal.SIGSTOP:
                servers.masters[0].signal(signal.SIGCONT)
                await until_ok(kit, "authentication")
