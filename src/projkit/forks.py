"""State that must not survive a fork: random values, counters, what is open, and what belongs to an event loop.

A server may create the kit, or even start it, before it forks its workers (gunicorn's ``--preload``). Each worker then
has a copy of the parent's objects. Two copies of a counter yield the same ids, and two copies of a connection write to
the same socket. Objects with such state call :func:`reset_in_forks`; their ``reset_after_fork`` is called in each
forked process before any other code runs there.

``tests/kit/test_forks.py`` searches the objects of a kit for state that is the same in a forked process.
"""

import os
import weakref
from typing import Final, Protocol


class Resettable(Protocol):
    """An object with state that must not survive a fork."""

    def reset_after_fork(self) -> None:
        """Replace the state; called in the forked process, where no event loop runs and nothing may be closed."""


_resettable: Final["weakref.WeakSet[Resettable]"] = weakref.WeakSet()


def reset_in_forks(resettable: Resettable) -> None:
    """Reset an object in each process that is forked from now on, as long as the object exists."""
    _resettable.add(resettable)


def _reset_all() -> None:
    for each in list(_resettable):
        each.reset_after_fork()


os.register_at_fork(after_in_child=_reset_all)
