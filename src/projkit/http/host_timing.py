"""Timing and recording of a host's requests, as of the kit's own."""

import logging
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.http import scope_keys
from projkit.http.disconnects import DisconnectDetector
from projkit.http.request import may_have_body
from projkit.http.response import Header
from projkit.http.timing import UNKNOWN_ROUTE, VALID_ID, Exchange, RequestIds, record_exchange
from projkit.http.tracing import Tracing
from projkit.observers import Observer
from projkit.per_loop import runs_on_asyncio
from projkit.request_stats import REQUEST_STATS

logger: Final = logging.getLogger("projkit")

_MAX_ROUTE_LENGTH: Final = 200
# Headers with one value; Server-Timing is a list.
_SINGLE_HEADERS: Final = frozenset({b"x-process-time", b"x-request-id", b"traceresponse"})

# Returns the template of the route that matched, never a raw path.
RouteOf = Callable[[Scope], str]


class SafeRouteOf:
    """A ``route_of`` that never raises: ``__unknown__`` stands for errors and for values that are no route."""

    def __init__(self, route_of: RouteOf) -> None:
        self._route_of = route_of
        self._warned = False

    def __call__(self, scope: Scope) -> str:
        try:
            route: object = self._route_of(scope)
        except Exception as error:
            if not self._warned:
                self._warned = True
                logger.warning("route_of failed, requests are recorded as %s: %r", UNKNOWN_ROUTE, error)
            return UNKNOWN_ROUTE
        return route[:_MAX_ROUTE_LENGTH] if isinstance(route, str) and route else UNKNOWN_ROUTE


class _HostExchange(Exchange):
    """The timing of one of the host's requests.

    Attributes:
        on_start: is called before the response starts, when the host's instrumentation has started its trace.
        handled_by_kit: whether the request went to a kit mounted in the host, which times and records it itself.
    """

    __slots__ = ("detector", "handled_by_kit", "has_body", "on_start")

    def __init__(
        self,
        request_id: bytes,
        request_headers: Iterable[Header],
        receive: Receive,
        send: Send,
        *,
        has_body: bool,
        on_start: Callable[[], None],
    ) -> None:
        super().__init__(request_id, request_headers, receive, send)
        self.detector = DisconnectDetector(receive)
        self.on_start = on_start
        self.has_body = has_body
        self.handled_by_kit = False

    async def timed_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = dict(message)  # which gets other headers; the host may send its own message again
            if self.handled_by_kit:
                message["headers"] = _without_repetitions(message.get("headers", ()))
            else:
                self.on_start()
        if self.handled_by_kit:
            await self.send(message)
        else:
            await super().timed_send(message)

    async def watched_receive(self) -> Message:
        message = await self.detector.receive()
        if self.detector.disconnected and self.seconds < 0:
            self.disconnected = True  # after the response every server reports a disconnect
        return message

    def can_poll(self) -> bool:
        # A host that has read the complete body has sent 100 Continue, if the client waited for it.
        return (self.detector.complete or not self.has_body) and runs_on_asyncio()

    async def is_disconnected(self) -> bool:
        return await self.detector.is_disconnected()  # which keeps what it receives for the host

    def with_timing_headers(self, headers: Iterable[Header]) -> list[Header]:
        own = list(headers)
        values = {name.lower(): value for name, value in own}
        request_id = values.get(b"x-request-id")
        if request_id is not None and VALID_ID.fullmatch(request_id):
            self.request_id = request_id  # the client's id is also that of the log
        return [*own, *(pair for pair in super().with_timing_headers(()) if pair[0] not in values)]


class HostTimingMiddleware:
    """Middleware that times and records a host's requests, and records its WebSockets.

    Timing headers that the host sets itself are kept, and its request id appears in log lines. Requests to a kit that
    is mounted in the host are left to that kit. If the host has started a trace, log lines and exemplars show its id.
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
        self._route_of = SafeRouteOf(route_of)
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
        mark_handled_by_kit(scope)  # an outer middleware of this class leaves the request to this one

        def join_trace() -> None:
            scope[scope_keys.TRACE] = exchange.trace = exchange.trace or self._tracing.join(scope)

        has_body = may_have_body(scope, dict(scope["headers"]))
        exchange = _HostExchange(
            self._request_ids.get(scope),
            scope["headers"],
            receive,
            send,
            has_body=has_body,
            on_start=join_trace,
        )
        exchange.trace = self._tracing.join(scope)
        if exchange.trace is not None:
            exchange.stats.client_spans = exchange.trace.client_spans
        scope[scope_keys.REQUEST_ID] = exchange.request_id.decode()
        if self._observer.client_of is not None:
            scope[scope_keys.CLIENT_ADDRESS] = self._observer.client_of(scope)
        scope[scope_keys.HOST_EXCHANGE] = exchange
        scope[scope_keys.HOST_APP] = scope.get(scope_keys.APP)
        token = REQUEST_STATS.set(exchange.stats)
        self._observer.begin_request()
        try:
            await self._app(scope, exchange.watched_receive, exchange.timed_send)
            if not exchange.complete and exchange.seconds < 0:
                _set_failed(exchange)  # the server sends 500 for an app that sends no response
        except Exception as error:
            scope[scope_keys.ERROR_TYPE] = type(error).__name__
            _set_failed(exchange, scope[scope_keys.ERROR_TYPE])
            raise
        finally:
            exchange.detector.close()
            REQUEST_STATS.reset(token)
            self._observer.end_request()
            if not exchange.handled_by_kit:
                scope[scope_keys.REQUEST_ID] = exchange.request_id.decode()
                record_exchange(self._observer, scope, self._route_of(scope), exchange)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted_at = 0.0

        async def watched_send(message: Message) -> None:
            nonlocal accepted_at
            if message["type"] == "websocket.accept":
                accepted_at = perf_counter()
            await send(message)

        failed = False
        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            failed = True
            raise
        finally:
            outcome = "failed" if failed else "accepted" if accepted_at else "refused"
            seconds = perf_counter() - accepted_at if accepted_at else 0.0
            self._observer.record_websocket(self._route_of(scope), outcome, seconds)


def mark_handled_by_kit(scope: Scope) -> None:
    """Leave the timing and recording of a request to the kit: the host's middleware then does neither."""
    exchange = scope.get(scope_keys.HOST_EXCHANGE)
    if exchange is not None:
        exchange.handled_by_kit = True


def _without_repetitions(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of a kit's response without those that the host's middleware has added a second time.

    The kit's come first. Its request id is also in its problem documents and log lines.
    """
    seen: set[bytes] = set()
    kept: list[Header] = []
    for header in headers:
        name = header[0].lower()
        if name in seen:
            continue
        if name in _SINGLE_HEADERS:
            seen.add(name)
        kept.append(header)
    return kept


def _set_failed(exchange: _HostExchange, error_type: str | None = None) -> None:
    """Set the status that the server sends after an exception, or without a response: 500 unless disconnected."""
    if exchange.complete:  # a background task has failed, after the response
        return
    if exchange.trace is not None and error_type is not None:
        exchange.trace.set_error(error_type)
    if not exchange.disconnected:
        exchange.status = 500
        exchange.seconds = exchange.duration
