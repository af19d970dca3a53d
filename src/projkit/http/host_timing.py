"""Times what a host answers, as the kit's own routes are timed."""

from asyncio import CancelledError
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Final

from projkit.db.port import USAGE
from projkit.http.request import ASGIApp, Message, Receive, Scope, Send
from projkit.http.response import Header
from projkit.http.timing import ERROR_TYPE, REQUEST_ID, Exchange, RequestIds, Requests, record

TRACKING: Final = "projkit.tracking"
_OURS: Final = frozenset({b"x-process-time", b"server-timing", b"x-request-id"})

# The template of the route that has answered, from the scope; never a raw path.
RouteOf = Callable[[Scope], str]


class _HostExchange(Exchange):
    __slots__ = ("_receive", "gone", "taken")

    def __init__(self, request_id: bytes, receive: Receive, send: Send) -> None:
        super().__init__(request_id, send)
        self._receive = receive
        self.gone = False  # the client has left before it had its answer
        self.taken = False  # by the kit that is mounted in the host, which then times and records

    async def watched_receive(self) -> Message:
        message = await self._receive()
        # After the response every server says so.
        if message["type"] == "http.disconnect" and self.seconds < 0:
            self.gone = True
        return message

    def told(self, headers: Iterable[Header]) -> list[Header]:
        own = list(headers)
        if self.taken:
            return own
        given = {name.lower() for name, _ in own} & _OURS
        return [*own, *(pair for pair in super().told(()) if pair[0] not in given)]


class HostTimingMiddleware:
    """Times and records what a host answers, WebSockets included.

    Headers of the same name that the host sets itself stay as they are. What a kit that is mounted in the host
    answers is left to that kit.
    """

    def __init__(self, app: ASGIApp, requests: Requests, route_of: RouteOf) -> None:
        self._app = app
        self._requests = requests
        self._route_of = route_of
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _HostExchange(self._ids.of(scope), receive, send)
        scope[REQUEST_ID] = exchange.request_id.decode()
        scope[TRACKING] = exchange
        token = USAGE.set(exchange.usage)
        self._requests.begin()
        try:
            await self._app(scope, exchange.watched_receive, exchange.timed_send)
            if exchange.seconds < 0:
                _fail(exchange)  # the server says 500 for an app that does not answer
        except CancelledError:
            raise
        except Exception as error:
            scope[ERROR_TYPE] = type(error).__name__
            _fail(exchange)
            raise
        finally:
            USAGE.reset(token)
            self._requests.end()
            if not exchange.taken:
                record(self._requests, scope, self._route_of(scope), exchange)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = 0.0

        async def watching(message: Message) -> None:
            nonlocal opened
            if message["type"] == "websocket.accept":
                opened = perf_counter()
            await send(message)

        failed = False
        try:
            await self._app(scope, receive, watching)
        except Exception:
            failed = True
            raise
        finally:
            outcome = "failed" if failed else "accepted" if opened else "refused"
            self._requests.websocket(
                self._route_of(scope), outcome, perf_counter() - opened if opened else 0.0
            )


def take_over(scope: Scope) -> None:
    """The kit answers this request, and times and records it itself."""
    exchange = scope.get(TRACKING)
    if exchange is not None:
        exchange.taken = True


def _fail(exchange: _HostExchange) -> None:
    """An exception, or no answer: the server's 500, unless the client was gone before."""
    if exchange.gone:
        exchange.status = 0
        return
    exchange.status = 500
    exchange.seconds = exchange.duration
