"""Stores of sessions: one contract, held by the database and by Redis in each form, and by the cache before it."""

import asyncio
import base64
import dataclasses
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from projkit.auth.sessions.port import (
    MAX_EXCESS,
    ListPosition,
    Rotation,
    Session,
    SessionKey,
    SessionStore,
    sha256_hex,
)
from projkit.redis import connect
from tests.auth.stores import STORES, StoreUnderTest, open_store, patient, servers_of
from tests.faults.fault_scenario import fault_scenario
from tests.redis_servers import Redises, RedisServer

__all__ = ["patient"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient")]

NOW = datetime(2026, 6, 15, 12, 0, 0, 123457, tzinfo=UTC)
IDLE, ENDS = NOW + timedelta(hours=1), NOW + timedelta(days=1)
MOMENT = timedelta(microseconds=1)
LATER = NOW + timedelta(seconds=1)
KEYS = ("sessions", "sessions-by-age")  # in Redis, of each subject
MANY = 1000  # more sessions than a test stores


@pytest.fixture(params=STORES)
def named_servers(request: pytest.FixtureRequest) -> tuple[str, Redises | str]:
    """Return the name of each session store, and its servers or database URL."""
    return request.param, servers_of(request.param, request)


@pytest.fixture
async def backend(named_servers: tuple[str, Redises | str]) -> AsyncIterator[StoreUnderTest]:
    """Each backend, open."""
    async with open_store(*named_servers) as opened:
        yield opened


@pytest.fixture
async def store(backend: StoreUnderTest) -> SessionStore:
    """One worker's store."""
    return await backend.worker()


@pytest.fixture
async def other(backend: StoreUnderTest) -> SessionStore:
    """Another worker's store over the same sessions."""
    return await backend.worker()


def session(subject: str = "alice", **changes: Any) -> Session:
    """Create a session that is not stored yet."""
    default = Session(
        tenant_id="", id_hash=sha256_hex(secrets.token_hex()), seed=secrets.token_hex(), subject=subject,
        scopes=("projects:read", "projects:write"), transport="cookie", user_agent="Mozilla/5.0 (X11)",
        address="192.0.2.1", refresh_hash=sha256_hex(secrets.token_hex()), parent_hash=None, generation=0,
        rotated_at=NOW, created_at=NOW, used_at=NOW, idle_expires_at=IDLE, expires_at=ENDS,
    )  # fmt: skip
    return dataclasses.replace(default, **changes)


def rotation(of: Session, new: str, at: datetime = NOW, **changes: Any) -> Rotation:
    """Return an exchange of the current refresh token of a session."""
    default = Rotation(of.refresh_hash, sha256_hex(new), of.generation + 1, at, at + timedelta(hours=1))
    return dataclasses.replace(default, **changes)


async def ids(store: SessionStore, subject: str = "alice", now: datetime = NOW) -> set[str]:
    """Return the hashes of the ids of a subject's live sessions."""
    return {each.id_hash for each in await store.list("", subject, now, limit=MANY)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"user_agent": 'quo"te / sol\\idus \x1b[0m ümlaut 漢字 😀', "address": "2001:db8::1"},
        {"scopes": (), "user_agent": "", "address": "", "generation": 2**31 - 1},
        {"parent_hash": sha256_hex("parent"), "tenant_id": "tenant:{a}", "subject": "a b}{:*\n"},
    ],
)
async def test_kept_as_it_is(store: SessionStore, other: SessionStore, changes: dict[str, Any]) -> None:
    """A session stored by one worker is read by another, to the microsecond and with any text."""
    stored = session(**changes)
    await store.create(stored)
    assert await other.get(stored.key, NOW) == stored.activity
    assert await other.get_fresh(stored.key, NOW) == stored
    assert await other.list(stored.tenant_id, stored.subject, NOW, limit=MANY) == [stored]


async def test_sessions_of_other_subjects_are_invisible(store: SessionStore) -> None:
    """Sessions of two subjects, and of one name in two tenants, are listed and ended apart."""
    mine, hers, elsewhere = session(), session("bob"), session(tenant_id="other")
    for each in (mine, hers, elsewhere):
        await store.create(each)
    assert await store.list("", "alice", NOW, limit=MANY) == [mine]
    assert await store.list("other", "alice", NOW, limit=MANY) == [elsewhere]
    assert await store.get(SessionKey("other", elsewhere.key.subject_hash, mine.id_hash), NOW) is None
    assert await store.get(SessionKey("", mine.key.subject_hash, sha256_hex("another id")), NOW) is None
    assert await store.revoke_all("", "alice") == 1
    assert await store.get(mine.key, NOW) is None
    assert await store.get(hers.key, NOW) == hers.activity
    assert await store.get(elsewhere.key, NOW) == elsewhere.activity


async def test_newest_first(store: SessionStore) -> None:
    """The sessions of a subject are listed newest first."""
    sessions = [session(created_at=NOW + number * MOMENT) for number in (2, 0, 1)]
    for each in sessions:
        await store.create(each)
    listed = [each.created_at for each in await store.list("", "alice", NOW, limit=MANY)]
    assert listed == [NOW + number * MOMENT for number in (2, 1, 0)]


async def pages(store: SessionStore, limit: int, now: datetime = NOW) -> list[Session]:
    """Return the sessions of all pages."""
    sessions: list[Session] = []
    after = None
    while page := await store.list("", "alice", now, limit=limit, after=after):
        assert len(page) <= limit
        sessions += page
        after = ListPosition(page[-1].created_at, page[-1].id_hash)
    return sessions


async def test_pages(store: SessionStore, other: SessionStore) -> None:
    """Pages continue after any session, also one that has ended or was created in the same microsecond."""
    made = [session(created_at=NOW + number // 3 * MOMENT) for number in range(14)]
    for each in made:
        await store.create(each)
    await store.create(session("bob"))
    expected = sorted(made, key=lambda each: (each.created_at, each.id_hash), reverse=True)
    for limit in (1, 3, 14, 20):
        assert await pages(other, limit) == expected
    await store.revoke(expected[4].key)
    after = ListPosition(expected[4].created_at, expected[4].id_hash)
    assert await other.list("", "alice", NOW, limit=2, after=after) == expected[5:7]


async def test_sessions_in_excess(store: SessionStore, other: SessionStore) -> None:
    """A new session returns the oldest others above the limit, and stays although its server's clock is behind."""
    made = [session(created_at=NOW + number * MOMENT) for number in (3, 0, 1, 2)]
    for each in made:
        assert await store.create(each) == []
    assert await store.create(session("bob"), limit=1) == []
    new = session(created_at=NOW - MOMENT)
    excess = await other.create(new, limit=3)
    assert sorted(excess, key=lambda each: each.created_at) == made[1:3]
    assert await ids(store) == {each.id_hash for each in (*made, new)}
    for each in excess:
        await other.revoke(each.key)
    assert await store.create(session(created_at=NOW + 9 * MOMENT), limit=4) == []


async def test_concurrent_logins_leave_as_many_sessions_as_allowed(
    store: SessionStore, other: SessionStore
) -> None:
    """Of 32 sessions that two workers create at once, the limit remains when each has ended what was returned."""

    async def create(worker: SessionStore) -> None:
        for excess in await worker.create(session(), limit=3):
            await worker.revoke(excess.key)

    await asyncio.gather(*(create((store, other)[number % 2]) for number in range(32)))
    assert len(await ids(store)) == 3


async def test_a_login_ends_a_bounded_number(store: SessionStore) -> None:
    """If a subject has many more sessions than the limit, each new session returns a hundred of them."""
    for number in range(MAX_EXCESS + 5):
        await store.create(session(created_at=NOW + number * MOMENT))
    assert len(await store.create(session(created_at=LATER), limit=2)) == MAX_EXCESS


async def test_ended_sessions_fill_no_page(backend: StoreUnderTest, store: SessionStore) -> None:
    """A page is full although hundreds of newer sessions have ended."""
    lasting = [session(created_at=NOW - (number + 1) * MOMENT) for number in range(2)]
    for each in (*lasting, *(session(idle_expires_at=NOW + MOMENT) for _ in range(450))):
        await store.create(each)
    assert await store.list("", "alice", NOW + MOMENT, limit=1) == lasting[:1]
    assert await pages(await backend.worker(), 20, NOW + MOMENT) == lasting


@pytest.mark.parametrize("end", ["idle_expires_at", "expires_at"])
async def test_either_lifetime_ends_it(store: SessionStore, end: str) -> None:
    """At the end of either lifetime, a session cannot be read, listed, touched or rotated."""
    ends = NOW + timedelta(minutes=5)
    stored = session(idle_expires_at=ends, expires_at=ends if end == "expires_at" else ENDS)
    await store.create(stored)
    assert await store.get(stored.key, ends - MOMENT) == stored.activity
    assert await store.get(stored.key, ends) is None
    assert await store.get_fresh(stored.key, ends) is None
    assert await ids(store, now=ends) == set()
    await store.touch(stored.key, ends, ends + timedelta(hours=1))
    assert not await store.rotate(stored.key, rotation(stored, "new", ends))
    assert await store.get_fresh(stored.key, ends) is None


async def test_use_prolongs_it(store: SessionStore, other: SessionStore) -> None:
    """A touch changes the idle end and nothing else."""
    stored = session()
    await store.create(stored)
    later, idle = NOW + timedelta(minutes=50), NOW + timedelta(hours=2)
    await store.touch(stored.key, later, idle)
    used = dataclasses.replace(stored, used_at=later, idle_expires_at=idle)
    assert await store.get(stored.key, later) == used.activity
    assert await other.get(stored.key, IDLE) == used.activity
    assert await other.get_fresh(stored.key, IDLE) == used
    assert await other.get(stored.key, idle) is None


async def test_what_is_gone_stays_gone(backend: StoreUnderTest, store: SessionStore) -> None:
    """Neither a touch nor a refresh restores a revoked session or leaves a part of it."""
    stored = session()
    await store.create(stored)
    assert await store.revoke(stored.key)
    await store.touch(stored.key, NOW, ENDS)
    assert not await store.rotate(stored.key, rotation(stored, "new"))
    assert await store.get(stored.key, NOW) is None
    assert await ids(store) == set()
    assert stored.id_hash not in await backend.everything()


async def test_rotation(store: SessionStore, other: SessionStore) -> None:
    """An exchange happens only from the present token, and leaves its trace."""
    stored = session()
    await store.create(stored)
    at = NOW + timedelta(minutes=1)
    wrong = rotation(stored, "new", at, expected_hash=sha256_hex("another"))
    assert not await store.rotate(stored.key, wrong)
    assert await other.get_fresh(stored.key, NOW) == stored
    assert await store.rotate(stored.key, rotation(stored, "new", at))
    assert await other.get_fresh(stored.key, at) == dataclasses.replace(
        stored, refresh_hash=sha256_hex("new"), parent_hash=stored.refresh_hash, generation=1, rotated_at=at,
        used_at=at, idle_expires_at=at + timedelta(hours=1),
    )  # fmt: skip
    assert not await other.rotate(stored.key, rotation(stored, "another new", at))


async def test_one_rotation_wins(store: SessionStore, other: SessionStore) -> None:
    """Of 32 concurrent exchanges of one token on two workers, exactly one succeeds, and its result is stored."""
    stored = session()
    await store.create(stored)
    done = await asyncio.gather(
        *(
            (store, other)[number % 2].rotate(stored.key, rotation(stored, f"new {number}"))
            for number in range(32)
        )
    )
    assert sum(done) == 1
    present = await store.get_fresh(stored.key, NOW)
    assert present is not None
    assert (present.refresh_hash, present.generation) == (sha256_hex(f"new {done.index(True)}"), 1)


async def test_revocation(backend: StoreUnderTest, store: SessionStore, other: SessionStore) -> None:
    """An ended session is invalid at once on its worker, elsewhere within the cache's time; the others stay."""
    ended, stays = session(), session()
    for each in (ended, stays):
        await store.create(each)
        assert await store.get(each.key, NOW) == await other.get(each.key, NOW) == each.activity
    assert await store.revoke(ended.key)
    assert not await store.revoke(ended.key)
    assert await store.get(ended.key, NOW) is None
    assert await other.get_fresh(ended.key, NOW) is None
    backend.other_workers_learn()
    assert await other.get(ended.key, NOW) is None
    assert await other.get(stays.key, NOW) == stays.activity
    assert await ids(other) == {stays.id_hash}


async def test_everywhere_but_here(backend: StoreUnderTest, store: SessionStore, other: SessionStore) -> None:
    """All sessions of a subject end at once, on every worker, but for the one to keep."""
    made = [session() for _ in range(5)]
    for each in made:
        await store.create(each)
        await store.get(each.key, NOW)
        await other.get(each.key, NOW)
    assert await store.revoke_all("", "alice", keep=made[2].id_hash) == 4
    assert [await store.get(each.key, NOW) for each in made] == [None, None, made[2].activity, None, None]
    backend.other_workers_learn()
    assert [await other.get(each.key, NOW) for each in made] == [None, None, made[2].activity, None, None]
    assert await ids(other) == {made[2].id_hash}
    assert await other.revoke_all("", "alice") == 1
    assert await other.revoke_all("", "alice") == 0
    assert await ids(store) == set()


async def test_log_out_everywhere_misses_no_session(store: SessionStore, other: SessionStore) -> None:
    """During logins, refreshes and touches, revoke_all ends all earlier sessions, and list returns the live
    ones.
    """
    made = [session() for _ in range(24)]
    before = made[:12]
    for each in before:
        await store.create(each)
    await asyncio.gather(
        *(store.create(each) for each in made[12:18]),
        *(store.touch(each.key, NOW, IDLE) for each in before),
        *(store.rotate(each.key, rotation(each, "new")) for each in before),
        other.revoke_all("", "alice"),
        *(other.create(each) for each in made[18:]),
        *(other.touch(each.key, NOW, IDLE) for each in before),
    )
    there = {each.id_hash for each in made if await other.get_fresh(each.key, NOW) is not None}
    assert there == await ids(store)
    assert not there & {each.id_hash for each in before}
    assert await store.revoke_all("", "alice") == len(there)
    assert [await other.get_fresh(each.key, NOW) for each in made] == [None] * 24


async def test_one_time_values(store: SessionStore, other: SessionStore) -> None:
    """Of 32 concurrent consumers of one value on two workers, one succeeds; another value is independent."""
    first = await asyncio.gather(
        *((store, other)[number % 2].consume("a value", NOW, ENDS) for number in range(32))
    )
    assert sum(first) == 1
    assert not await store.consume("a value", NOW + timedelta(hours=1), ENDS)
    assert await store.consume("another value", NOW, ENDS)
    assert not await store.consume("a late value", ENDS, ENDS)


async def test_nothing_in_clear(backend: StoreUnderTest, store: SessionStore) -> None:
    """Neither a session id nor a one-time value is stored in clear text."""
    stored = session(id_hash=sha256_hex("the session's id"))
    await store.create(stored)
    await store.rotate(stored.key, rotation(stored, "the new token"))
    await store.consume("the value", NOW, ENDS)
    content = await backend.everything()
    assert stored.id_hash in content
    assert sha256_hex("the value") in content
    for secret in ("the session's id", "the new token", "the value"):
        assert secret not in content


async def test_nothing_in_clear_after_a_login(redis_alone: Redises, sqlite_url: str) -> None:
    """Redis contains no token of a login or refresh, and no name of a login attempt."""
    async with fault_scenario(sqlite_url, redis_alone.url) as scenario:
        given = [(await scenario.log_in()).json(), (await scenario.refresh()).json()]
        stored = redis_alone.everything()
        assert sha256_hex(given[0]["session_id"]) in stored
        names = ("session_id", "access_token", "refresh_token", "csrf_token")
        secret = [each[name] for each in given for name in names]
        # The parts of a token alone, and the bytes that it writes, are nowhere either.
        secret += [part for each in given for part in each["access_token"].split(".")]
        raw = [base64.urlsafe_b64decode(each["refresh_token"] + "==") for each in given]
        secret += [text for each in raw for text in (each.hex(), repr(each)[2:-1], each[33:65].hex())]
        assert [each for each in secret if each in stored] == []


async def test_what_has_ended_does_not_pile_up(redis_alone: Redises) -> None:
    """Ended sessions are removed from Redis by later logins; the cleanup removes them from the database."""
    past = NOW - timedelta(days=3)
    ended = [
        session(
            created_at=past, idle_expires_at=past + timedelta(hours=1), expires_at=past + timedelta(days=1)
        )
        for _ in range(8)
    ]
    async with open_store("redis", redis_alone) as backend:
        store = await backend.worker()
        for each in ended:
            await store.create(each)
        assert ended[0].id_hash in await backend.everything()
        new = session()
        await (await backend.worker()).create(new)
        stored = await backend.everything()
    assert [each.id_hash for each in ended if each.id_hash in stored] == []
    assert new.id_hash in stored


async def test_many_at_once(store: SessionStore) -> None:
    """More concurrent look-ups than connections wait for each other, and all succeed."""
    stored = session()
    await store.create(stored)
    named_servers = await asyncio.gather(*(store.get_fresh(stored.key, NOW) for _ in range(300)))
    assert named_servers == [stored] * 300


async def test_ping(store: SessionStore) -> None:
    """A reachable store passes its ping."""
    await store.ping()


async def test_every_key_in_redis_goes_by_itself(redis_alone: Redises) -> None:
    """A subject's key lives as long as the session that ends last, and no key is left without an end."""
    async with open_store("redis", redis_alone) as backend:
        store, counter = await backend.worker(), await backend.counter()
        long, short = session(), session(idle_expires_at=NOW + timedelta(minutes=1))
        for each in (long, short):
            await store.create(each)
        await store.consume("a value", NOW, ENDS)
        await counter.add("a name", 1, 60)
        with redis.Redis.from_url(redis_alone.url) as client:
            names = [f"{backend.prefix}{{{long.key.subject_hash}}}:{name}" for name in KEYS]
            assert all(3_590_000 < client.pttl(name) <= 3_600_000 for name in names)
            await store.touch(short.key, NOW, NOW + timedelta(hours=2))
            assert all(7_190_000 < client.pttl(name) <= 7_200_000 for name in names)
            await store.revoke_all("", "alice", keep=long.id_hash)
            assert all(7_190_000 < client.pttl(name) <= 7_200_000 for name in names)
            keys = list(client.scan_iter(f"{backend.prefix}*"))
            assert len(keys) == 4
            assert all(client.pttl(key) > 0 for key in keys)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"{}", b'{"subject": "alice"}', b"\xff", b"null"])
async def test_an_unreadable_session_has_ended(redis_alone: Redises, junk: bytes) -> None:
    """Invalid session data is treated as no session, without an error."""
    async with open_store("redis", redis_alone) as backend:
        store = await backend.worker()
        stored, broken = session(), session()
        await store.create(stored)
        await store.create(broken)
        with redis.Redis.from_url(redis_alone.url) as client:
            name = f"{backend.prefix}{{{broken.key.subject_hash}}}:sessions"
            client.hset(name, broken.id_hash, junk)
        assert await store.get(broken.key, NOW) is None
        assert await store.list("", "alice", NOW, limit=MANY) == [stored]
        await store.create(session())
        assert await store.get(stored.key, NOW) == stored.activity
        assert await store.revoke_all("", "alice") == 2


@pytest.mark.parametrize("lost", ["all", "some"])
async def test_an_index_that_is_incomplete_is_completed(redis_alone: Redises, lost: str) -> None:
    """A list finds sessions that are not in the index: it was evicted, or another version stored them."""
    async with open_store("redis", redis_alone) as backend:
        store = await backend.worker()
        made = [session(created_at=NOW - number * MOMENT) for number in range(600)]
        for each in made:
            await store.create(each)
        with redis.Redis.from_url(redis_alone.url) as client:
            sessions, index = (f"{backend.prefix}{{{made[0].key.subject_hash}}}:{name}" for name in KEYS)
            if lost == "all":
                client.delete(index)
            else:
                client.zpopmin(index, 300)
            assert await store.list("", "alice", NOW, limit=MANY) == made
            assert client.zcard(index) == 600
            assert abs(client.pttl(index) - client.pttl(sessions)) < 1000
            client.hdel(sessions, made[3].id_hash)
            assert await store.list("", "alice", NOW, limit=3, after=ListPosition(NOW, made[0].id_hash)) == [
                made[1],
                made[2],
                made[4],
            ]
            assert client.zcard(index) == 599


async def test_excess_without_an_index(redis_alone: Redises) -> None:
    """The oldest sessions are found although the index was evicted, and entries of missing sessions are not."""
    async with open_store("redis", redis_alone) as backend:
        store = await backend.worker()
        made = [session(created_at=NOW + number * MOMENT) for number in range(4)]
        for each in made:
            await store.create(each)
        sessions, index = (f"{backend.prefix}{{{made[0].key.subject_hash}}}:{name}" for name in KEYS)
        with redis.Redis.from_url(redis_alone.url) as client:
            client.delete(index)
            assert await store.create(session(created_at=LATER), limit=3) == made[:2]
            client.hdel(sessions, made[0].id_hash)
            assert await store.create(session(created_at=LATER), limit=4) == made[1:2]


@pytest.mark.parametrize("kind", ["redis", "redis sentinel", "redis cluster"])
async def test_no_end_of_sessions_blocks_redis(kind: str, request: pytest.FixtureRequest) -> None:
    """Ending 20,000 sessions of one subject takes Redis no longer than a few commands do."""
    servers = servers_of(kind, request)
    assert isinstance(servers, Redises)
    async with open_store(kind, servers) as backend:
        store, kept = await backend.worker(), session()
        await store.create(kept)
        client: Any = connect.open_redis(servers.url)
        name = f"{backend.prefix}{{{kept.key.subject_hash}}}:sessions"
        value = await client.hget(name, kept.id_hash)
        for start in range(0, 20_000, 1000):
            await client.hset(name, mapping={f"{start + number:064}": value for number in range(1000)})
        for keep, number in ((kept.id_hash, 20_000), (None, 1)):
            for master in servers.masters:
                master.ask("CONFIG", "RESETSTAT")
            assert await store.revoke_all("", "alice", keep=keep) == number
            assert await ids(store) == ({kept.id_hash} if keep else set())
            slowest = max(_microseconds(master) for master in servers.masters)
            assert slowest < 20_000
        await connect.close_redis(client)


def _microseconds(server: RedisServer) -> float:
    """Return the mean time of the scripts that a server has run."""
    return float(server.ask("INFO", "commandstats").get("cmdstat_eval", {}).get("usec_per_call", 0))
