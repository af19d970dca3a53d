"""The session cache: what it may contain, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from projkit.auth.sessions.cached import CachedSessions
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.sessions.port import SessionActivity, SessionKey
from projkit.db.connect import open_database
from projkit.db.tables import tables_of
from tests.auth.stores import Monotonic
from tests.auth.test_session_stores import IDLE, NOW, rotation, session
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio
SECONDS = 0.5


class SlowStore(DatabaseSessions):
    """A store that counts look-ups and whose responses wait until ``answers`` is set."""

    looked_up = 0

    def __init__(self, store: DatabaseSessions) -> None:
        self.__dict__.update(store.__dict__)
        self.started = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def get(self, key: SessionKey, now: datetime) -> SessionActivity | None:
        """Return the state at the time of the call, later."""
        self.looked_up += 1
        activity = await super().get(key, now)
        self.started.set()
        await self.answers.wait()
        return activity


@pytest.fixture
async def slow(sqlite_url: str) -> AsyncIterator[SlowStore]:
    """The store behind the cache."""
    settings = settings_for(sqlite_url)
    tables = tables_of(settings)
    database = await open_database(settings, tables)
    yield SlowStore(DatabaseSessions(database, tables))
    await database.close()


@pytest.fixture
def monotonic() -> Monotonic:
    """The cache's clock."""
    return Monotonic()


@pytest.fixture
def store(slow: SlowStore, monotonic: Monotonic) -> CachedSessions:
    """The cache."""
    return CachedSessions(slow, seconds=SECONDS, monotonic=monotonic)


async def test_asked_once_in_a_while(store: CachedSessions, slow: SlowStore, monotonic: Monotonic) -> None:
    """A session is looked up once within the cache's time, and again after it."""
    stored = session()
    await store.create(stored)
    for _ in range(5):
        assert await store.get(stored.key, NOW) == stored.activity
    assert slow.looked_up == 1
    monotonic.now += SECONDS - 0.01
    await store.get(stored.key, NOW)
    assert slow.looked_up == 1
    monotonic.now += 0.01
    await store.get(stored.key, NOW)
    assert slow.looked_up == 2


async def test_absence_is_not_remembered(store: CachedSessions) -> None:
    """A missing session is not cached: it is found as soon as it exists."""
    stored = session()
    assert await store.get(stored.key, NOW) is None
    await store.create(stored)
    assert await store.get(stored.key, NOW) == stored.activity


async def test_its_lifetimes_end_all_the_same(store: CachedSessions) -> None:
    """A cached session expires on time."""
    stored = session()
    await store.create(stored)
    assert await store.get(stored.key, NOW) == stored.activity
    assert await store.get(stored.key, IDLE) is None


async def test_the_age_counts_from_before_the_look_up(
    store: CachedSessions, slow: SlowStore, monotonic: Monotonic
) -> None:
    """The age of a slow look-up counts from its start, so a session that ended meanwhile is not valid for
    longer.
    """
    stored = session()
    await store.create(stored)
    slow.answers.clear()
    lookup = asyncio.create_task(store.get(stored.key, NOW))
    await slow.started.wait()
    await slow.revoke(stored.key)  # by another worker
    monotonic.now += SECONDS
    slow.answers.set()
    assert await lookup == stored.activity
    assert await store.get(stored.key, NOW) is None


@pytest.mark.parametrize("everywhere", [False, True])
async def test_ending_it_here_holds_here_at_once(
    store: CachedSessions, slow: SlowStore, *, everywhere: bool
) -> None:
    """A look-up in progress while this worker ends the session is not cached, nor is an earlier result."""
    stored = session()
    await store.create(stored)
    assert await store.get(stored.key, NOW) == stored.activity
    fresh = session()
    await store.create(fresh)
    slow.started.clear()
    slow.answers.clear()
    lookup = asyncio.create_task(store.get(fresh.key, NOW))
    await slow.started.wait()
    if everywhere:
        assert await store.revoke_all("", "alice") == 2
    else:
        assert await store.revoke(stored.key)
        assert await store.revoke(fresh.key)
    slow.answers.set()
    assert await lookup == fresh.activity
    assert await store.get(stored.key, NOW) is None
    assert await store.get(fresh.key, NOW) is None


async def test_use_and_refresh_are_seen(store: CachedSessions, slow: SlowStore) -> None:
    """A touch updates the cached session, and a refresh causes a new look-up."""
    stored = session()
    await store.create(stored)
    await store.get(stored.key, NOW)
    later = NOW + timedelta(minutes=5)
    await store.touch(stored.key, later, IDLE)
    used = await store.get(stored.key, later)
    assert used is not None
    assert used.used_at == later
    assert await store.rotate(stored.key, rotation(stored, "new", later))
    looked_up = slow.looked_up
    present = await store.get(stored.key, later)
    assert present is not None
    assert present.idle_expires_at == later + timedelta(hours=1)
    assert slow.looked_up == looked_up + 1


async def test_the_cache_is_bounded(slow: SlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache holds a limited number of sessions; evicted ones are looked up again."""
    monkeypatch.setattr("projkit.auth.sessions.cached._MAX_CACHED", 3)
    store = CachedSessions(slow, seconds=60)
    sessions = [session() for _ in range(5)]
    for each in sessions:
        await store.create(each)
        await store.get(each.key, NOW)
    for each in (*sessions[2:], *sessions[:2]):
        await store.get(each.key, NOW)
    assert slow.looked_up == 5 + 2
