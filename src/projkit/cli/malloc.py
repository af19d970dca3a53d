"""Memory allocation settings of the C library for a server."""

import ctypes
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8  # of glibc's malloc.h


def share_arena() -> None:
    """Limit glibc to one arena for all threads: it returns no memory from thread arenas.

    See :mod:`projkit.auth.passwords`. Call this before any thread starts, because existing arenas remain. It has no
    effect with other C libraries.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
