"""Values that belong to one event loop."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from projkit.forks import reset_in_forks

T = TypeVar("T")


def runs_on_asyncio() -> bool:
    """Return whether an asyncio event loop runs here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class PerLoop(Generic[T]):
    """One value for each event loop, created on its first use there.

    Locks, pools and tasks work on the loop that created them and on no other. When a new loop first needs a value, the
    values of loops that were closed meanwhile are dropped, so that at most one set of them is left behind.

    Args:
        create: makes a loop's value; called on that loop.
        drop: called with the value of a closed loop, from another loop and possibly another thread.

    Attributes:
        inherited: in a forked process, the values of the parent's loops. They must be neither used nor dropped: a
            connection's socket and a loop's selector are shared with the parent, and closing them could disturb it.
    """

    def __init__(self, create: Callable[[], T], drop: Callable[[T], None] | None = None) -> None:
        self._create = create
        self._drop = drop
        self._values: dict[asyncio.AbstractEventLoop, T] = {}
        # The most recently used loop and its value, in one tuple because several threads read it at the same time.
        self._last: tuple[asyncio.AbstractEventLoop, T] | None = None
        self.inherited: dict[asyncio.AbstractEventLoop, T] = {}
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Set the parent's values aside, so that this process creates its own."""
        self.inherited |= self._values
        self._values, self._last = {}, None

    def get(self) -> T:
        """Return the value of the running event loop."""
        loop = asyncio.get_running_loop()
        last = self._last
        if last is not None and last[0] is loop:
            return last[1]
        if loop not in self._values:
            self._drop_closed_loops()
            self._values[loop] = self._create()
        value = self._values[loop]
        self._last = (loop, value)
        return value

    def _drop_closed_loops(self) -> None:
        # Loops of other threads are added and dropped meanwhile; each value is dropped by one thread only.
        for loop in [each for each in list(self._values) if each.is_closed()]:
            try:
                value = self._values.pop(loop)
            except KeyError:
                continue
            last = self._last
            if last is not None and last[0] is loop:
                self._last = None
            if self._drop is not None:
                self._drop(value)
