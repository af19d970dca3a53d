"""A cache in memory with a maximum size and an expiry per entry."""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A mapping whose entries expire; when it is full, the oldest entry is evicted.

    A value that was looked up before an invalidation must not be stored after it. Read :attr:`generation` before the
    look-up and pass it to :meth:`put`, which then ignores such a value.

    Args:
        max_entries: the number of entries from which on the oldest one is evicted.
        clock: the clock of the expiries, in seconds.
    """

    def __init__(self, max_entries: int, clock: Callable[[], float]) -> None:
        self.generation = 0
        self._max_entries = max_entries
        self._clock = clock
        self._entries: dict[K, tuple[V, float]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() < entry[1]:
            return entry[0]
        del self._entries[key]
        return None

    def put(self, key: K, value: V, expires: float, generation: int | None = None) -> None:
        """Store ``value`` until ``expires``, unless there was an invalidation since ``generation``."""
        if generation is not None and generation != self.generation:
            return
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (value, expires)

    def replace(self, key: K, change: Callable[[V], V]) -> None:
        """Change the value of ``key``, if there is one; its expiry stays the same."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries[key] = (change(entry[0]), entry[1])

    def invalidate(self, matches: Callable[[K], bool]) -> None:
        """Remove the entries whose keys match; look-ups in progress are not stored."""
        self.generation += 1
        for key in [key for key in self._entries if matches(key)]:
            del self._entries[key]

    def discard(self, key: K) -> None:
        """Remove the entry of ``key``, if any; a look-up in progress is not stored."""
        self.generation += 1
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries; look-ups in progress are not stored."""
        self.generation += 1
        self._entries.clear()
