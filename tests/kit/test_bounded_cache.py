"""The cache in memory: bounded, expiring, and safe against look-ups that an invalidation overtakes."""

import pytest

from projkit.bounded_cache import BoundedCache


class ManualClock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the cache."""
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> BoundedCache[str, int]:
    """A cache of three entries."""
    return BoundedCache(3, clock)


def test_an_entry_expires(cache: BoundedCache[str, int], clock: ManualClock) -> None:
    """A value is returned until its expiry, and removed at it."""
    cache.put("a", 1, 10.0)
    clock.now = 9.9
    assert cache.get("a") == 1
    clock.now = 10.0
    assert "a" in cache
    assert cache.get("a") is None
    assert "a" not in cache


def test_the_oldest_entry_is_evicted(cache: BoundedCache[str, int]) -> None:
    """A cache holds no more than its maximum; the entry that was stored first goes first."""
    for value, key in enumerate("abcd"):
        cache.put(key, value, 1.0)
    assert [cache.get(key) for key in "abcd"] == [None, 1, 2, 3]


def test_replacing_keeps_the_expiry(cache: BoundedCache[str, int], clock: ManualClock) -> None:
    """A changed value expires when the first one would have, and a missing one is not created."""
    cache.put("a", 1, 10.0)
    cache.replace("a", lambda value: value + 1)
    cache.replace("b", lambda value: value + 1)
    assert (cache.get("a"), cache.get("b")) == (2, None)
    clock.now = 10.0
    assert cache.get("a") is None


def test_invalidation(cache: BoundedCache[str, int]) -> None:
    """Discarding, invalidating and clearing remove what they name, and nothing else."""
    for value, key in enumerate("abc"):
        cache.put(key, value, 1.0)
    cache.discard("a")
    assert [cache.get(key) for key in "abc"] == [None, 1, 2]
    cache.invalidate(lambda key: key == "b")
    assert [cache.get(key) for key in "abc"] == [None, None, 2]
    cache.clear()
    assert [cache.get(key) for key in "abc"] == [None, None, None]


@pytest.mark.parametrize("how", ["discard", "invalidate", "clear"])
def test_an_overtaken_look_up_is_not_stored(cache: BoundedCache[str, int], how: str) -> None:
    """A value that was looked up before an invalidation is not stored after it, even if its key did not match."""
    before = cache.generation
    if how == "discard":
        cache.discard("b")
    elif how == "invalidate":
        cache.invalidate(lambda _: False)
    else:
        cache.clear()
    cache.put("a", 1, 1.0, before)
    assert cache.get("a") is None
    cache.put("a", 1, 1.0, cache.generation)
    assert cache.get("a") == 1
