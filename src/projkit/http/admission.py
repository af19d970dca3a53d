"""How many requests are worked on at once, and which wait for their turn.

A server that takes on everything does all of it late: each request is read, authenticated and half done before it
finds that there is no connection for it. Here a request beyond the limit waits before any of that, first come, first
served; where too many wait already, or it has waited too long, it is refused, which costs little. What tells how the
server is (probes, metrics, monitoring) never waits.

A place is held from the request's route to its response, but not

- while the response is sent, nor while a body that is too large is read to its end: a slow client costs nobody a turn;
- while the body is slow to come, if others wait: the request gets in line again when it has its body;
- while a login waits for the host or a provider to say who it is: attempts have a limit of their own.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from random import randint
from typing import Final

from starlette.types import Message, Receive

from projkit.errors import OverloadedError
from projkit.http.request import ClientDisconnectedError, Request
from projkit.observers import Observer, RejectionReason

# While anybody waits, the queue is looked through so often.
_PERIOD: Final = 0.05
# Whoever waits so long is listened to: it may have gone.
_PATIENCE: Final = 0.25
# A body may be so late before its place goes to others, be it that of a log-in that nobody has counted yet.
_LATE_BODY: Final = 0.05
# Refusals are cheap, but clients that come back at once could keep a server busy with nothing else. So a few are told
# at once, and of many so many in a second, or as many as it takes for nobody to wait longer than so long for it.
_AT_ONCE: Final = 25
_A_SECOND: Final = 500
_TOLD_SECONDS: Final = 1.0
_TELLING_PERIOD: Final = 0.01
_MOST_UNTOLD: Final = 10_000
_RATE_SECONDS: Final = 1.0
_LONGEST_RETRY: Final = 20  # and up to half as many more


class Gate:
    """Lets so many requests in at once; of the others a few wait, for a while.

    Attributes:
        free: places that nobody has; while somebody waits there are none.
    """

    def __init__(
        self,
        places: int,
        queue: int,
        seconds: float,
        observer: Observer,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.free = places
        self._loop = loop or asyncio.get_running_loop()
        # Timers run in a context of their own, not in that of whoever came when none was set: it would stay as long.
        self._context = Context()
        self._longest_queue = queue
        self._seconds = seconds
        self._observer = observer
        self._line: OrderedDict[asyncio.Future[None], Request] = OrderedDict()
        self._reading: dict[Request, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._let_in = 0  # from the line, ever
        self._marks: deque[tuple[float, int]] = deque()  # when, and how many had been let in by then
        self._moved_at = 0.0  # when somebody was, as far as the marks tell
        self._untold: deque[tuple[asyncio.Future[None], Request, RejectionReason]] = (
            deque()
        )  # those that are to be refused
        self._telling: asyncio.TimerHandle | None = None
        self._a_second = 0.0  # so many of them are told in one
        self._told_at = self._loop.time()
        self._allowance = float(_AT_ONCE)

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line)

    def enter(self, request: Request) -> Awaitable[None] | None:
        """Takes a place, or gives what is to be awaited until it is the request's turn.

        Raises, when awaited:
            OverloadedError: there is none, and will be none in time.
            ClientDisconnectedError: the client went away while it waited.
        """
        if self.free > 0:
            self.free -= 1
            request.gate = self
            return None
        return self._wait(request)

    def leave(self, request: Request) -> None:
        """Gives the request's place back, or to whoever is next."""
        request.gate = None
        if request.watch is not None:
            request.watch.close()
        self._pass_on()

    async def body(self, request: Request, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Reads the request's body; where that takes its time, and others wait, without its place.

        Raises:
            OverloadedError: then there was none again.
        """
        self._reading[request] = self._loop.time()
        try:
            content = await read()
        except BaseException:
            if request.watch is not None:
                request.watch.close()
            raise
        finally:
            self._reading.pop(request, None)
        request.watch = None
        if request.gate is None and (turn := self.enter(request)) is not None:
            await turn
        return content

    async def _wait(self, request: Request) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        if len(self._line) >= self._longest_queue:
            self._turn_away(turn, request)
        else:
            self._get_in_line(turn, request)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # it was given its place in the very moment in which it was ended
            elif self._line.pop(turn, None) is not None:
                self._count(-1)
            if request.watch is not None:
                request.watch.close()
            raise
        request.gate = self
        if request.watch is not None:
            request.watch.rest()

    def _get_in_line(self, turn: asyncio.Future[None], request: Request) -> None:
        request.queued_at = self._loop.time()
        request.context = copy_context()
        self._line[turn] = request
        self._count(1)
        if self._timer is None:
            self._moved_at = request.queued_at
            self._marks.append((request.queued_at, self._let_in))
            self._timer = self._loop.call_later(_PERIOD, self._look, context=self._context)

    def _pass_on(self) -> None:
        while self._line:
            turn, _ = self._line.popitem(last=False)
            self._count(-1)
            if not turn.done():
                self._let_in += 1
                turn.set_result(None)
                return
        self.free += 1

    def _look(self) -> None:
        """Refuses whoever has waited too long, listens to the others, takes places from whoever only reads."""
        self._timer = None
        now = self._loop.time()
        if not self._line:
            self._marks.clear()
            return
        self._mark(now)
        self._turn_overdue_away(now - self._seconds)
        for turn, request in self._line.items():
            if request.queued_at > now - _PATIENCE:
                break
            if request.watch is None:
                request.watch = Watch(request, turn)
        for request, since in list(self._reading.items()):
            if not self._line or since > now - _LATE_BODY:
                break
            del self._reading[request]
            request.gate = None
            self._pass_on()
        self._timer = self._loop.call_later(_PERIOD, self._look, context=self._context)

    def _turn_overdue_away(self, limit: float) -> None:
        while self._line:
            turn = next(iter(self._line))
            request = self._line[turn]
            if request.queued_at > limit:
                return
            del self._line[turn]
            self._count(-1)
            self._untold.append((turn, request, "waited_too_long"))
            self._tell_later()

    def _turn_away(self, turn: asyncio.Future[None], request: Request) -> None:
        now = self._loop.time()
        if not self._untold:
            self._allowance = min(self._allowance + (now - self._told_at) * _A_SECOND, _AT_ONCE)
            self._told_at = now
        if (not self._untold and self._allowance >= 1) or len(self._untold) >= _MOST_UNTOLD:
            self._allowance -= 1
            turn.set_exception(self._refusal("queue_full", request))
            return
        self._untold.append((turn, request, "queue_full"))
        self._tell_later()

    def _tell_later(self) -> None:
        if self._telling is None:
            self._told_at = self._loop.time()
            self._telling = self._loop.call_later(_TELLING_PERIOD, self._tell_some, context=self._context)

    def _tell_some(self) -> None:
        """Tells a few of those that are to be refused that they are."""
        # Not fewer as they become fewer: the last one would wait for several times as long.
        self._a_second = max(_A_SECOND, self._a_second, len(self._untold) / _TOLD_SECONDS)
        number = math.ceil(self._a_second * (self._loop.time() - self._told_at))
        while self._untold and number:
            turn, request, reason = self._untold.popleft()
            if not turn.done():
                turn.set_exception(self._refusal(reason, request))
                number -= 1
        self._telling = None
        self._allowance = 0.0
        if self._untold:
            self._tell_later()
        else:
            self._told_at = self._loop.time()
            self._a_second = 0.0

    def _count(self, change: int) -> None:
        self._observer.change_queue_length(change)

    def _refusal(self, reason: RejectionReason, request: Request) -> OverloadedError:
        self._observer.record_rejection(reason)
        detail = "As many requests are waiting as may" if reason == "queue_full" else "It had waited too long"
        return OverloadedError(
            f"{detail}; try again a little later",
            retry_after=self._retry_after(),
            unread=request.has_long_body,
        )

    def _retry_after(self) -> int:
        """The seconds in which those who wait now will have had their turn, and up to half as many more.

        By how many were let in of late, and where nobody was, as long as that has gone on; a little at random, so that
        who is refused together does not come back together.
        """
        needed = 0.0
        if self._marks:  # else nobody may wait, and nothing is known of how fast it goes
            now = self._loop.time()
            since, before = self._marks[0]
            let_in = self._let_in - before
            needed = len(self._line) * (now - since) / let_in if let_in else now - self._moved_at
        least = max(1, min(math.ceil(needed), _LONGEST_RETRY))
        return randint(least, least + max(1, least // 2))  # noqa: S311  # no secret

    def _mark(self, now: float) -> None:
        if self._let_in != self._marks[-1][1]:
            self._moved_at = now
        self._marks.append((now, self._let_in))
        while len(self._marks) > 2 and self._marks[1][0] < now - _RATE_SECONDS:
            self._marks.popleft()


class Watch:
    """Listens whether the client of a request that waits is still there.

    Servers tell only those who ask for more of the request; what comes of it meanwhile is kept for its reader.
    """

    def __init__(self, request: Request, turn: asyncio.Future[None]) -> None:
        self._receive: Receive = request.receive
        self._context = request.context
        self._turn = turn
        self._kept: deque[Message] = deque()
        self._complete = False
        self._asked: asyncio.Task[Message] | None = None
        # Who asks for more of such a request tells its client to send it (RFC 9110 §10.1.1).
        if b"expect" not in request.headers:
            request.receive = self._replay
            self._ask()

    def rest(self) -> None:
        """The wait is over: after the whole request there is nothing to be heard but the client's end."""
        if self._complete:
            self.close()

    def close(self) -> None:
        """Nobody asks any more."""
        if self._asked is not None:
            self._asked.cancel()

    def _ask(self) -> None:
        # What stands before us may look into the context of the request whose body it reads.
        self._asked = asyncio.get_running_loop().create_task(self._next(), context=self._context)
        self._asked.add_done_callback(self._heard)

    async def _next(self) -> Message:
        return await self._receive()

    def _heard(self, asked: "asyncio.Task[Message]") -> None:
        self._asked = None
        if asked.cancelled() or asked.exception() is not None:
            return  # the reader will be told the same
        message = asked.result()
        self._kept.append(message)
        if message["type"] == "http.disconnect":
            if not self._turn.done():
                self._turn.set_exception(ClientDisconnectedError())
        elif not message.get("more_body", False) and not self._complete:
            self._complete = True
            if not self._turn.done():
                self._ask()

    async def _replay(self) -> Message:
        if not self._kept and self._asked is not None:
            await asyncio.wait({self._asked})
        return self._kept.popleft() if self._kept else await self._receive()
