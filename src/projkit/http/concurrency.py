"""A limit on the requests that are handled at the same time, and the queue in which the others wait.

A server that accepts everything finishes everything late: each request has been read, authenticated and half handled
before there is no database connection for it. Here a request above the limit waits before any of that. If the queue is
full, or the request has waited too long, it is rejected with a 503, which is cheap. Probes, metrics and monitoring
need no slot and never wait.

A request's :class:`QueueEntry` is in one of these states:

    IDLE       It holds no slot and waits for none: before it acquires one, and after it released it.
    ACTIVE     It holds a slot and is being handled.
    READING    It holds a slot and receives its body.
    DETACHED   It receives its body without a slot, because the body was late and other requests were queued.
    QUEUED     It waits for a slot, first in, first out.
    REJECTED   It waits for its 503, which ``PacedRejections`` may delay.

These events move it between them:

    state               event                                                 next state
    ------------------  ----------------------------------------------------  ----------
    IDLE                acquire(), and a slot is available                    ACTIVE
    IDLE                acquire(), and the queue has room                     QUEUED
    IDLE                acquire(), and the queue is full                      REJECTED
    QUEUED              it is first when another request releases its slot    ACTIVE
    QUEUED              it has waited for the timeout                         REJECTED
    QUEUED              its client disconnects: ClientDisconnectedError       IDLE
    REJECTED            its turn among the rejections: OverloadedError        IDLE
    ACTIVE              read_body()                                           READING
    READING             its body is complete                                  ACTIVE
    READING             LATE_BODY_SECONDS have passed, and others are queued  DETACHED
    DETACHED            its body is complete: as acquire() in IDLE            …
    READING, DETACHED   its body is invalid, or does not arrive               ACTIVE, IDLE
    ACTIVE              release()                                             IDLE
    QUEUED, REJECTED    its task is cancelled                                 IDLE

A slot belongs to exactly one entry that is ACTIVE or READING, or it is available; while entries are queued none is
available. A slot that is released goes directly to the first entry in the queue. If that entry's task is cancelled
before it runs again, the slot goes to the next one.

A request holds its slot from its route to its response, but releases it:

- before the response is sent, and before the rest of a body that is too large is read and discarded, so that slow
  clients delay no other requests;
- while a login waits for the host or an OIDC provider to identify the user; login attempts have their own limit.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from random import randint
from typing import Final

from starlette.types import Receive

from projkit.errors import OverloadedError
from projkit.http.disconnects import DisconnectDetector, Waiter
from projkit.http.paced_rejections import PacedRejections
from projkit.observers import Observer, RejectionReason

# The period of the timer that runs while entries are queued.
TICK_SECONDS: Final = 0.05
# The clients of entries that have been queued for so long are watched for a disconnect.
WATCH_AFTER_SECONDS: Final = 0.25
# A body may be so late before its slot goes to a queued request. Short, because this is all that limits clients that
# begin logins and send no body: no rate limit has counted them yet.
LATE_BODY_SECONDS: Final = 0.05
# Retry-After follows the rate at which slots were granted during the last second.
RATE_WINDOW_SECONDS: Final = 1.0
# Up to half as much again is added at random.
MAX_RETRY_AFTER_SECONDS: Final = 20

_DETAILS: Final[dict[RejectionReason, str]] = {
    "queue_full": "The request queue is full.",
    "waited_too_long": "The request waited too long in the queue.",
}


class QueueEntry:
    """A request as the limiter sees it.

    Attributes:
        receive: is replaced when the client is watched, so that the reader of the body gets what was received ahead.
        limiter: the limiter whose slot the request holds, None while it holds none.
    """

    __slots__ = ("context", "detector", "headers", "limiter", "queued_at", "receive")

    queued_at: float  # set when it is queued
    context: Context  # of the request's task, set when it is queued

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        self.receive = receive
        self.headers = headers
        self.limiter: ConcurrencyLimiter | None = None
        self.detector: DisconnectDetector | None = None

    @property
    def can_poll(self) -> bool:
        """Whether the client may be watched.

        Not if it waits for ``100 Continue``, which the server sends when the next message is asked for (RFC 9110
        §10.1.1).
        """
        return b"expect" not in self.headers

    def watch_client(self, waiter: Waiter, context: Context) -> None:
        """Fail ``waiter`` with ClientDisconnectedError when the client disconnects; see :class:`DisconnectDetector`."""
        if self.detector is None:
            self.detector = DisconnectDetector(self.receive)
            self.receive = self.detector.receive
        self.detector.watch(waiter, context)


class ConcurrencyLimiter:
    """A limit on the requests that one event loop handles at the same time.

    Args:
        slots: the requests that are handled at the same time.
        queue_size: the requests that may wait for a slot.
        timeout: the seconds for which a request may wait.
        observer: receives the changes of the queue's length, and the rejections.
        loop: the event loop, by default the running one.

    Attributes:
        available: the slots that no request holds.
    """

    def __init__(
        self,
        slots: int,
        queue_size: int,
        timeout: float,
        observer: Observer,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.available = slots
        self._loop = loop or asyncio.get_running_loop()
        self._queue_size = queue_size
        self._timeout = timeout
        self._observer = observer
        self._queue: OrderedDict[asyncio.Future[None], QueueEntry] = OrderedDict()
        self._reading: dict[QueueEntry, float] = {}  # since when
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # the timer must not keep the context of the request that started it
        self._rejections = PacedRejections(self._loop)
        self._granted = 0  # slots that were granted to queued entries, ever
        self._samples: deque[tuple[float, int]] = deque()  # the time, and the value of _granted at that time
        self._granted_at = 0.0  # the time of the last grant, to within a tick

    @property
    def queue_length(self) -> int:
        """The number of queued requests."""
        return len(self._queue)

    def acquire(self, entry: QueueEntry) -> Awaitable[None] | None:
        """Acquire a slot; return an awaitable if the request has to queue for it.

        Raises, when awaited:
            OverloadedError: the queue is full, or the request waited too long.
            ClientDisconnectedError: the client disconnected while the request was queued.
        """
        if self.available > 0:
            self.available -= 1
            entry.limiter = self
            return None
        return self._wait(entry)

    def release(self, entry: QueueEntry) -> None:
        """Release the slot that the entry holds."""
        entry.limiter = None
        if entry.detector is not None:
            entry.detector.close()
        self._release_slot()

    async def read_body(self, entry: QueueEntry, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return what ``read`` returns; hold no slot meanwhile if that takes long and other requests are queued.

        Raises:
            OverloadedError: the slot was taken, and no other one became available in time.
            ClientDisconnectedError: the client disconnected.
        """
        self._reading[entry] = self._loop.time()
        try:
            content = await read()
        except BaseException:
            if entry.detector is not None:
                entry.detector.close()
            raise
        finally:
            self._reading.pop(entry, None)
        entry.detector = None
        if entry.limiter is None and (acquiring := self.acquire(entry)) is not None:
            await acquiring
        return content

    async def _wait(self, entry: QueueEntry) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        if len(self._queue) >= self._queue_size:
            self._rejections.reject(future, partial(self._rejection, "queue_full"))
        else:
            self._enqueue(future, entry)
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release_slot()  # it was granted in the very moment in which the task was cancelled
            elif self._queue.pop(future, None) is not None:
                self._observer.change_queue_length(-1)
            if entry.detector is not None:
                entry.detector.close()
            raise
        entry.limiter = self
        if entry.detector is not None:
            entry.detector.end_watch()

    def _enqueue(self, future: "asyncio.Future[None]", entry: QueueEntry) -> None:
        entry.queued_at = self._loop.time()
        entry.context = copy_context()
        self._queue[future] = entry
        self._observer.change_queue_length(1)
        if self._timer is None:
            self._granted_at = entry.queued_at
            self._samples.append((entry.queued_at, self._granted))
            self._start_timer()

    def _release_slot(self) -> None:
        """Grant the slot to the first entry in the queue, or make it available."""
        while self._queue:
            future, _ = self._queue.popitem(last=False)
            self._observer.change_queue_length(-1)
            if not future.done():
                self._granted += 1
                future.set_result(None)
                return
        self.available += 1

    def _start_timer(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick, context=self._context)

    def _tick(self) -> None:
        """Reject entries that have waited too long, watch the clients of others, take slots from late bodies."""
        self._timer = None
        if not self._queue:
            self._samples.clear()
            return
        now = self._loop.time()
        self._sample(now)
        self._reject_overdue(now)
        self._watch_clients(now)
        self._take_slots_of_late_bodies(now)
        self._start_timer()

    def _reject_overdue(self, now: float) -> None:
        while self._queue:
            future, entry = next(iter(self._queue.items()))
            if entry.queued_at > now - self._timeout:
                return
            del self._queue[future]
            self._observer.change_queue_length(-1)
            self._rejections.reject_later(future, partial(self._rejection, "waited_too_long"))

    def _watch_clients(self, now: float) -> None:
        for future, entry in self._queue.items():
            if entry.queued_at > now - WATCH_AFTER_SECONDS:
                return
            if entry.detector is None and entry.can_poll:
                entry.watch_client(future, entry.context)

    def _take_slots_of_late_bodies(self, now: float) -> None:
        for entry, since in list(self._reading.items()):
            if not self._queue or since > now - LATE_BODY_SECONDS:
                return
            del self._reading[entry]
            entry.limiter = None
            self._release_slot()

    def _rejection(self, reason: RejectionReason) -> OverloadedError:
        self._observer.record_rejection(reason)
        return OverloadedError(
            f"{_DETAILS[reason]} Retry after the time given in the Retry-After header.",
            retry_after=self._retry_after(),
        )

    def _retry_after(self) -> int:
        """Return the seconds until the requests that are queued now will have had a slot, and up to half as many more.

        They are estimated from the recent rate of grants, or from how long there has been none. The random part keeps
        clients that were rejected together from coming back together.
        """
        seconds = 0.0
        if self._samples:  # otherwise there is no queue, or nothing is known of its rate
            now = self._loop.time()
            since, granted_before = self._samples[0]
            granted = self._granted - granted_before
            seconds = len(self._queue) * (now - since) / granted if granted else now - self._granted_at
        least = max(1, min(math.ceil(seconds), MAX_RETRY_AFTER_SECONDS))
        return randint(least, least + max(1, least // 2))  # noqa: S311  # not a secret

    def _sample(self, now: float) -> None:
        if self._granted != self._samples[-1][1]:
            self._granted_at = now
        self._samples.append((now, self._granted))
        while len(self._samples) > 2 and self._samples[1][0] < now - RATE_WINDOW_SECONDS:
            self._samples.popleft()
