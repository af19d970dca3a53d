"""Rejections of requests by the queue, delivered at a limited rate.

A rejection is cheap, but clients that retry at once could keep a server busy with nothing else. So only a burst of
rejections is delivered immediately, and the rest at :data:`REJECTIONS_PER_SECOND`, or faster if the last of them would
otherwise be delayed for more than :data:`MAX_DELAY_SECONDS`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

REJECTIONS_PER_SECOND: Final = 500
MAX_DELAY_SECONDS: Final = 1.0
MAX_PENDING: Final = 10_000
BURST: Final = 25
DELIVERY_PERIOD_SECONDS: Final = 0.01

CreateError = Callable[[], Exception]


class PacedRejections:
    """The pending rejections of one event loop, delivered at a limited rate (token bucket)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: deque[tuple[asyncio.Future[None], CreateError]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # the timer must not keep the context of the request that started it
        self._rate = 0.0  # rejections per second while some are pending
        self._tokens = float(BURST)
        self._updated_at = loop.time()

    def reject(self, future: "asyncio.Future[None]", create_error: CreateError) -> None:
        """Fail ``future`` immediately if the rate permits it, otherwise later.

        Args:
            future: the future to fail; it is skipped if it is already done by then, because its request was cancelled.
            create_error: creates the exception when the future fails.
        """
        now = self._loop.time()
        if not self._pending:
            self._tokens = min(self._tokens + (now - self._updated_at) * REJECTIONS_PER_SECOND, BURST)
            self._updated_at = now
        if (not self._pending and self._tokens >= 1) or len(self._pending) >= MAX_PENDING:
            self._tokens -= 1
            future.set_exception(create_error())
        else:
            self.reject_later(future, create_error)

    def reject_later(self, future: "asyncio.Future[None]", create_error: CreateError) -> None:
        """Fail ``future`` with the next delivery that has room for it."""
        self._pending.append((future, create_error))
        if self._timer is None:
            self._start_timer()

    def _start_timer(self) -> None:
        self._updated_at = self._loop.time()
        self._timer = self._loop.call_later(DELIVERY_PERIOD_SECONDS, self._deliver, context=self._context)

    def _deliver(self) -> None:
        # The rate does not fall as fewer are pending: the last one would wait for several times the maximum.
        self._rate = max(REJECTIONS_PER_SECOND, self._rate, len(self._pending) / MAX_DELAY_SECONDS)
        number = math.ceil(self._rate * (self._loop.time() - self._updated_at))
        while self._pending and number:
            future, create_error = self._pending.popleft()
            if not future.done():
                future.set_exception(create_error())
                number -= 1
        self._timer = None
        self._tokens = 0.0
        if self._pending:
            self._start_timer()
        else:
            self._updated_at = self._loop.time()
            self._rate = 0.0
