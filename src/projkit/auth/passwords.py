"""Password hashing: Argon2id (RFC 9106) in threads of its own, so that the event loop is not blocked."""

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
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)


def _dummy_hash() -> str:
    """Return a random hash that no password matches; verifying it takes as long as verifying a real one."""
    salt, digest = (
        b64encode(token_bytes(length)).decode().rstrip("=") for length in (HASHER.salt_len, HASHER.hash_len)
    )
    cost = f"m={HASHER.memory_cost},t={HASHER.time_cost},p={HASHER.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${salt}${digest}"


DUMMY_HASH: Final = _dummy_hash()


# glibc keeps the 19 MiB of a hash for the next one, which is useful during logins: allocating them again makes a hash
# two thirds slower. malloc_trim returns them to the system. Other C libraries have no such function.
_malloc_trim: Final[Callable[[int], int] | None] = (
    getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
)
_TRIM_DELAY_SECONDS: Final = 5.0


class Passwords:
    """A password hasher with ``threads`` threads and a queue of at most ``waiting`` callers."""

    def __init__(self, *, threads: int = 2, waiting: int = 64) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="projkit-passwords")
        self._limit = threads + waiting
        self._pending = 0
        self._trim_timer: asyncio.TimerHandle | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to store.

        Raises:
            UnavailableError: the queue is full.
        """
        return await self._run(partial(HASHER.hash, password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Return whether ``password`` matches; without a hash (``None``) it takes as long and returns False.

        Raises:
            UnavailableError: the queue is full.
        """
        good = await self._run(partial(verify_hash, stored or DUMMY_HASH, password))
        return good and stored is not None

    @staticmethod
    def is_outdated(stored: str) -> bool:
        """Return whether the hash has parameters other than the current ones."""
        return HASHER.check_needs_rehash(stored)

    def close(self) -> None:
        """Shut down the threads."""
        if self._trim_timer is not None:
            self._trim_timer.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: "partial[T]") -> T:
        if self._pending >= self._limit:
            raise UnavailableError("Too many passwords are being hashed at once")
        self._pending += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, work)
        finally:
            self._pending -= 1
            self._trim_later(loop)

    def _trim_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return the memory of the last hashes to the system after five seconds without a login."""
        if _malloc_trim is None:
            return
        if self._trim_timer is not None:
            self._trim_timer.cancel()
        self._trim_timer = loop.call_later(_TRIM_DELAY_SECONDS, self._trim, _malloc_trim)

    def _trim(self, malloc_trim: Callable[[int], int]) -> None:
        with suppress(RuntimeError):  # the executor has been shut down
            self._executor.submit(malloc_trim, 0)


def check_new_password(password: str, username: str, pointer: str) -> None:
    """Check a new password: 8 to 256 characters, and not the user name.

    Raises:
        ValidationFailedError: the password violates a rule; the error points to ``pointer`` in the body.
    """
    if not MINIMUM_LENGTH <= len(password) <= MAXIMUM_LENGTH:
        detail = f"Must have {MINIMUM_LENGTH} to {MAXIMUM_LENGTH} characters"
        raise ValidationFailedError([FieldError("password_length", detail, pointer=pointer)])
    if password.casefold() == username.casefold():
        raise ValidationFailedError(
            [FieldError("password_is_username", "Must not be the user name", pointer=pointer)]
        )


def verify_hash(stored: str, password: str) -> bool:
    try:
        return HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError):
        return False
