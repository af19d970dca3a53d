"""A document of somebody else's: asked for once for all who want it, and kept where a new one cannot be had."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from projkit.errors import ProviderUnavailableError

logger: Final = logging.getLogger("projkit")

COOL_DOWN_SECONDS: Final = 10.0  # between two renewals that somebody's unknown key has asked for
PAUSE_SECONDS: Final = 2.0  # after a failure
KEEP_SECONDS: Final = 86_400.0  # for so long an old document is better than none

T = TypeVar("T")


class Remembered(Generic[T]):
    """Fetches when it is asked for the first time, when the document is old, and when it lacks something.

    Fetches never overlap. One that fails leaves the document as it was, for up to a day; while the last one has
    failed nobody waits for the next, unless there is no document at all.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[T]],
        *,
        name: str,
        fresh_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name`` is what the log calls it."""
        self._fetch = fetch
        self._name = name
        self._fresh_seconds = fresh_seconds
        self._monotonic = monotonic
        self._value: tuple[T, float] | None = None
        self._failed_at: float | None = None
        self._renewed_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """The document, a new one if that can be had.

        Raises:
            ProviderUnavailableError: there is none.
        """
        now = self._monotonic()
        if self._value is not None and now - self._value[1] < self._fresh_seconds:
            return self._value[0]
        kept = self._kept(now)
        failed_lately = self._failed_at is not None and now - self._failed_at < self._fresh_seconds
        if kept is None or not failed_lately:
            await self._attempt(now)
        elif self._task is None and not self._pauses(now):
            self._start()
        kept = self._kept(self._monotonic())
        if kept is None:
            raise ProviderUnavailableError(retry_after=int(PAUSE_SECONDS))
        return kept

    async def renew(self) -> T:
        """The document, fetched again since something in it is missing; that is done now and then only.

        Raises:
            ProviderUnavailableError: the last attempt has failed, so that nobody can tell what is missing.
        """
        now = self._monotonic()
        if self._task is not None:
            await self._attempt(now)
        elif now - self._renewed_at >= COOL_DOWN_SECONDS and not self._pauses(now):
            self._renewed_at = now
            await self._attempt(now)
        kept = self._kept(now)
        if kept is None or self._failed_at is not None:
            raise ProviderUnavailableError(retry_after=int(PAUSE_SECONDS))
        return kept

    async def close(self) -> None:
        """Gives a fetch up that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _kept(self, now: float) -> T | None:
        if self._value is None or now - self._value[1] >= KEEP_SECONDS:
            return None
        return self._value[0]

    def _pauses(self, now: float) -> bool:
        return self._failed_at is not None and now - self._failed_at < PAUSE_SECONDS

    async def _attempt(self, now: float) -> None:
        """Waits for the fetch that is under way, or for a new one; not even that right after a failure."""
        if self._task is None and self._pauses(now):
            return
        task = self._task or self._start()
        await asyncio.wait([task])  # whoever gives up waiting leaves it to the others
        if not task.cancelled():
            task.result()

    def _start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run())
        return self._task

    async def _run(self) -> None:
        try:
            value = await self._fetch()
        except ProviderUnavailableError as error:
            self._failed_at = self._monotonic()
            logger.warning("%s cannot be had: %s", self._name, error.detail)
        else:
            self._value = (value, self._monotonic())
            self._failed_at = None
        finally:
            self._task = None
