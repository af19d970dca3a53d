"""Passwords: Argon2id (RFC 9106) in threads of its own, so that the event loop never waits for it."""

import asyncio
import ctypes
import os
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from secrets import token_bytes
from typing import Final, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.low_level import ARGON2_VERSION

from projkit.errors import FieldError, UnavailableError, ValidationFailedError

T = TypeVar("T")

MINIMUM_LENGTH: Final = 8
MAXIMUM_LENGTH: Final = 256
# OWASP's first recommendation for Argon2id: 19 MiB, two passes, one lane; about 22 ms.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)


def _no_hash() -> str:
    """In the form of a hash, of no password that anybody will find: verifying it takes as long as any other."""
    salt, digest = (
        b64encode(token_bytes(length)).decode().rstrip("=") for length in (_HASHER.salt_len, _HASHER.hash_len)
    )
    cost = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${salt}${digest}"


_NOBODY: Final = _no_hash()


# glibc keeps the 19 MiB of a hash for the next one, which is good while people log in: taken anew they cost a hash two
# thirds more. Other C libraries have no such function.
_malloc_trim: Final[Callable[[int], int] | None] = (
    getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
)
_KEPT_SECONDS: Final = 5.0


class Passwords:
    """Hashes and verifies, at most ``threads`` at once; more than ``waiting`` callers in line are refused."""

    def __init__(self, *, threads: int = 2, waiting: int = 64) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="projkit-passwords")
        self._places = threads + waiting
        self._taken = 0
        self._giving_back: asyncio.TimerHandle | None = None

    async def hash(self, password: str) -> str:
        """The hash to be stored.

        Raises:
            UnavailableError: too many wait for their turn.
        """
        return await self._run(partial(_HASHER.hash, password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether ``password`` is the one that was stored; None, for nobody's, takes as long and is False.

        Raises:
            UnavailableError: too many wait for their turn.
        """
        good = await self._run(partial(_verify, stored or _NOBODY, password))
        return good and stored is not None

    @staticmethod
    def is_outdated(stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return _HASHER.check_needs_rehash(stored)

    def close(self) -> None:
        """Lets the threads go."""
        if self._giving_back is not None:
            self._giving_back.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: "partial[T]") -> T:
        if self._taken >= self._places:
            raise UnavailableError("Too many passwords are being checked at once")
        self._taken += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, work)
        finally:
            self._taken -= 1
            self._give_back_later(loop)

    def _give_back_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives the memory of the last hashes back to the system when nobody has logged in for a while."""
        if _malloc_trim is None:
            return
        if self._giving_back is not None:
            self._giving_back.cancel()
        self._giving_back = loop.call_later(_KEPT_SECONDS, self._give_back, _malloc_trim)

    def _give_back(self, malloc_trim: Callable[[int], int]) -> None:
        with suppress(RuntimeError):  # the threads have been let go
            self._executor.submit(malloc_trim, 0)


def check_new_password(password: str, username: str, pointer: str) -> None:
    """Holds a password that somebody chose against the rules (length alone, and not the user's own name).

    Raises:
        ValidationFailedError: naming ``pointer``, the member of the body that it came in.
    """
    if not MINIMUM_LENGTH <= len(password) <= MAXIMUM_LENGTH:
        detail = f"Must have {MINIMUM_LENGTH} to {MAXIMUM_LENGTH} characters"
        raise ValidationFailedError([FieldError("password_length", detail, pointer=pointer)])
    if password.casefold() == username.casefold():
        raise ValidationFailedError(
            [FieldError("password_is_username", "Must not be the user name", pointer=pointer)]
        )


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError):
        return False
