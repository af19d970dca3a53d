"""Running a transaction again after a deadlock or serialization failure."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from projkit.db.errors import is_retryable, unavailable

ATTEMPTS: Final = 3
_FIRST_DELAY_SECONDS: Final = 0.01

T = TypeVar("T")


async def retrying(transact_once: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``transact_once``, which is called up to :data:`ATTEMPTS` times.

    Raises:
        DatabaseUnavailableError: every attempt ended in a deadlock or serialization failure.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return await transact_once()
        except Exception as error:
            if not is_retryable(error):
                raise
        await asyncio.sleep(_FIRST_DELAY_SECONDS * attempt)
    try:
        return await transact_once()
    except Exception as error:
        if is_retryable(error):
            raise unavailable(error) from error
        raise
