"""A cache for one remote document: single flight, and stale-if-error (RFC 5861 §4).

The discovery document and the keys of an OIDC provider are fetched through it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from projkit.errors import ProviderUnavailableError

logger: Final = logging.getLogger("projkit")

REFRESH_COOLDOWN_SECONDS: Final = 10.0  # between two refreshes because of an unknown key
RETRY_AFTER_SECONDS: Final = 2.0  # after a failed fetch
STALE_IF_ERROR_SECONDS: Final = 86_400.0

T = TypeVar("T")


class CachedDocument(Generic[T]):
    """A document that is fetched on first use, when it is stale, and on :meth:`refresh`.

    Fetches never overlap. After a failed fetch the previous document stays in use for up to a day. While the last
    fetch has failed, callers do not wait for the next one, unless there is no document at all.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[T]],
        *,
        name: str,
        fresh_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache; ``name`` is how log lines refer to the document."""
        self._fetch = fetch
        self._name = name
        self._fresh_seconds = fresh_seconds
        self._monotonic = monotonic
        self._cached: tuple[T, float] | None = None
        self._failed_at: float | None = None
        self._refreshed_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """Return the document, a fresh one if possible.

        Raises:
            ProviderUnavailableError: it could not be fetched, and there is no cached one.
        """
        now = self._monotonic()
        if self._cached is not None and now - self._cached[1] < self._fresh_seconds:
            return self._cached[0]
        usable = self._usable(now)
        failed_recently = self._failed_at is not None and now - self._failed_at < self._fresh_seconds
        if usable is None or not failed_recently:
            await self._fetch_once(now)
        elif self._task is None and not self._is_backing_off(now):
            self._start()
        usable = self._usable(self._monotonic())
        if usable is None:
            raise ProviderUnavailableError(retry_after=int(RETRY_AFTER_SECONDS))
        return usable

    async def refresh(self) -> T:
        """Fetch the document again because something is missing from it, at most once per cooldown.

        Raises:
            ProviderUnavailableError: the last fetch failed, so what is missing may exist.
        """
        now = self._monotonic()
        if self._task is not None:
            await self._fetch_once(now)
        elif now - self._refreshed_at >= REFRESH_COOLDOWN_SECONDS and not self._is_backing_off(now):
            self._refreshed_at = now
            await self._fetch_once(now)
        usable = self._usable(now)
        if usable is None or self._failed_at is not None:
            raise ProviderUnavailableError(retry_after=int(RETRY_AFTER_SECONDS))
        return usable

    async def close(self) -> None:
        """Cancel a fetch that is in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _usable(self, now: float) -> T | None:
        if self._cached is None or now - self._cached[1] >= STALE_IF_ERROR_SECONDS:
            return None
        return self._cached[0]

    def _is_backing_off(self, now: float) -> bool:
        return self._failed_at is not None and now - self._failed_at < RETRY_AFTER_SECONDS

    async def _fetch_once(self, now: float) -> None:
        """Wait for the fetch in progress, or for a new one; do nothing right after a failure."""
        if self._task is None and self._is_backing_off(now):
            return
        task = self._task or self._start()
        await asyncio.wait([task])  # does not cancel the fetch for the others if this caller is cancelled
        if not task.cancelled():
            task.result()

    def _start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run())
        return self._task

    async def _run(self) -> None:
        try:
            document = await self._fetch()
        except ProviderUnavailableError as error:
            self._failed_at = self._monotonic()
            effect = (
                "requests that need it get 503"
                if self._usable(self._failed_at) is None
                else "using the old copy"
            )
            logger.warning("%s is unavailable (%s); %s", self._name, error.detail, effect)
        else:
            self._cached = (document, self._monotonic())
            self._failed_at = None
        finally:
            self._task = None
