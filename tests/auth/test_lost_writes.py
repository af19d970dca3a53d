"""Redis loses its last writes, as after a crash or a failover, and brings back sessions that had ended."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
import redis

from projkit import ProjKit
from tests.auth.asgi_client import Header, ask, bearer
from tests.auth.test_refresh import is_live, refresh
from tests.auth.users import AUTH, PASSWORD, ShiftedClock, add_user, auth_services, log_in
from tests.conftest import kit_in_mode
from tests.redis_servers import Redises

pytestmark = pytest.mark.anyio

Login = dict[str, Any]


class Backup:
    """The keys of a kit in Redis, as they were when the backup was made."""

    def __init__(self, servers: Redises, prefix: str) -> None:
        self._client = redis.Redis.from_url(servers.url)
        self._content = {key: self._client.dump(key) for key in self._client.scan_iter(f"{prefix}*")}

    def restore(self) -> None:
        """Put them back; everything else stays."""
        for key, content in self._content.items():
            self._client.restore(key, 600_000, content, replace=True)  # type: ignore[arg-type]
        self._client.close()


@pytest.fixture
def prefix() -> str:
    """The prefix of the kit's keys in Redis."""
    return f"{uuid4().hex}:"


@asynccontextmanager
async def kit_on(url: str, servers: Redises, prefix: str) -> AsyncIterator[ProjKit]:
    """A kit that keeps its sessions in Redis, with a user, and looks them up at each request."""
    settings = {"redis_url": servers.url, "redis_prefix": prefix, "session_cache_seconds": 0}
    async with kit_in_mode("fast", url, options={}, **settings) as kit:
        await add_user(kit)
        yield kit


async def _send(kit: ProjKit, method: str, path: str, by: Header, **content: Any) -> None:
    answer = await ask(kit, method, f"{AUTH}{path}", [by], **content)
    assert answer.status == 204, answer


async def log_out(kit: ProjKit, lost: Login, mine: Login) -> None:
    """End the session by its own token."""
    await _send(kit, "POST", "/logout", bearer(lost["access_token"]))


async def log_out_by_refresh_token(kit: ProjKit, lost: Login, mine: Login) -> None:
    """End the session by its refresh token, as after the access token has expired."""
    await auth_services(kit).sessions.end_by_refresh_token(lost["refresh_token"])


async def end_one(kit: ProjKit, lost: Login, mine: Login) -> None:
    """End the session from another one."""
    await _send(kit, "DELETE", f"/sessions/{lost['session_id']}", bearer(mine["access_token"]))


async def change_password(kit: ProjKit, lost: Login, mine: Login) -> None:
    """End all sessions but the one that changes the password."""
    content = {"old_password": PASSWORD, "new_password": "another horse battery"}
    await _send(kit, "POST", "/password", bearer(mine["access_token"]), json=content)


async def end_others(kit: ProjKit, lost: Login, mine: Login) -> None:
    """End all sessions but one, by the host."""
    assert await kit.sessions.end_all("alice", keep=mine["session_id"]) == 1


async def end_others_twice(kit: ProjKit, lost: Login, mine: Login) -> None:
    """End all sessions but one, and again."""
    await end_others(kit, lost, mine)
    assert await kit.sessions.end_all("alice", keep=mine["session_id"]) == 0


async def replay(kit: ProjKit, lost: Login, mine: Login) -> None:
    """Send a refresh token that is none of the session's, which ends it."""
    first = await refresh(kit, lost["refresh_token"])
    await refresh(kit, first.json()["refresh_token"])
    assert (await refresh(kit, lost["refresh_token"])).status == 401


End = Callable[[ProjKit, Login, Login], Awaitable[None]]


@pytest.mark.parametrize(
    "end", [log_out, log_out_by_refresh_token, end_one, change_password, end_others, end_others_twice, replay]
)
async def test_an_ended_session_is_not_refreshed(
    any_database_url: str, redis_alone: Redises, prefix: str, end: End
) -> None:
    """A session that had ended before the loss cannot be refreshed and ends again; one that was kept goes on."""
    async with kit_on(any_database_url, redis_alone, prefix) as kit:
        lost, mine = (await log_in(kit)).json(), (await log_in(kit)).json()
        backup = Backup(redis_alone, prefix)
        await end(kit, lost, mine)
        backup.restore()
        assert await is_live(kit, lost["access_token"])
        assert (await refresh(kit, lost["refresh_token"])).status == 401
        assert not await is_live(kit, lost["access_token"])
        assert (await refresh(kit, mine["refresh_token"])).status == 200


async def log_out_everywhere(kit: ProjKit) -> None:
    """End all sessions by the user."""
    token = (await log_in(kit)).json()["access_token"]
    await _send(kit, "POST", "/logout-all", bearer(token))


async def end_all(kit: ProjKit) -> None:
    """End all sessions by the host."""
    await kit.sessions.end_all("alice")


async def disable_and_enable(kit: ProjKit) -> None:
    """Disable the user for a moment."""
    for disabled in (True, False):
        await auth_services(kit).users.set_disabled("alice", disabled=disabled)
    await auth_services(kit).sessions.end_all("", "alice")


@pytest.mark.parametrize("end", [log_out_everywhere, end_all, disable_and_enable])
async def test_no_session_from_before_is_refreshed(
    any_database_url: str, redis_alone: Redises, prefix: str, end: Callable[[ProjKit], Awaitable[None]]
) -> None:
    """After the end of all sessions none from before can be refreshed, not even one that was kept earlier."""
    async with kit_on(any_database_url, redis_alone, prefix) as kit:
        before = (await log_in(kit)).json()
        await kit.sessions.end_all("alice", keep=before["session_id"])
        backup = Backup(redis_alone, prefix)
        await end(kit)
        later = (await log_in(kit)).json()
        assert (await refresh(kit, later["refresh_token"])).status == 200
        backup.restore()
        assert (await refresh(kit, before["refresh_token"])).status == 401


async def test_a_clock_that_is_behind(
    sqlite_url: str, redis_alone: Redises, prefix: str, shifted_clock: ShiftedClock
) -> None:
    """A login after a revocation by a server whose clock is ahead can be refreshed."""
    async with kit_on(sqlite_url, redis_alone, prefix) as kit:
        shifted_clock.advance(seconds=2)
        await kit.sessions.end_all("alice")
        shifted_clock.advance(seconds=-2)
        later = (await log_in(kit)).json()
        assert (await refresh(kit, later["refresh_token"])).status == 200
