"""Counts over all workers: one contract, held by the database and by Redis in each form."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from projkit.auth.counts import Counts
from projkit.auth.sessions.port import sha256_hex
from tests.auth.places import DATABASES, OWN_CLIENT, REDISES, Place, find, open_place, patient
from tests.redis_servers import Redises

__all__ = ["patient"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient")]

WINDOW = 3600


@pytest.fixture(params=(*DATABASES, *REDISES, OWN_CLIENT))
def found(request: pytest.FixtureRequest) -> tuple[str, Redises | str]:
    """The name of each place where counts may be kept, and what is behind it."""
    return request.param, find(request.param, request)


@pytest.fixture
async def place(found: tuple[str, Redises | str]) -> AsyncIterator[Place]:
    """Each place, open."""
    async with open_place(*found) as opened:
        yield opened


@pytest.fixture
async def workers(place: Place) -> tuple[Counts, Counts]:
    """What two workers count with."""
    return await place.counts(), await place.counts()


async def test_each_gets_a_number_of_their_own(workers: tuple[Counts, Counts]) -> None:
    """Of 50 who are counted at once on two workers, the first of all included, no two get the same number."""
    counted = await asyncio.gather(*(workers[number % 2].add("alice", 1, WINDOW) for number in range(50)))
    assert sorted(count for count, _ in counted) == list(range(1, 51))
    assert all(WINDOW - 60 < left <= WINDOW for _, left in counted)


async def test_names_are_counted_apart(workers: tuple[Counts, Counts]) -> None:
    """One name's count says nothing of another's, and the name cannot be read from what is stored."""
    one, other = workers
    assert (await one.add("alice", 1, WINDOW))[0] == 1
    assert (await one.add("bob", 1, WINDOW))[0] == 1
    assert (await other.add("alice", 1, WINDOW))[0] == 2


async def test_names_are_not_kept_in_clear(place: Place, workers: tuple[Counts, Counts]) -> None:
    """Whose attempts are counted cannot be read from what is stored."""
    await workers[0].add("account:alice", 1, WINDOW)
    stored = await place.everything()
    assert sha256_hex("account:alice") in stored
    assert "alice" not in stored


async def test_taken_back(workers: tuple[Counts, Counts]) -> None:
    """What was counted in advance can be taken back, on any worker, and never more than that."""
    one, other = workers
    await one.add("alice", 1, WINDOW)
    assert (await other.add("alice", 1, WINDOW))[0] == 2
    assert (await other.add("alice", -1, WINDOW))[0] == 1
    assert (await one.add("alice", -1, WINDOW))[0] == 0
    assert (await one.add("alice", -1, WINDOW))[0] == 0
    assert (await one.add("alice", 1, WINDOW))[0] == 1
    assert (await one.add("nobody", -1, WINDOW))[0] == 0
    assert (await other.add("nobody", 1, WINDOW))[0] == 1


async def test_a_window_ends_by_itself(workers: tuple[Counts, Counts]) -> None:
    """A count begins anew when its window is over, which nothing that is counted meanwhile prolongs."""
    started = time.monotonic()
    count, left = await workers[0].add("alice", 5, 1)
    assert (count, 0 < left <= 1) == (5, True)
    while count >= 5:
        assert time.monotonic() - started < 20
        await asyncio.sleep(0.05)
        count, left = await workers[1].add("alice", 1, 1)
    assert (count, 0 < left <= 1) == (1, True)
    assert time.monotonic() - started > 0.9
