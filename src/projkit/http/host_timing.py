"""Times what a host answers, as the kit's own routes are timed."""

import logging
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.http import scope_keys
from projkit.http.disconnects import DisconnectDetector
from projkit.http.request import may_have_body
from projkit.http.response import Header
from projkit.http.timing import UNKNOWN_ROUTE, Exchange, RequestIds, record
from projkit.http.tracing import Tracing
from projkit.observers import Observer
from projkit.request_stats import REQUEST_STATS

logger: Final = logging.getLogger("projkit")

_LONGEST_ROUTE: Final = 200
_OURS: Final = frozenset({b"x-process-time", b"server-timing", b"x-request-id", b"traceresponse"})

# The template of the route that has answered, from the scope; never a raw path.
RouteOf = Callable[[Scope], str]


class SafeRouteOf:
    """What a ``route_of`` says, whoever wrote it; ``__unknown__`` where it fails."""

    def __init__(self, route_of: RouteOf) -> None:
        self._route_of = route_of
        self._complained = False

    def __call__(self, scope: Scope) -> str:
        try:
            route: object = self._route_of(scope)
        except Exception as error:
            if not self._complained:
                self._complained = True
                logger.warning("route_of fails, and requests count as %s: %r", UNKNOWN_ROUTE, error)
            return UNKNOWN_ROUTE
        return route[:_LONGEST_ROUTE] if isinstance(route, str) and route else UNKNOWN_ROUTE


class _HostExchange(Exchange):
    __slots__ = ("begun", "detector", "has_body", "taken")

    def __init__(
        self,
        request_id: bytes,
        asked: Iterable[Header],
        receive: Receive,
        send: Send,
        *,
        has_body: bool,
        begun: Callable[[], None],
    ) -> None:
        self.detector = DisconnectDetector(receive)
        super().__init__(request_id, asked, self.detector.receive, send)
        self.begun = begun  # is called before the answer begins: by then the host has begun its trace, if it begins any
        self.has_body = has_body
        self.taken = False  # by the kit that is mounted in the host, which then times and records

    async def timed_send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.taken:
            self.begun()
        await super().timed_send(message)

    async def watched_receive(self) -> Message:
        message = await self.detector.receive()
        if self.detector.disconnected and self.seconds < 0:
            self.gone = True  # after the response every server reports a disconnect
        return message

    def may_look(self) -> bool:
        # A host that has read the complete body has sent 100 Continue, if the client waited for it.
        return (self.detector.complete or not self.has_body) and not self.taken

    def told(self, headers: Iterable[Header]) -> list[Header]:
        own = list(headers)
        if self.taken:
            return own
        given = {name.lower() for name, _ in own} & _OURS
        return [*own, *(pair for pair in super().told(()) if pair[0] not in given)]


class HostTimingMiddleware:
    """Times and records what a host answers, WebSockets included.

    Headers of the same name that the host sets itself stay as they are. What a kit that is mounted in the host
    answers is left to that kit. A trace that the host has begun gives its id to log lines and figures.
    """

    def __init__(
        self,
        app: ASGIApp,
        observer: Observer,
        route_of: RouteOf,
        tracing: Tracing,
        request_ids: RequestIds,
    ) -> None:
        self._app = app
        self._observer = observer
        self._route = SafeRouteOf(route_of)
        self._tracing = tracing
        self._request_ids = request_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        take_over(scope)  # from one of us that stands further out

        def begun() -> None:
            scope[scope_keys.TRACE] = exchange.trace = exchange.trace or self._tracing.join(scope)

        has_body = may_have_body(scope, dict(scope["headers"]))
        exchange = _HostExchange(
            self._request_ids.get(scope), scope["headers"], receive, send, has_body=has_body, begun=begun
        )
        exchange.trace = self._tracing.join(scope)
        if exchange.trace is not None:
            exchange.stats.client_spans = exchange.trace.client_spans
        scope[scope_keys.REQUEST_ID] = exchange.request_id.decode()
        scope[scope_keys.HOST_EXCHANGE] = exchange
        scope[scope_keys.HOST_APP] = scope.get(scope_keys.APP)
        token = REQUEST_STATS.set(exchange.stats)
        self._observer.begin_request()
        try:
            await self._app(scope, exchange.watched_receive, exchange.timed_send)
            if not exchange.complete and exchange.seconds < 0:
                _fail(exchange)  # the server says 500 for an app that does not answer
        except Exception as error:
            scope[scope_keys.ERROR_TYPE] = type(error).__name__
            _fail(exchange, scope[scope_keys.ERROR_TYPE])
            raise
        finally:
            REQUEST_STATS.reset(token)
            self._observer.end_request()
            if not exchange.taken:
                record(self._observer, scope, self._route(scope), exchange)

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
            self._observer.record_websocket(
                self._route(scope), outcome, perf_counter() - opened if opened else 0.0
            )


def take_over(scope: Scope) -> None:
    """The kit answers this request, and times and records it itself."""
    exchange = scope.get(scope_keys.HOST_EXCHANGE)
    if exchange is not None:
        exchange.taken = True


def _fail(exchange: _HostExchange, error_type: str | None = None) -> None:
    """An exception, or no answer: the server's 500, unless the client was gone before."""
    if exchange.complete:  # a background task has failed: the client knows nothing of it
        return
    if exchange.trace is not None and error_type is not None:
        exchange.trace.failed(error_type)
    if not exchange.gone:
        exchange.status = 500
        exchange.seconds = exchange.duration
