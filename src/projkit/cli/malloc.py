"""What a server tells the C library about memory."""

import ctypes
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8  # of glibc's malloc.h


def share_arena() -> None:
    """One arena for all threads: from those of threads glibc gives back nothing (see :mod:`projkit.auth.passwords`).

    To be called before there are threads, since arenas that are there stay. Any other C library is left as it is.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
