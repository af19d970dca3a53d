"""Attempt counters shared by all workers: the database and each form of Redis keep one contract."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from projkit.auth.attempt_counter import AttemptCounter
from projkit.auth.sessions.port import sha256_hex
from tests.auth.stores import DATABASES, OWN_CLIENT, REDISES, StoreUnderTest, open_store, patient, servers_of
from tests.redis_servers import Redises

__all__ = ["patient"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient")]

WINDOW = 3600


@pytest.fixture(params=(*DATABASES, *REDISES, OWN_CLIENT))
def named_servers(request: pytest.FixtureRequest) -> tuple[str, Redises | str]:
    """Return the name of each backend, and its servers or database URL."""
    return request.param, servers_of(request.param, request)


@pytest.fixture
async def backend(named_servers: tuple[str, Redises | str]) -> AsyncIterator[StoreUnderTest]:
    """Each backend, open."""
    async with open_store(*named_servers) as opened:
        yield opened


@pytest.fixture
async def workers(backend: StoreUnderTest) -> tuple[AttemptCounter, AttemptCounter]:
    """The counters of two workers."""
    return await backend.counter(), await backend.counter()


async def test_concurrent_attempts_get_different_numbers(
    workers: tuple[AttemptCounter, AttemptCounter],
) -> None:
    """Fifty concurrent attempts on two workers get fifty different numbers, also when the counter is new."""
    counted = await asyncio.gather(*(workers[number % 2].add("alice", 1, WINDOW) for number in range(50)))
    assert sorted(count for count, _ in counted) == list(range(1, 51))
    assert all(WINDOW - 60 < left <= WINDOW for _, left in counted)


async def test_counters_are_independent(workers: tuple[AttemptCounter, AttemptCounter]) -> None:
    """Counters with different names are independent."""
    one, other = workers
    assert (await one.add("alice", 1, WINDOW))[0] == 1
    assert (await one.add("bob", 1, WINDOW))[0] == 1
    assert (await other.add("alice", 1, WINDOW))[0] == 2


async def test_names_are_hashed(
    backend: StoreUnderTest, workers: tuple[AttemptCounter, AttemptCounter]
) -> None:
    """The stored name is a hash that does not reveal the account."""
    await workers[0].add("account:alice", 1, WINDOW)
    stored = await backend.everything()
    assert sha256_hex("account:alice") in stored
    assert "alice" not in stored


async def test_subtracting(workers: tuple[AttemptCounter, AttemptCounter]) -> None:
    """A count can be subtracted again, on any worker, and never falls below zero."""
    one, other = workers
    await one.add("alice", 1, WINDOW)
    assert (await other.add("alice", 1, WINDOW))[0] == 2
    assert (await other.add("alice", -1, WINDOW))[0] == 1
    assert (await one.add("alice", -1, WINDOW))[0] == 0
    assert (await one.add("alice", -1, WINDOW))[0] == 0
    assert (await one.add("alice", 1, WINDOW))[0] == 1
    assert (await one.add("nobody", -1, WINDOW))[0] == 0
    assert (await other.add("nobody", 1, WINDOW))[0] == 1


async def test_a_window_ends(workers: tuple[AttemptCounter, AttemptCounter]) -> None:
    """A counter is reset when its window ends, and attempts do not extend the window."""
    started = time.monotonic()
    count, left = await workers[0].add("alice", 5, 1)
    assert (count, 0 < left <= 1) == (5, True)
    while count >= 5:
        assert time.monotonic() - started < 20
        await asyncio.sleep(0.05)
        count, left = await workers[1].add("alice", 1, 1)
    assert (count, 0 < left <= 1) == (1, True)
    assert time.monotonic() - started > 0.9
