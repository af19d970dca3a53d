"""Revocation of valid tokens: the check of the session, and the cached status of tokens without one."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from projkit import Principal
from projkit.auth.revocation import RevocationChecker
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.sessions.port import Session, sha256_hex
from projkit.auth.users import RevocationStatus, Users
from projkit.db.connect import open_database
from projkit.db.port import Database
from projkit.db.tables import build_tables
from projkit.errors import InvalidTokenError
from tests.auth.stores import Monotonic
from tests.auth.test_session_stores import session
from tests.conftest import Clock, settings_for

pytestmark = pytest.mark.anyio
IDLE = 3600
SECONDS = 0.5
TABLES = build_tables("projkit_")


class SlowUsers(Users):
    """Users whose responses wait until ``answers`` is set."""

    lookups = 0

    async def revocation_status(self, subject: str, tenant_id: str, token_hash: str) -> RevocationStatus:
        """Return the status as of the call, but later."""
        self.lookups += 1
        status = await super().revocation_status(subject, tenant_id, token_hash)
        self.started.set()
        await self.answers.wait()
        return status

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, TABLES, clock=clock)
        self.started, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    """The database behind it all."""
    opened = await open_database(settings_for(sqlite_url), TABLES)
    yield opened
    await opened.close()


@pytest.fixture
def users(database: Database, clock: Clock) -> SlowUsers:
    """The users."""
    return SlowUsers(database, clock)


@pytest.fixture
def sessions(database: Database) -> DatabaseSessions:
    """The sessions."""
    return DatabaseSessions(database, TABLES)


@pytest.fixture
def monotonic() -> Monotonic:
    """The clock of the cache."""
    return Monotonic()


@pytest.fixture
def check(
    sessions: DatabaseSessions, users: SlowUsers, clock: Clock, monotonic: Monotonic
) -> RevocationChecker:
    """The check."""
    return RevocationChecker(
        sessions, users, idle_seconds=IDLE, cache_seconds=SECONDS, clock=clock, monotonic=monotonic
    )


async def holds(check: RevocationChecker, principal: Principal) -> bool:
    """Return whether the token is still valid."""
    try:
        await check.check(principal, "a token")
    except InvalidTokenError:
        return False
    return True


def made_now(clock: Clock) -> Session:
    """A session of alice's, made at this moment, for a day at most."""
    now = clock.now
    return session(
        id_hash=sha256_hex("an id"), created_at=now, used_at=now, rotated_at=now,
        idle_expires_at=now + timedelta(seconds=IDLE), expires_at=now + timedelta(days=1),
    )  # fmt: skip


def plain(clock: Clock) -> Principal:
    """Alice, by a token without a session that was issued a minute ago."""
    return Principal("alice", claims={"iat": int((clock.now - timedelta(minutes=1)).timestamp())})


async def test_only_its_own_subject(
    check: RevocationChecker, sessions: DatabaseSessions, clock: Clock
) -> None:
    """A session is valid only for its own subject and tenant."""
    await sessions.create(made_now(clock))
    assert await holds(check, Principal("alice", session_id="an id"))
    assert not await holds(check, Principal("bob", session_id="an id"))
    assert not await holds(check, Principal("alice", session_id="an id", tenant_id="other"))
    assert not await holds(check, Principal("alice", session_id="another id"))


async def test_use_is_noted_now_and_then(
    check: RevocationChecker, sessions: DatabaseSessions, clock: Clock
) -> None:
    """Use extends a session, recorded at most once a minute, and never beyond its absolute end."""
    stored = made_now(clock)
    await sessions.create(stored)
    alice = Principal("alice", session_id="an id")
    clock.now += timedelta(seconds=50)
    assert await holds(check, alice)
    assert await sessions.get(stored.key, clock.now) == stored.activity
    clock.now += timedelta(seconds=20)
    assert await holds(check, alice)
    used = await sessions.get(stored.key, clock.now)
    assert used is not None
    assert used.idle_expires_at == used.used_at + timedelta(seconds=IDLE)
    while clock.now < stored.expires_at - timedelta(seconds=IDLE):
        clock.now += timedelta(seconds=IDLE - 60)
        assert await holds(check, alice)
    used = await sessions.get(stored.key, clock.now)
    assert used is not None
    assert used.idle_expires_at == stored.expires_at
    clock.now = stored.expires_at
    assert not await holds(check, alice)


async def test_idle_for_too_long(check: RevocationChecker, sessions: DatabaseSessions, clock: Clock) -> None:
    """A session that is not used expires."""
    await sessions.create(made_now(clock))
    clock.now += timedelta(seconds=IDLE)
    assert not await holds(check, Principal("alice", session_id="an id"))


async def test_a_token_without_a_session_is_asked_for_once_in_a_while(
    check: RevocationChecker, users: SlowUsers, clock: Clock, monotonic: Monotonic
) -> None:
    """A user's status is cached for a while; another worker's revocation takes effect after that."""
    alice = plain(clock)
    for _ in range(3):
        assert await holds(check, alice)
    assert users.lookups == 1
    await users.end_tokens("alice")  # by another worker
    monotonic.now += SECONDS - 0.01
    assert await holds(check, alice)
    monotonic.now += 0.01
    assert not await holds(check, alice)


@pytest.mark.parametrize("one_token", [True, False])
async def test_calling_back_holds_here_at_once(
    check: RevocationChecker, users: SlowUsers, clock: Clock, *, one_token: bool
) -> None:
    """A look-up in progress while this worker revokes is not cached, nor are earlier results."""
    alice = plain(clock)
    users.answers.clear()
    lookup = asyncio.create_task(holds(check, alice))
    await users.started.wait()
    if one_token:
        await check.revoke_token(alice, "a token")
    else:
        await users.end_tokens("alice")
        check.clear_cache()
    users.answers.set()
    assert await lookup
    assert not await holds(check, alice)
