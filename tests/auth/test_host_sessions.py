"""``kit.sessions``: a host ends the access of its users at once, from any event loop."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from projkit import Principal, ProjKit
from projkit.errors import InvalidCursorError, NotFoundError
from tests.auth.guards.client import bearer, http
from tests.auth.guards.guarded import JSON, legacy_token, make_settings, token
from tests.auth.guards.test_host_users import log_in
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio

SESSION = "/api/v1/auth/session"


@pytest.fixture(params=["database", "redis"])
def changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of each session store; each worker looks sessions up in Redis at each request."""
    if request.param == "database":
        return {}
    return {
        "redis_url": request.getfixturevalue("redis_alone").url,
        "redis_prefix": f"{uuid4().hex}:",
        "session_cache_seconds": 0,
    }


def authenticate(username: str, password: str) -> Principal | None:
    """Authenticate the host's users: any name."""
    return Principal(username) if password == "right" else None


def make(url: str, changes: dict[str, Any], **options: Any) -> ProjKit:
    """Create a worker of a host with its own users, and legacy tokens."""
    legacy = {name: getattr(make_settings(url), name) for name in ("legacy_secret", "allowed_origins")}
    return ProjKit(settings_for(url, **legacy, **changes), authenticate=authenticate, **options)


@asynccontextmanager
async def two_workers(url: str, changes: dict[str, Any]) -> AsyncIterator[tuple[ProjKit, ProjKit]]:
    """Two workers of one host."""
    first, second = make(url, changes), make(url, changes)
    async with first.lifespan(), second.lifespan():
        yield first, second


async def status(kit: ProjKit, access: str) -> int:
    """Return the status of a request with this token."""
    return (await http(kit, SESSION, headers=bearer(access))).status


async def refresh(kit: ProjKit, issued: dict[str, Any]) -> int:
    """Return the status of a refresh."""
    body = json.dumps({"refresh_token": issued["refresh_token"]}).encode()
    return (await http(kit, "/api/v1/auth/refresh", method="POST", headers=JSON, body=body)).status


async def test_all_access_ends_at_once_on_every_worker(
    any_database_url: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """end_all ends sessions with their unexpired access tokens, and tokens without a session, and no one else's."""
    caplog.set_level(logging.INFO, "projkit.auth")
    async with two_workers(any_database_url, changes) as (one, other):
        mine = [(await log_in(kit, "alice", "right")).json() for kit in (one, other)]
        bobs = (await log_in(one, "bob", "right")).json()
        tokens = [*(each["access_token"] for each in mine), token(one), legacy_token()]
        assert [await status(kit, each) for each in tokens for kit in (one, other)] == [200] * 8
        assert await one.sessions.end_all("alice") == 2
        assert [await status(kit, each) for each in tokens for kit in (one, other)] == [401] * 8
        assert [await refresh(other, each) for each in mine] == [401, 401]
        assert (await status(other, bobs["access_token"]), await refresh(other, bobs)) == (200, 200)
        assert await other.sessions.end_all("alice") == 0
        again = (await log_in(other, "alice", "right")).json()
        assert await status(one, again["access_token"]) == 200
    messages = [each.getMessage() for each in caplog.records if each.name == "projkit.auth"]
    assert messages == [f"all access of the subject 'alice' was ended, with {n} sessions" for n in (2, 0)]


async def test_one_session_is_kept_or_ended(any_database_url: str, changes: dict[str, Any]) -> None:
    """list returns a subject's sessions without secrets, end ends one of them, and end_all can keep one."""
    async with two_workers(any_database_url, changes) as (one, other):
        issued = [(await log_in(one, "alice", "right")).json() for _ in range(3)]
        ids = [each["session_id"] for each in issued]
        listed = (await other.sessions.list("alice")).items
        assert {each.id for each in listed} == set(ids)
        assert {each.transport for each in listed} == {"body"}
        assert all(each.created_at <= each.used_at < each.expires_at for each in listed)
        await other.sessions.end("alice", ids[0])
        assert [await status(one, each["access_token"]) for each in issued] == [401, 200, 200]
        for subject, session_id in (("alice", ids[0]), ("bob", ids[1]), ("alice", "none")):
            with pytest.raises(NotFoundError):
                await one.sessions.end(subject, session_id)
        assert await one.sessions.end_all("alice", keep=ids[2]) == 1
        assert [await status(other, each["access_token"]) for each in issued] == [401, 401, 200]
        assert (await one.sessions.list("bob")).items == []


async def test_pages(any_database_url: str, changes: dict[str, Any]) -> None:
    """A list has pages; a cursor belongs to its subject and tenant, and a limit to its range."""
    async with two_workers(any_database_url, changes) as (one, other):
        ids = [(await log_in(one, "alice", "right")).json()["session_id"] for _ in range(5)]
        first = await one.sessions.list("alice", limit=3)
        second = await other.sessions.list("alice", limit=3, cursor=first.next_cursor)
        assert [each.id for each in (*first.items, *second.items)] == ids[::-1]
        assert second.next_cursor is None
        for subject, tenant in (("bob", ""), ("alice", "acme")):
            with pytest.raises(InvalidCursorError):
                await one.sessions.list(subject, tenant_id=tenant, cursor=first.next_cursor)
        for limit in (0, 101):
            with pytest.raises(ValueError, match="limit must be from 1 to 100"):
                await one.sessions.list("alice", limit=limit)


async def test_tenants_are_apart(any_database_url: str, changes: dict[str, Any]) -> None:
    """A subject is ended in its tenant only."""

    def of_tenant(username: str, password: str) -> Principal:
        return Principal(username, tenant_id=password)

    settings = settings_for(any_database_url, tenant_claim="org", **changes)
    kit = ProjKit(settings, authenticate=of_tenant)
    async with kit.lifespan():
        issued = [(await log_in(kit, "alice", each, tenant=each)).json() for each in ("acme", "globex")]
        assert await kit.sessions.end_all("alice", tenant_id="acme") == 1
        assert [await status(kit, each["access_token"]) for each in issued] == [401, 200]
        assert len((await kit.sessions.list("alice", tenant_id="globex")).items) == 1


async def test_from_a_thread_and_from_a_task(any_database_url: str, changes: dict[str, Any]) -> None:
    """A Celery task or a thread ends access from an event loop of its own, while the kit serves on another one."""
    kit = make(any_database_url, changes)
    async with kit.lifespan():
        issued = (await log_in(kit, "alice", "right")).json()

        async def task() -> int:
            async with kit.lifespan():
                return await kit.sessions.end_all("alice")

        assert await asyncio.to_thread(asyncio.run, task()) == 1
        assert await status(kit, issued["access_token"]) == 401


async def test_a_lifespan_within_a_running_kit(any_database_url: str) -> None:
    """A task that enters the lifespan on the loop of a server that has started the kit does not stop it."""
    kit = make(any_database_url, {})
    await kit.startup()
    async with kit.lifespan():
        await kit.sessions.end_all("alice")
    assert kit.ready
    await kit.shutdown()
    assert not kit.ready


async def test_a_login_in_progress(any_database_url: str, changes: dict[str, Any]) -> None:
    """A login whose password was verified before all access was ended does not open a session afterwards."""
    kit = make(any_database_url, changes)

    async def slow(username: str, password: str) -> Principal | None:
        await kit.sessions.end_all(username)
        return authenticate(username, password)

    kit = make(any_database_url, changes)
    racing = ProjKit(kit.settings, authenticate=slow)
    async with kit.lifespan(), racing.lifespan():
        for _ in range(2):  # without a row of the user, and with one
            assert (await log_in(racing, "alice", "right")).status == 401
        assert (await kit.sessions.list("alice")).items == []
        assert (await log_in(kit, "alice", "right")).status == 200


@pytest.mark.parametrize("subject", ["", "a\0b", "x" * 256])
async def test_a_subject_that_cannot_be_one(any_database_url: str, subject: str) -> None:
    """A subject that no token can have is a programming error of the host, not an empty success."""
    kit = make(any_database_url, {})
    async with kit.lifespan():
        with pytest.raises(ValueError, match="subject"):
            await kit.sessions.end_all(subject)
